"""Time and memory of every stage at three sizes, from the command line: do they grow as the work does?

    python benchmarks/growth.py [--prompts 250,500,1000] [--samples 64]

One embedded student and its teacher on graph_paths. Each stage is a process of its own, with its start; seconds of CPU
and peak resident memory are those that the kernel tells. Writes results/growth_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hardware import hardware, result_path

from odeval.atomic import write_json
from odeval.provenance import provenance

RUN = "import sys; from odeval.cli import run; sys.exit(run(sys.argv[1:]))"


def measured(command: list[str], folder: Path) -> dict[str, Any]:
    """Run a command of odeval, and ask the kernel what it took."""
    process = subprocess.Popen([sys.executable, "-c", RUN, *command], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # 1 is a verdict
        raise SystemExit(f"odeval {' '.join(command)}: exit code {process.returncode}")
    return {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}


def stages(prompts: int, samples: int) -> dict[str, list[str]]:
    asked = ["--task", "graph_paths", "--limit", str(prompts), "-n", str(samples), "--quiet"]
    student, teacher = "embedded:graph_paths/reverse_kl", "embedded:graph_paths/teacher"
    return {
        "sample, teacher": ["sample", teacher, *asked, "--out", "teacher"],
        "sample": ["sample", student, *asked, "--out", "student"],
        "grade, teacher": ["grade", "teacher", "--quiet"],
        "grade": ["grade", "student", "--quiet"],
        "score": ["score", "student", "--teacher-run", "teacher", "--quiet"],
        "compare": ["compare", "student", "--teacher", "teacher", "--out", "comparison.json"],
        "gate and report": ["gate", "student", "--teacher", "teacher", "--out", "report"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="250,500,1000")
    parser.add_argument("--samples", type=int, default=64)
    arguments = parser.parse_args()
    rows = []
    for prompts in map(int, arguments.prompts.split(",")):
        with tempfile.TemporaryDirectory() as name:
            for stage, command in stages(prompts, arguments.samples).items():
                found = measured(command, Path(name))
                if "teacher" not in stage:
                    rows.append({"stage": stage, "prompts": prompts, **found})
                    print(
                        f"{stage:16} {prompts:6} {found['cpu_seconds']:6.1f} CPU s {found['peak_mb']:6.0f} MB",
                        flush=True,
                    )
    setting = {"samples": arguments.samples, "world": "graph_paths", "hardware": hardware()}
    write_json(result_path("growth"), {"what": __doc__, "setting": setting, "rows": rows, "provenance": provenance()})
    print(result_path("growth"))


if __name__ == "__main__":
    main()
