"""The quick version of every benchmark, one after another, then the README's tables. Under 30 minutes on 2 cores.

    python benchmarks/quick.py             # what `make bench` runs
    python benchmarks/quick.py scale loss  # these alone

A script whose peers are not installed says so and measures its own part. What is as good short as long (times of
analysis and sampling) replaces the stored results of this machine; the rest goes to results/quick/, since fewer
repetitions and smaller sizes would be worse evidence than what is stored.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from hardware import RESULTS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KEPT = {  # replaces the stored results
    "analysis": ["--rounds", "3"],
    "sampling": ["--rounds", "3", "--prompt-lengths", "8", "64", "256"],
}
QUICK = {  # goes to results/quick/
    "loss": ["--quick"],
    "executor": ["--rounds", "1", "-n", "64"],
    "scoring": ["--rounds", "1"],
    "training": ["--steps", "4", "--rounds", "1"],
    "scale": ["--prompts", "1000,2000,4000"],
    "gate_calibration": ["--repetitions", "300"],
    "objective_study": ["--quick"],
    "interval_calibration": ["--repetitions", "100"],
}
EACH = 900  # seconds that one script may take before the next one's turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join([*KEPT, *QUICK])}; all by default")
    names = parser.parse_args().names or [*KEPT, *QUICK]
    unknown = sorted(set(names).difference(KEPT, QUICK))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join([*KEPT, *QUICK])}")
    told = {name: run(name) for name in names}
    subprocess.run([sys.executable, str(HERE / "readme.py"), "--tables"], check=True, env=environment(RESULTS))
    print("\n".join(f"{name:22}{outcome}" for name, outcome in told.items()))
    if any(outcome.startswith("failed") for outcome in told.values()):
        raise SystemExit(1)


def run(name: str) -> str:
    """Run one script and tell how it went; the others have their turn in any case."""
    script = HERE / f"{name}.py"
    if not script.exists():
        return "not in this checkout"
    folder = RESULTS if name in KEPT else RESULTS / "quick"
    folder.mkdir(exist_ok=True)
    print(f"== {name}", flush=True)
    started = time.perf_counter()
    command = [sys.executable, str(script), *{**KEPT, **QUICK}[name]]
    try:
        code = subprocess.run(command, cwd=ROOT, env=environment(folder), timeout=EACH, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"failed: not done after {EACH} s"
    return f"{time.perf_counter() - started:.0f} s" if code == 0 else f"failed: exit code {code}"


def environment(results: Path) -> dict[str, str]:
    """This checkout first on the path, one thread a process, results into a folder."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "BENCHMARK_RESULTS": str(results)}


if __name__ == "__main__":
    main()
