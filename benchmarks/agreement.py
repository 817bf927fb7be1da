"""Do the numbers agree with those of other packages, on the same inputs? And how long does a comparison take?

Each package runs in an interpreter of its own, so nothing of it is a dependency here. `--environments` prints the
commands that make them all; then

    python benchmarks/agreement.py --peer scorio=peers/scorio/bin/python --core peers/core/bin/python

with a `--peer` for each. `--core` is an environment with odeval's core dependencies and without torch, in which the
wall time is taken. The result goes to benchmarks/results/agreement_<hardware>_<yyyymm>.json, what it says to
reports/agreement/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import agreement_intervals as intervals
import agreement_report
import numpy as np
from agreement_causes import CAUSES, OWN
from agreement_fixtures import Quantity, quantities, simulated
from agreement_odeval import ours
from agreement_peers import PEERS, ask, environments
from agreement_truth import truth
from hardware import hardware, result_path

from odeval.atomic import write_json
from odeval.provenance import provenance

ROOT = Path(__file__).parent.parent


def gap(found: Any, expected: Any, relative: bool) -> float:
    """Largest difference of one case; infinite where one has a number and the other none, or an error."""
    if expected is None and (found is None or isinstance(found, str)):
        return 0.0
    if found is None or isinstance(found, str) or expected is None:
        return math.inf
    a, b = (np.atleast_1d(np.array(x, dtype=float)) for x in (found, expected))
    if not (np.isfinite(a) == np.isfinite(b)).all():
        return math.inf
    over = float(np.abs(b).max()) if relative else 1.0
    return float(np.abs(a - b).max()) / over


def worst(found: Sequence[Any], expected: Sequence[Any], quantity: Quantity) -> float | None:
    """The largest difference over all cases; null where it is infinite."""
    value = max(gap(a, b, quantity.relative) for a, b in zip(found, expected, strict=True))
    return value if math.isfinite(value) else None


def row(name: str, via: str, answers: list[Any], known: dict[str, Any], cause: Any) -> dict[str, Any]:
    """Compare one function of a package with us and with the exact answers."""
    quantity, mine, exact = known["asked"], known["odeval"], known["exact"]
    errors = sorted({answer for answer in answers if isinstance(answer, str)})
    found: dict[str, Any] = {
        "quantity": name, "via": via, "cases": len(answers), "relative": quantity.relative,
        "tolerance": quantity.tolerance, "difference": worst(answers, mine, quantity),
        "error_of_peer": worst(answers, exact, quantity), "error_of_odeval": worst(mine, exact, quantity),
        "raised": errors, "nothing": sum(answer is None for answer in answers),
        "off": sum(gap(a, b, quantity.relative) > quantity.tolerance for a, b in zip(answers, mine, strict=True)),
        "sizes": sizes(exact), "negative": sum(isinstance(answer, float) and answer < 0 for answer in answers),
    }  # fmt: skip
    if cause is not None:
        told, formula = cause
        found["cause"] = {"what": told, "left": worst(answers, [formula(*case) for case in quantity.cases], quantity)}
    return found


def sizes(exact: list[Any]) -> list[float]:
    """Smallest and largest exact value of all cases, of a vector its largest."""
    values = [float(np.abs(np.atleast_1d(one)).max()) for one in exact if one is not None]
    return [min(values), max(values)] if values else []


def answered(function: Callable[..., Any], quantity: Quantity) -> list[Any]:
    return [function(*case) for case in quantity.cases]


def agreement(chosen: dict[str, str]) -> dict[str, Any]:
    """Ask every package and compare."""
    asked = quantities()
    known = {
        name: {"asked": q, "odeval": answered(ours(name), q), "exact": answered(truth(name), q)}
        for name, q in asked.items()
    }
    cases = {**{name: quantity.cases for name, quantity in asked.items()}, **intervals.asked()}
    peers: dict[str, Any] = {}
    for label, python in chosen.items():
        found = ask(label, python, cases)
        rows: list[dict[str, Any]] = []
        bands: list[dict[str, Any]] = []
        for name, via, answers in found["answers"]:
            if name in asked:
                rows.append(row(name, via, answers, known[name], CAUSES.get((label, via, name))))
            elif name == "other prompts":
                bands += [{"what": name, "via": via, **one} for one in intervals.other_prompts(answers)]
            else:
                ks, rates = cases[name][0][3], "uniform" if "uniform" in name else "from 0 to 1"
                told = intervals.same_prompts(answers, ks, rates, "avg" not in via)
                bands += [{"what": "same prompts", "via": via, **one} for one in told]
        peers[label] = {"version": found["version"], "rows": rows, "intervals": bands}
        print(label, found["version"], f"{len(rows)} rows, {len(bands)} intervals", flush=True)
    reached = {name for peer in peers.values() for name in (one["quantity"] for one in peer["rows"])}
    alone = [
        {
            "quantity": name,
            "cases": len(one["odeval"]),
            "error_of_odeval": worst(one["odeval"], one["exact"], one["asked"]),
        }
        for name, one in known.items()
        if name not in reached
    ]
    own = [
        {
            "quantity": name,
            "how": how,
            "error": worst(answered(formula, asked[name]), known[name]["exact"], asked[name]),
        }
        for name, formulas in OWN.items()
        for how, formula in formulas.items()
    ]
    return {"peers": peers, "no_peer": alone, "own": own}


def write_counts(path: Path, n: int, counts: list[int]) -> Path:
    lines = (json.dumps({"id": f"p{i}", "n": n, "c": c}) for i, c in enumerate(counts))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def wall_time(python: str, folder: Path, repeats: int = 5) -> dict[str, Any]:
    """Seconds of `odeval compare` on two counts files, in a process of its own, where torch cannot be imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    probe = subprocess.run([python, "-c", "import torch"], capture_output=True, env=environment)
    if probe.returncode == 0:
        raise SystemExit(f"{python}: torch is installed there; give an environment with the core dependencies only")
    result: dict[str, Any] = {"torch": "not installed", "repeats": repeats, "load_before": os.getloadavg()[0]}
    for prompts, n in ((500, 64), (5000, 256)):
        rates = simulated(prompts, 7)[2]
        counts = np.random.default_rng(7).binomial(n, rates).tolist()
        files = [str(write_counts(folder / f"t{i}.jsonl", n, counts[i])) for i in (0, 1)]
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
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=", ".join(PEERS))
    parser.add_argument("--core", metavar="PYTHON", help="interpreter with the core dependencies and no torch")
    parser.add_argument("--environments", action="store_true", help="print how to make the interpreters, and stop")
    parser.add_argument("--out", type=Path, help="the result; benchmarks/results/agreement_HARDWARE_YYYYMM.json")
    arguments = parser.parse_args()
    if arguments.environments:
        print(environments())
        return
    chosen = {}
    for told in arguments.peer:
        label, _, python = told.partition("=")
        if label not in PEERS or not python:
            parser.error(f"--peer {told}: expected NAME=PYTHON with NAME one of {', '.join(PEERS)}")
        chosen[label] = python
    started = time.perf_counter()
    found = agreement(chosen)
    with tempfile.TemporaryDirectory() as name:
        found["wall_time"] = wall_time(arguments.core, Path(name)) if arguments.core else None
    setting = {"hardware": hardware(), "seconds": round(time.perf_counter() - started)}
    out = arguments.out or result_path("agreement")
    made = {**provenance(), "command": " ".join(["python benchmarks/agreement.py", *sys.argv[1:]])}
    write_json(out, {"what": __doc__, **found, "setting": setting, "provenance": made})
    print(out)
    if arguments.out is None:
        print(agreement_report.write(out.parent, ROOT / "reports" / "agreement" / "README.md"))


if __name__ == "__main__":
    main()
