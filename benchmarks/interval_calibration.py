"""Do intervals cover what they claim? Simulated runs of known truth through odeval's code. Writes reports/calibration.

    python benchmarks/interval_calibration.py [--repetitions 1500] [--seed 0]    # minutes on one core
    python benchmarks/interval_calibration.py --report-only

Three parts: intervals of ratios, which is what every metric is (populations of prompts of which the true ratio is
known in closed form); bands of paired pass@k curves in both scopes, against exact truth from closed forms and from the
embedded Countdown models, whose solve rates are known by enumeration; and the power that `plan` promises against what
the gate then does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calibration_report
import numpy as np
from gate_calibration import solve_rates
from hardware import RESULTS, hardware, result_path
from objective_measure import crossed

from odeval import stats
from odeval.atomic import write_json
from odeval.bounds import Levels, judged_curve
from odeval.config import RuleConfig
from odeval.curves import SCOPES, Counts, curve_per_prompt, paired_curve
from odeval.gate import decide
from odeval.metrics.reliability import g_pass_at_k, pass_hat_k
from odeval.plan import evaluate, sharpened, typical_rates
from odeval.provenance import provenance
from odeval.rules import parse_rule
from odeval.stats import estimate, linearise
from odeval.types import PerPrompt

REPORT = RESULTS.parent.parent / "reports" / "calibration" / "README.md"
SIZES = (20, 50, 200, 1000)
DESIGNS = ((50, 16), (100, 32), (200, 32))
PLANNED = ((100, 32), (200, 32), (500, 32))
CONFIDENCE = 0.95
Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]  # size → numerators, denominators


def tokens(size: int, generator: np.random.Generator) -> np.ndarray:
    """Tokens of a prompt's completions: 200 on average, heavy-tailed."""
    return np.maximum(1, generator.gamma(1.5, 200 / 1.5, size)).astype(int)


def kept(size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A share whose rate falls with the denominator, as retention might on long answers: rate .9 or .5."""
    long = generator.random(size) < 0.3
    total = 1 + generator.poisson(np.where(long, 40, 8))
    return generator.binomial(total, generator.beta(np.where(long, 5, 9), np.where(long, 5, 1))).astype(float), total


def entropy_like(size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A mean over tokens: nats, skewed, each prompt with a level of its own (mean .4)."""
    total = tokens(size, generator)
    return generator.gamma(total * 0.5, 1.0) * generator.gamma(2.0, 0.4, size), total


def rare(size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A rare event: a share of 0.002 of tokens, in a tenth of the prompts."""
    total = tokens(size, generator)
    rate = np.where(generator.random(size) < 0.1, 0.02, 0.0)
    return generator.binomial(total, rate).astype(float), total


RATIOS: dict[str, tuple[Draw, float]] = {  # with the true ratio E[numerator] / E[denominator]
    "share, rate depends on length": (kept, (0.3 * 41 * 0.5 + 0.7 * 9 * 0.9) / (0.3 * 41 + 0.7 * 9)),
    "mean of a skewed quantity": (entropy_like, 0.5 * 0.8),
    "rare event": (rare, 0.002),
}


def in_groups(draw: Draw, prompts: int, generator: np.random.Generator, group: int = 5) -> list[np.ndarray]:
    """Five prompts that share one draw, as paraphrases would: numerators, denominators, cluster of each."""
    numerator, denominator = draw(prompts // group, generator)
    return [np.repeat(numerator, group), np.repeat(denominator, group), np.repeat(np.arange(prompts // group), group)]


def ratios(repetitions: int, seed: int) -> list[dict[str, Any]]:
    """Coverage of the interval of a ratio, of a paired difference and of a paired ratio of two."""
    rows = []
    for name, (draw, truth) in RATIOS.items():
        for prompts in SIZES:
            generator = np.random.default_rng([seed, prompts])
            hits = {"value": 0, "clustered": 0, "paired difference": 0, "paired ratio": 0}
            told = dict.fromkeys(hits, 0)
            top = np.inf if name.startswith("mean") else 1.0
            reach = dict.fromkeys(hits, (0.0, top)) | {"paired difference": (-top, top), "paired ratio": (0.0, np.inf)}
            ids = np.array([str(i) for i in range(prompts)])
            for _ in range(repetitions):
                numerator, denominator = draw(prompts, generator)
                own = linearise(PerPrompt(ids, numerator, denominator), ids)
                other = linearise(PerPrompt(ids, numerator * generator.beta(5, 5, prompts), denominator), ids)
                together = in_groups(draw, prompts, generator)
                grouped = linearise(PerPrompt(ids, together[0], together[1]), ids, together[2])
                cases = {
                    "value": (own, truth),
                    "clustered": (grouped, truth),
                    "paired difference": (other.minus(own), -truth / 2),  # the other keeps half, on average
                    "paired ratio": (other.over(own), 0.5),
                }
                for case, (line, goal) in cases.items():
                    found = estimate(line, CONFIDENCE, reach[case])[0]
                    if np.isfinite(found.low):
                        told[case] += 1
                        hits[case] += bool(found.low <= goal <= found.high)
            for case, count in hits.items():
                if told[case]:
                    rows.append({"metric": name, "interval": case, "prompts": prompts, "covered": count / told[case],
                                 "told": told[case] / repetitions})  # fmt: skip
    return rows


def single_curves(repetitions: int, seed: int) -> list[dict[str, Any]]:
    """Coverage of the intervals of one run's pass@k, pass^k and G-Pass@k, over populations of known solve rates."""
    nodes = solve_rates(400_000, np.random.default_rng(seed))
    rows = []
    for prompts, n in DESIGNS:
        k, generator = n // 2, np.random.default_rng([seed, prompts, n])
        sizes = np.full(prompts, n)
        ids = np.array([str(i) for i in range(prompts)])
        half = np.mean([(generator.binomial(k, nodes) >= k / 2).mean() for _ in range(20)])
        truths = {"pass@k": 1 - ((1 - nodes) ** k).mean(), "pass^k": (nodes**k).mean(), "G-Pass@k": half}
        hits = dict.fromkeys(truths, 0)
        for _ in range(repetitions):
            counts = Counts(sizes, generator.binomial(n, solve_rates(prompts, generator)))
            curves = {
                "pass@k": curve_per_prompt(counts, ids, [k]),
                "pass^k": PerPrompt(ids, pass_hat_k(sizes, counts.c, [k])[:, 0], np.ones(prompts)),
                "G-Pass@k": PerPrompt(ids, g_pass_at_k(sizes, counts.c, [k], 0.5)[:, 0], np.ones(prompts)),
            }
            for name, metric in curves.items():
                found = estimate(linearise(metric, ids), CONFIDENCE, (0.0, 1.0))[0]
                hits[name] += bool(found.low <= truths[name] <= found.high)
        rows += [{"metric": name, "prompts": prompts, "samples": n, "k": k, "covered": count / repetitions}
                 for name, count in hits.items()]  # fmt: skip
    return rows


def countdown_rates() -> np.ndarray:
    """[2, P] exact solve rates of the embedded Countdown start and of its reverse-KL student, by enumeration."""
    from objective_measure import enumeration

    from odeval import testbed

    models = [testbed.checkpoint("countdown", model) for model in ("warm_start", "reverse_kl")]
    found = [enumeration("countdown", model, "heldout") for model in models]
    return np.array([np.clip(one.per_prompt(one.probability), 0.0, 1.0) for one in found])


def bands(repetitions: int, seed: int) -> list[dict[str, Any]]:
    """Coverage of paired pass@k bands: of the whole curve at once, and of the worst single k."""
    world = countdown_rates()

    def simulated(prompts: int, gamma: float, generator: np.random.Generator) -> np.ndarray:
        rates = solve_rates(prompts, generator)
        return np.array([rates, sharpened(rates, gamma)])

    def enumerated(prompts: int, gamma: float, generator: np.random.Generator) -> np.ndarray:
        return world[:, generator.integers(world.shape[1], size=prompts)]

    rows = []
    for source, draw, gammas in (("closed form", simulated, (1.0, 1.5)), ("Countdown", enumerated, (1.0,))):
        for prompts, n in DESIGNS:
            for gamma in gammas:
                generator = np.random.default_rng([seed, prompts, n, round(10 * gamma)])
                ks = np.array([2**i for i in range(int(np.log2(n // 2)) + 1)])
                many = draw(400_000, gamma, generator) if source == "closed form" else world
                truth = np.mean((1 - many[0][:, None]) ** ks - (1 - many[1][:, None]) ** ks, axis=0)
                whole = dict.fromkeys(SCOPES, 0)
                single = {scope: np.zeros(len(ks)) for scope in SCOPES}
                for _ in range(repetitions):
                    rates = draw(prompts, gamma, generator)
                    curve = paired_curve(*(Counts(np.full(prompts, n), generator.binomial(n, p)) for p in rates), ks)
                    own = np.mean((1 - rates[0][:, None]) ** ks - (1 - rates[1][:, None]) ** ks, axis=0)
                    for scope, goal in (("benchmark", own), ("population", truth)):
                        low, high = curve.band(scope, CONFIDENCE)
                        whole[scope] += bool(((low <= goal) & (goal <= high)).all())
                        reach = curve.scopes[scope].half_width(CONFIDENCE, simultaneous=False)
                        single[scope] += np.abs(curve.difference - goal) <= reach
                rows += [
                    {"source": source, "prompts": prompts, "samples": n, "gamma": gamma, "scope": scope,
                     "drop": float(-truth.min()), "whole": whole[scope] / repetitions,
                     "single_lowest": float(single[scope].min() / repetitions),
                     "single_mean": float(single[scope].mean() / repetitions)}
                    for scope in SCOPES
                ]  # fmt: skip
    return rows


def over_seeds(repetitions: int, seed: int) -> list[dict[str, Any]]:
    """Coverage of the objective study's interval over training seeds and prompts together."""
    rows = []
    for seeds in (2, 3, 5):
        for spread in (0.0, 0.005, 0.02):
            generator = np.random.default_rng([seed, seeds, round(1000 * spread)])
            hits = 0
            for _ in range(repetitions):
                change = generator.normal(0, 0.3, (seeds, 300)) + generator.normal(0, 0.2, 300)
                _, low, high = crossed(change + generator.normal(0, spread, (seeds, 1)))
                hits += bool(low <= 0 <= high)
            rows.append({"seeds": seeds, "spread": spread, "covered": hits / repetitions})
    return rows


def planned(repetitions: int, seed: int) -> list[dict[str, Any]]:
    """What the gate does where `plan` promises 80% power, and where nothing changed."""
    rule = parse_rule(RuleConfig(rule="pass@k.delta >= -0.03"))
    rows = []
    for prompts, n in PLANNED:
        design = evaluate(typical_rates(), prompts, n)
        ks = [2**i for i in range(int(np.log2(n // 2)) + 1)]
        gamma = gamma_of(design.detectable, ks)
        generator = np.random.default_rng([seed, prompts, n])
        seen = {}
        for case, strength in (("unchanged", 1.0), ("detectable", gamma)):
            verdicts = {"FAIL": 0, "PASS": 0, "INCONCLUSIVE": 0}
            for _ in range(repetitions):
                rates = solve_rates(prompts, generator)
                both = (rates, sharpened(rates, strength))
                runs = [Counts(np.full(prompts, n), generator.binomial(n, p)) for p in both]
                curve = paired_curve(*runs, ks)
                found = judged_curve(
                    curve.difference, curve.scopes["population"], curve.ks, rule, Levels(0.05, 0.05), prompts
                )
                verdicts[decide(rule, found)[0]] += 1
            seen[case] = {verdict: count / repetitions for verdict, count in verdicts.items()}
        rows.append({"prompts": prompts, "samples": n, "drop": design.detectable, "planned_pass": design.passes,
                     "planned_power": 0.8, **seen})  # fmt: skip
    return rows


def gamma_of(drop: float, ks: list[int]) -> float:
    """The sharpening whose worst k loses this much on a typical benchmark; by bisection."""
    rates, low, high = typical_rates(), 1.0, 64.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        moved = ((1 - sharpened(rates, middle)[:, None]) ** ks - (1 - rates[:, None]) ** ks).mean(0).max()
        low, high = (low, middle) if moved >= drop else (middle, high)
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report-only", action="store_true", help="render the report from the newest results")
    parser.add_argument("--out", type=Path, help="results file; then the report is left alone")
    options = parser.parse_args()
    if not options.report_only:
        stats._DRAWS = 4000  # of the sup-t critical value; its noise averages out over repetitions
        started, repetitions, seed = time.perf_counter(), options.repetitions, options.seed
        found = {
            "ratios": ratios(repetitions, seed), "curves": single_curves(repetitions, seed),
            "bands": bands(repetitions, seed), "over_seeds": over_seeds(repetitions, seed),
            "plan": planned(max(repetitions // 2, 10), seed),
        }  # fmt: skip
        setting = {"repetitions": repetitions, "seed": seed, "confidence": CONFIDENCE, "hardware": hardware(),
                   "seconds": round(time.perf_counter() - started, 1)}  # fmt: skip
        path = options.out or result_path("interval_calibration")
        made = {**provenance(), "command": "python benchmarks/interval_calibration.py"}
        write_json(path, {"setting": setting, **found, "provenance": made})
        print(path)
    if options.out is None:
        print(calibration_report.write(RESULTS, REPORT))


if __name__ == "__main__":
    main()
