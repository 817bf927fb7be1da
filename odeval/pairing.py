"""One candidate against one reference, prompt by prompt: the paired curve with its band, metrics, solved sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from odeval.curves import Counts, PairedCurve, curve_per_prompt, paired_curve, permutation_test
from odeval.landmarks import crossover, effective_samples, first_loss
from odeval.link import exposure_bias, rank_link, ratio_per_prompt
from odeval.measure import Measured
from odeval.metrics import METRICS
from odeval.metrics.passk import pass_at_k
from odeval.overlap import overlap
from odeval.stats import estimate, linearise
from odeval.types import Estimate, PromptIds

QUESTIONS = {
    "benchmark": "would re-sampling these prompts tell the same?",
    "population": "would other prompts tell the same?",
}
_MAX_JUDGED = 64  # grid points whose covariance is kept


def counts_of(run: Measured, prompt_ids: PromptIds) -> Counts:
    table = run.counts.reindex(prompt_ids)
    return Counts(table["n"].to_numpy(dtype=np.int64), table["c"].to_numpy(dtype=np.int64))


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
    prompt_ids = reference.prompts.ids
    counts = [counts_of(run, prompt_ids) for run in (reference, candidate)]
    curve = paired_curve(counts[0], counts[1], ks, reference.prompts.clusters)
    metrics = {}
    for name in candidate.sums:
        if name not in reference.sums or name == "teacher_high_entropy@teacher":
            continue  # the teacher's entropy on its own completions is one measurement, not two
        bounds = METRICS[name.partition("@")[0]].bounds
        low, high = -(bounds[1] - bounds[0]), bounds[1] - bounds[0]
        own = [linearise(run.sums[name], prompt_ids, reference.prompts.clusters) for run in (reference, candidate)]
        change = estimate(own[1].minus(own[0]), confidence, (low, high))[0]
        share = estimate(own[1].over(own[0]), confidence, (0.0, np.inf))[0]
        metrics[name] = {
            **described(name),
            "baseline": plain(own[0].value[0]), "candidate": plain(own[1].value[0]),
            "difference": number(change), "ratio": number(share),
        }  # fmt: skip
    n = {"baseline": int(counts[0].n.min()), "candidate": int(counts[1].n.min())}
    return {
        "role": role,
        "baseline": reference.label,
        "candidate": candidate.label,
        "prompts": len(prompt_ids),
        "n": n,
        "pass_at_k": {
            **_curve(curve, counts, confidence, min(n.values())),
            **_shares(counts, ks, prompt_ids, reference.prompts.clusters, confidence),
        },
        "metrics": metrics,
        "solved": _solved(counts, prompt_ids),
        **_tokens_to_outcomes(role, reference, candidate, prompt_ids, counts, confidence),
    }


def _shares(
    counts: Sequence[Counts], ks: Sequence[int], prompt_ids: PromptIds, groups: np.ndarray | None, confidence: float
) -> dict[str, Any]:
    """Candidate over baseline: of pass@k itself, and of the gain pass@k − pass@1 that sampling brings."""
    names = np.asarray(prompt_ids, dtype=object)
    grid = [1, *(k for k in ks if k > 1)]
    base, cand = (linearise(curve_per_prompt(run, names, grid), prompt_ids, groups) for run in counts)
    gains = [replace(run, value=run.value - run.value[0], psi=run.psi - run.psi[:, :1]) for run in (base, cand)]
    ratio = estimate(cand.over(base), confidence, (0.0, np.inf))
    inherited = estimate(gains[1].over(gains[0]), confidence)
    return {
        "shares_k": grid,
        "ratio": [number(item) for item in ratio],
        "gain": {"baseline": plain(gains[0].value), "candidate": plain(gains[1].value)},
        "inherited": [number(item) for item in inherited],
    }


def _tokens_to_outcomes(
    role: str, reference: Measured, candidate: Measured, prompt_ids: PromptIds, counts: Sequence[Counts],
    confidence: float,
) -> dict[str, Any]:  # fmt: skip
    """Against the teacher: per prompt, does what was lost at branch points go with what was lost of pass@k?"""
    lost = candidate.sums.get("entropy_lost_on_branch@teacher")
    n = int(min(run.n.min() for run in counts))
    if role != "teacher" or lost is None or n < 2:
        return {}
    k = max(1, n // 2)
    before, after = (pass_at_k(run.n, run.c, [1, k]) for run in counts)
    loss = before[:, 1] - after[:, 1]
    entropy = ratio_per_prompt(lost, prompt_ids)
    controls = [ratio_per_prompt(reference.sums["completion_length"], prompt_ids), before[:, 0]]
    groups = reference.prompts.clusters
    curves = [
        linearise(candidate.by_prompt[f"forward_kl_by_position@{where}"], prompt_ids, groups)
        for where in ("student", "teacher")
        if f"forward_kl_by_position@{where}" in candidate.by_prompt
    ]
    found: dict[str, Any] = {
        "link": {
            "question": "does entropy lost at branch points go with pass@k lost, prompt by prompt?",
            "k": k,
            "plain": number(rank_link(entropy, loss, (), confidence)),
            "beyond length and accuracy": number(rank_link(entropy, loss, controls, confidence)),
        }
    }
    if len(curves) == 2:
        ends = candidate.by_prompt["forward_kl_by_position@student"].grid
        bias = exposure_bias(curves[0], curves[1], ends, confidence)
        used = [j for j, item in enumerate(bias) if item.known]
        found["exposure_bias"] = {"tokens": [ends[j] for j in used], **columns([bias[j] for j in used])}
    return found


def _solved(counts: Sequence[Counts], prompt_ids: PromptIds) -> dict[str, Any]:
    found = overlap(counts[0], counts[1])
    names = np.asarray(prompt_ids, dtype=object)
    return {
        "both": found.both,
        "baseline_only": found.baseline_only,
        "candidate_only": found.candidate_only,
        "neither": found.neither,
        "lost_beyond_chance": names[found.lost].tolist(),
        "gained_beyond_chance": names[found.gained].tolist(),
    }


def _curve(curve: PairedCurve, counts: Sequence[Counts], confidence: float, n: int) -> dict[str, Any]:
    """The paired curve with both bands; what a gate judges by is the covariance for k <= n/2."""
    judged = np.flatnonzero(curve.ks <= max(1, n // 2))[-_MAX_JUDGED:]
    scopes = {}
    for name, scope in curve.scopes.items():
        low, high = curve.band(name, confidence)
        earliest, established = first_loss(curve, name, confidence)
        scopes[name] = {
            "question": QUESTIONS[name],
            "low": plain(low),
            "high": plain(high),
            "first_loss": {"earliest": earliest, "established": established},
            "judged": {
                "k": [int(k) for k in curve.ks[judged]],
                "covariance": plain(scope.covariance[np.ix_(judged, judged)]),
                "degrees": plain(scope.degrees[judged]),
                "trials": plain(scope.trials[judged]),
                "scale": plain(scope.scale[judged]),
            },
        }
    p_value, adjusted = permutation_test(counts[0], counts[1], [int(k) for k in curve.ks[judged]])
    return {
        "k": [int(k) for k in curve.ks],
        "baseline": plain(curve.baseline),
        "candidate": plain(curve.candidate),
        "difference": plain(curve.difference),
        "prompts": [int(count) for count in curve.prompts],
        **scopes,
        "permutation": {"p": plain(p_value), "k": [int(k) for k in curve.ks[judged]], "p_at_k": plain(adjusted)},
        "crossover": crossover(curve),
        "effective_samples": _effective(counts, n),
    }


def _effective(counts: Sequence[Counts], n: int) -> dict[str, float | None]:
    """On every k up to n, or on a fine grid where that is long."""
    grid = sorted({round(k) for k in np.geomspace(1, max(n, 1), 200)}) if n > 200 else list(range(1, n + 1))
    if not grid:
        return {"k": None, "value": None}
    return effective_samples(counts[0], counts[1], grid)


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


def columns(items: Sequence[Estimate]) -> dict[str, list[Any]]:
    """Estimates as one list a field."""
    rows = [number(item) for item in items]
    return {key: [row[key] for row in rows] for key in number(Estimate(0.0))}


def plain(value: Any) -> Any:
    """Turn numpy into JSON, NaN into null."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value]
    number = float(value)
    return number if math.isfinite(number) else None
