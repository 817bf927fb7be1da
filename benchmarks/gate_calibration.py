"""How often does the gate cry wolf, and what does it see? Simulated runs of known truth, judged by the gate's own code.

Solve rates are 15 % zeros, 10 % at .995, the rest Beta(.7, 1); a collapse sharpens them, logit p → γ · logit p. Every
repetition draws fresh prompts, baseline counts and candidate counts. Writes
results/gate_calibration_<hardware>_<yyyymm>.json and prints the table that the README quotes.

    python benchmarks/gate_calibration.py [--repetitions 2000] [--seed 0] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from hardware import result_path
from scipy import special

from odeval import stats
from odeval.atomic import write_json
from odeval.bounds import Levels, judged_curve
from odeval.config import RuleConfig
from odeval.curves import SCOPES, Counts, paired_curve
from odeval.gate import decide
from odeval.plan import evaluate, typical_rates
from odeval.provenance import provenance
from odeval.rules import parse_rule

DESIGNS = [(50, 16), (50, 64), (100, 16), (100, 32), (200, 16), (200, 32), (200, 64), (500, 32)]
GAMMAS = (1.0, 1.25, 1.5, 2.0)
MARGINS = (0.0, 0.03)
ALPHA = 0.05


def solve_rates(prompts: int, generator: np.random.Generator) -> np.ndarray:
    kind = generator.random(prompts)
    return np.where(kind < 0.15, 0.0, np.where(kind < 0.25, 0.995, generator.beta(0.7, 1.0, prompts)))


def simulate(task: tuple[int, int, float, int, int]) -> dict[str, object]:
    """One design and one truth: how often each scope and margin gives each verdict."""
    prompts, n, gamma, repetitions, seed = task
    generator = np.random.default_rng([seed, prompts, n, round(100 * gamma)])
    stats._DRAWS = 4000  # of the sup-t critical value; its noise averages out over repetitions
    ks = [2**i for i in range(int(np.log2(n // 2)) + 1)]
    rules = {margin: parse_rule(RuleConfig(rule=f"pass@k.delta >= {-margin}")) for margin in MARGINS}
    tally = {f"{scope} {margin}": {"FAIL": 0, "PASS": 0, "INCONCLUSIVE": 0} for scope in SCOPES for margin in MARGINS}
    drops = np.zeros(len(ks))
    for _ in range(repetitions):
        rates = solve_rates(prompts, generator)
        after = special.expit(gamma * special.logit(rates))
        runs = [Counts(np.full(prompts, n), generator.binomial(n, p)) for p in (rates, after)]
        drops += ((1 - after[:, None]) ** ks - (1 - rates[:, None]) ** ks).mean(0)
        curve = paired_curve(*runs, ks)
        for scope in SCOPES:
            for margin, rule in rules.items():
                found = judged_curve(
                    curve.difference, curve.scopes[scope], curve.ks, rule, Levels(ALPHA, ALPHA), prompts
                )
                tally[f"{scope} {margin}"][decide(rule, found)[0]] += 1
    row: dict[str, object] = {
        "prompts": prompts,
        "samples": n,
        "gamma": gamma,
        "worst_drop": float(drops.max() / repetitions),
    }
    row |= {key: {verdict: count / repetitions for verdict, count in found.items()} for key, found in tally.items()}
    if gamma == 1.0:
        planned = evaluate(typical_rates(), prompts, n)
        row["planned_pass"] = planned.passes
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    started = time.perf_counter()
    tasks = [(p, n, gamma, options.repetitions, options.seed) for p, n in DESIGNS for gamma in GAMMAS]
    with Pool(options.processes) as pool:
        rows = pool.map(simulate, tasks, chunksize=1)
    print("prompts × samples | true worst drop | population: FAIL/PASS at margin 3 | at margin 0 | benchmark: the same")
    for row in rows:
        cells = [
            "/".join(f"{row[f'{scope} 0.03'][v]:.3f}" for v in ("FAIL", "PASS"))
            + f" | {row[f'{scope} 0.0']['FAIL']:.3f}"
            for scope in ("population", "benchmark")
        ]
        print(f"{row['prompts']:4} × {row['samples']:3} | {100 * row['worst_drop']:5.1f} | " + " | ".join(cells))
    out = options.out or result_path("gate_calibration")
    seconds = round(time.perf_counter() - started, 1)
    settings = {"alpha": ALPHA, "repetitions": options.repetitions, "seed": options.seed, "seconds": seconds}
    write_json(out, {"settings": settings, "rows": rows, "provenance": provenance()})
    print(out)


if __name__ == "__main__":
    main()
