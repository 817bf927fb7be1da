"""What analysis costs: intervals of whole curves at scale, and the command line from two counts files to a report.

    python benchmarks/analysis.py [--rounds 5] [--out FILE]

Writes results/analysis_<hardware>_<yyyymm>.json: seconds as minimum and median over rounds, one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from hardware import hardware, result_path

from odeval import stats
from odeval.atomic import write_json
from odeval.curves import SCOPES, Counts, paired_curve
from odeval.metrics.passk import pass_at_k
from odeval.provenance import provenance

NUM_SAMPLES = 64


def timed(work: Callable[[], object], rounds: int) -> dict[str, float]:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return {"min": min(seconds), "median": median(seconds)}


def draw(prompts: int, seed: int) -> Counts:
    generator = np.random.default_rng(seed)
    n = np.full(prompts, NUM_SAMPLES)
    return Counts(n, generator.binomial(n, generator.beta(0.7, 1.0, prompts)))


def curve_rows(rounds: int) -> list[dict[str, object]]:
    """The paired curve at every k with the simultaneous band of each scope."""
    rows = []
    for prompts in (1_000, 10_000, 100_000):
        base, cand = draw(prompts, 0), draw(prompts, 1)

        def work(base: Counts = base, cand: Counts = cand) -> None:
            curve = paired_curve(base, cand, list(range(1, NUM_SAMPLES + 1)))
            for scope in SCOPES:
                curve.band(scope, 0.95)

        rows.append({
            "what": "paired curve and simultaneous bands, both scopes", "prompts": prompts, "ks": NUM_SAMPLES,
            "draws_of_the_process": stats._DRAWS, "seconds": timed(work, rounds),
        })  # fmt: skip
    n = np.full(100_000, 1024)
    c = np.random.default_rng(0).integers(0, 1025, 100_000)
    rows.append({
        "what": "pass@k table, n 1024, k all powers of two", "prompts": 100_000, "ks": 11,
        "seconds": timed(lambda: pass_at_k(n, c, [2**i for i in range(11)]), rounds),
    })  # fmt: skip
    return rows


def command_rows(rounds: int) -> list[dict[str, object]]:
    """Whole processes, start of Python included."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for prompts in (200, 10_000):
            for name, seed in (("base", 0), ("cand", 1)):
                counts = draw(prompts, seed)
                lines = (json.dumps({"id": f"q{i}", "n": int(a), "c": int(b)}) for i, (a, b) in
                         enumerate(zip(counts.n, counts.c, strict=True)))  # fmt: skip
                (folder / f"{name}.jsonl").write_text("\n".join(lines))
            for arguments in (
                ["compare", "base.jsonl", "cand.jsonl"],
                ["gate", "cand.jsonl", "--baseline", "base.jsonl", "--out", "out"],
            ):
                code = "import sys; from odeval.cli import run; run(sys.argv[1:]); assert 'torch' not in sys.modules"

                def work(arguments: list[str] = arguments, code: str = code) -> None:
                    subprocess.run(
                        [sys.executable, "-c", code, *arguments], cwd=folder, check=True, capture_output=True
                    )

                rows.append(
                    {"what": f"odeval {' '.join(arguments)}", "prompts": prompts, "seconds": timed(work, rounds)}
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    rows = curve_rows(options.rounds) + command_rows(options.rounds)
    for row in rows:
        print(f"{row['seconds']['median']:7.2f} s  {row['prompts']:7,} prompts  {row['what']}")
    out = options.out or result_path("analysis")
    write_json(out, {"hardware": hardware(), "rounds": options.rounds, "rows": rows, "provenance": provenance()})
    print(out)


if __name__ == "__main__":
    main()
