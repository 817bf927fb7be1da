"""The joint region of the trade-off: against a naive twin, and simultaneous as it claims."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from odeval.curves import Counts, paired_curve
from odeval.pairing import plain
from odeval.tradeoff import tradeoff

KS = [1, 2, 4, 8]


def made(role: str, label: str, counts: np.ndarray, n: int) -> tuple[dict[str, Any], np.ndarray]:
    """A run as a comparison holds it, and pass@k of each prompt [P, K] by the textbook."""
    each = np.array([[1 - comb(n - int(c), k) / comb(n, k) for k in KS] for c in counts])
    return {"label": label, "role": role, "pass_at_k": {"k": KS, "value": plain(each.mean(0))}}, each


def pair_of(
    role: str, reference: dict[str, Any], run: dict[str, Any], counts: list[np.ndarray], n: int
) -> dict[str, Any]:
    """A pair as a comparison holds it, as far as the trade-off reads it."""
    curve = paired_curve(*(Counts(np.full(len(c), n), c) for c in counts), KS)
    judged = [j for j, k in enumerate(KS) if k <= n // 2]
    scopes = {}
    for name, scope in curve.scopes.items():
        own = scope.at(judged)
        told = {key: plain(getattr(own, key)) for key in ("covariance", "degrees", "trials", "scale")}
        scopes[name] = {"judged": {"k": [KS[j] for j in judged], **told}}
    return {"role": role, "baseline": reference["label"], "candidate": run["label"],
            "pass_at_k": {"k": KS, "difference": plain(curve.difference), **scopes}}  # fmt: skip


@pytest.mark.parametrize("candidates", [1, 4])
def test_region_agrees_with_a_naive_twin(candidates: int) -> None:
    generator, n, prompts = np.random.default_rng(4), 16, 150
    rates = generator.beta(1, 1, prompts)
    base, own = generator.binomial(n, rates), generator.binomial(n, np.clip(rates * 1.1, 0, 1) ** 1.3)
    reference, low = made("baseline", "start", base, n)
    run, high = made("candidate", "new", own, n)
    others = [{**run, "label": f"other {i}"} for i in range(candidates - 1)]
    found = tradeoff([reference, run, *others], [pair_of("baseline", reference, run, [base, own], n)], 0.95)
    (point,) = found["points"]
    change = (high - low)[:, [0, 3]]
    level = 1 - 0.05 / candidates
    correlation = np.corrcoef(change.T)
    joint = stats.multivariate_normal(np.zeros(2), correlation)

    def outside(q: float) -> float:
        return float(joint.cdf([q, q], lower_limit=[-q, -q])) - level

    critical = stats.t.ppf(stats.norm.cdf(optimize.brentq(outside, 1, 6)), prompts - 1)
    half = critical * change.std(0, ddof=1) / np.sqrt(prompts)
    assert point["k"] == [1, 8]
    assert point["difference"] == pytest.approx(change.mean(0), abs=1e-12)
    box = point["population"]
    assert np.add(box["high"], box["low"]) / 2 == pytest.approx(change.mean(0), abs=1e-12)
    assert np.subtract(box["high"], box["low"]) / 2 == pytest.approx(half, rel=0.01)


def test_all_boxes_hold_together() -> None:
    generator, n, prompts, draws = np.random.default_rng(7), 8, 60, 120
    rates = generator.beta(2, 1, prompts)
    missed = 0
    for _ in range(draws):
        base = generator.binomial(n, rates)
        reference, _ = made("baseline", "start", base, n)
        runs, pairs = [reference], []
        for i in range(3):
            own = generator.binomial(n, rates)
            run, _ = made("candidate", str(i), own, n)
            runs.append(run)
            pairs.append(pair_of("baseline", reference, run, [base, own], n))
        boxes = [point["benchmark"] for point in tradeoff(runs, pairs, 0.95)["points"]]
        missed += any(low > 0 or high < 0 for box in boxes for low, high in zip(box["low"], box["high"], strict=True))
    assert missed / draws < 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)
    assert missed


def test_the_teacher_is_an_anchor_and_one_k_is_no_trade() -> None:
    generator, n = np.random.default_rng(0), 8
    counts = [generator.binomial(n, 0.5, 30) for _ in range(3)]
    runs = [made(role, role, own, n)[0] for role, own in zip(("teacher", "baseline", "candidate"), counts, strict=True)]
    pairs = [pair_of("baseline", runs[1], runs[2], counts[1:], n), pair_of("teacher", runs[0], runs[2], counts[::2], n)]
    found = tradeoff(runs, pairs, 0.9)
    assert [(point["baseline"], point["k"]) for point in found["points"]] == [("baseline", [1, 4]), ("teacher", [1, 4])]
    values = [run["pass_at_k"]["value"] for run in runs]
    ends = [values[0][j] - values[1][j] for j in (0, 2)]
    assert found["anchors"] == [{"label": "teacher", "against": "baseline", "difference": ends}]
    for item in pairs:
        item["pass_at_k"]["population"]["judged"]["k"] = [1]
    assert tradeoff(runs, pairs, 0.9)["points"] == []
