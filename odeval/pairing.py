"""One candidate against one reference, prompt by prompt: the paired curve with its band, metrics, solved sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from odeval.measure import Measured
from odeval.metrics import METRICS
from odeval.metrics.passk import pass_at_k_per_prompt
from odeval.stats import Linearised, estimate, linearise, sup_t
from odeval.types import Estimate

_MAX_COVARIANCE = 64  # grid points whose covariance is kept


def clusters(run: Measured, prompt_ids: Sequence[str]) -> np.ndarray | None:
    names = [run.prompts[prompt_id].cluster or prompt_id for prompt_id in prompt_ids]
    found, index = np.unique(names, return_inverse=True)
    return None if len(found) == len(names) else index


def curve_of(run: Measured, ks: Sequence[int], prompt_ids: Sequence[str]) -> Linearised:
    return linearise(pass_at_k_per_prompt(run.counts, ks), prompt_ids, clusters(run, prompt_ids))


def pair(role: str, reference: Measured, candidate: Measured, ks: Sequence[int], confidence: float) -> dict[str, Any]:
    """Compare two runs on the prompts they share.

    Args:
        role: Of the reference: "teacher" or "baseline".
        reference: The run compared with.
        candidate: The run under audit; the same prompts.
        ks: Grid of the curve.
        confidence: Of two-sided intervals and of the simultaneous band.

    Returns:
        JSON-able; differences are candidate minus reference.
    """
    prompt_ids = sorted(reference.prompts)
    base, cand = _shared_curves(reference, candidate, ks, prompt_ids)
    metrics = {}
    for name in candidate.sums:
        if name not in reference.sums:
            continue
        bounds = METRICS[name.partition("@")[0]].bounds
        low, high = -(bounds[1] - bounds[0]), bounds[1] - bounds[0]
        own = [linearise(run.sums[name], prompt_ids, clusters(reference, prompt_ids)) for run in (reference, candidate)]
        change = estimate(own[1].minus(own[0]), confidence, (low, high))[0]
        metrics[name] = {
            **described(name),
            "baseline": plain(own[0].value[0]), "candidate": plain(own[1].value[0]), "difference": number(change),
        }  # fmt: skip
    n = {"baseline": int(reference.counts["n"].min()), "candidate": int(candidate.counts["n"].min())}
    solved = [(run.counts["c"].reindex(prompt_ids) > 0).to_numpy() for run in (reference, candidate)]
    return {
        "role": role,
        "baseline": reference.label,
        "candidate": candidate.label,
        "prompts": len(prompt_ids),
        "n": n,
        "pass_at_k": _difference(base, cand, ks, confidence, min(n.values())),
        "metrics": metrics,
        "solved": {
            "both": int((solved[0] & solved[1]).sum()),
            "baseline_only": int((solved[0] & ~solved[1]).sum()),
            "candidate_only": int((~solved[0] & solved[1]).sum()),
            "neither": int((~solved[0] & ~solved[1]).sum()),
        },
    }


def _shared_curves(
    reference: Measured, candidate: Measured, ks: Sequence[int], prompt_ids: Sequence[str]
) -> tuple[Linearised, Linearised]:
    """Both curves over the prompts that have n >= k in both runs; one run's gaps leave the other's mean too."""
    own = [pass_at_k_per_prompt(run.counts.loc[prompt_ids], ks) for run in (reference, candidate)]
    both = own[0].denominator * own[1].denominator
    base, cand = (
        linearise(replace(one, numerator=one.numerator * both, denominator=both), prompt_ids, clusters(run, prompt_ids))
        for one, run in zip(own, (reference, candidate), strict=True)
    )
    return base, cand


def _difference(base: Linearised, cand: Linearised, ks: Sequence[int], confidence: float, n: int) -> dict[str, Any]:
    """The paired curve with its simultaneous band; the covariance for k <= n/2 is what a gate judges by."""
    change = cand.minus(base)
    covariance = change.covariance()
    critical = sup_t(covariance, change.degrees, confidence)
    half = critical * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    single = estimate(change, confidence, (-1, 1))
    flat = np.array([item.caution != "" for item in single]) | ~np.isfinite(half)
    low = np.where(flat, [item.low for item in single], np.maximum(change.value - half, -1))
    high = np.where(flat, [item.high for item in single], np.minimum(change.value + half, 1))
    judged = [j for j, k in enumerate(ks) if k <= max(1, n // 2)][-_MAX_COVARIANCE:]
    return {
        "k": list(ks),
        "baseline": plain(base.value),
        "candidate": plain(cand.value),
        "difference": plain(change.value),
        "population": {
            "low": plain(low), "high": plain(high), "critical": plain(critical),
            "covariance": {"k": [ks[j] for j in judged], "matrix": plain(covariance[np.ix_(judged, judged)]),
                           "degrees": change.degrees},
        },
        "crossover": _crossover(ks, change.value),
    }  # fmt: skip


def _crossover(ks: Sequence[int], difference: np.ndarray) -> float | None:
    """Return the k, log-interpolated, at which an early gain turns into a loss; None if it never does."""
    for j in range(1, len(ks)):
        if difference[j - 1] > 0 > difference[j]:
            share = difference[j - 1] / (difference[j - 1] - difference[j])
            return float(2 ** (math.log2(ks[j - 1]) + share * (math.log2(ks[j]) - math.log2(ks[j - 1]))))
    return None


def described(name: str) -> dict[str, Any]:
    entry = METRICS[name.partition("@")[0]]
    return {
        "label": entry.label,
        "unit": entry.unit,
        "direction": entry.direction,
        "fact": entry.fact,
        "source": entry.source,
    }


def number(item: Estimate) -> dict[str, Any]:
    """An estimate as JSON; unknown is null."""
    return {key: value if isinstance(value, int | str) else plain(value) for key, value in asdict(item).items()}


def columns(items: Sequence[Estimate]) -> dict[str, list[float | None]]:
    return {key: [plain(getattr(item, key)) for item in items] for key in ("value", "low", "high")}


def plain(value: Any) -> Any:
    """Turn numpy into JSON, NaN into null."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value]
    number = float(value)
    return number if math.isfinite(number) else None
