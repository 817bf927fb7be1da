"""Runs paired by prompt → the comparison: every number that a report, a plot or a gate prints.

The result is plain JSON. A number is {"value", "low", "high", "n", "caution"}; unknown is null. Intervals here are
two-sided; the gate takes its one-sided bounds from the covariance that stands beside the curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from odeval.errors import CannotJudge, OdevalError
from odeval.examples import lost_prompts
from odeval.measure import SURVIVAL_EDGES, Measured, measure
from odeval.metrics import METRICS
from odeval.metrics.passk import pass_at_k_per_prompt
from odeval.stats import Linearised, estimate, linearise, sup_t
from odeval.store import RunFolder, provenance
from odeval.trust import as_rows, check_comparable, examine
from odeval.types import Estimate

SCHEMA = "odeval.comparison/1"
_MAX_COVARIANCE = 64  # grid points whose covariance is kept


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """How runs are compared.

    Attributes:
        ks: Grid of the pass@k curve, or "all"; empty for powers of two up to n, and n.
        confidence: Of two-sided intervals and bands.
        threshold: τ of a branch point, nats.
        allow_mismatch: Sampling settings that may differ between runs.
        examples: Lost prompts to describe in full.
    """

    ks: tuple[int, ...] | Literal["all"] = ()
    confidence: float = 0.95
    threshold: float = 0.8
    allow_mismatch: tuple[str, ...] = ()
    examples: int = 20


def compare(
    candidates: Sequence[RunFolder],
    teacher: RunFolder | None = None,
    baseline: RunFolder | None = None,
    settings: CompareSettings | None = None,
) -> dict[str, Any]:
    """Compare every candidate with the teacher and with the baseline, prompt by prompt.

    Args:
        candidates: Runs under audit; scored against the teacher if token metrics are wanted.
        teacher: The teacher's run.
        baseline: The run a candidate must not be worse than: the student before distillation, or the last release.
        settings: Grid, confidence, threshold.

    Returns:
        The comparison, ready for `json.dump(..., allow_nan=False)`.

    Raises:
        OdevalError: A k exceeds n, or runs were asked different things.
        CannotJudge: A run is not graded, or there is nothing to compare with.
    """
    settings = settings or CompareSettings()
    if teacher is None and baseline is None:
        raise CannotJudge("nothing to compare with: name a baseline run or a teacher run")
    roles = [("teacher", teacher), ("baseline", baseline), *(("candidate", run) for run in candidates)]
    labels = _labels([run for _, run in roles if run is not None])
    runs = [(role, run) for role, run in roles if run is not None]
    measured = [measure(run, label, settings.threshold) for (_, run), label in zip(runs, labels, strict=True)]
    for other in measured[1:]:
        check_comparable(measured[0], other, settings.allow_mismatch)
    _check_scored(runs, teacher)
    ks = _grid(settings.ks, measured)
    by_role: dict[str, list[Measured]] = {"teacher": [], "baseline": [], "candidate": []}
    for (role, _), item in zip(runs, measured, strict=True):
        by_role[role].append(item)
    pairs = [
        _pair(role, reference, candidate, ks, settings)
        for candidate in by_role["candidate"]
        for role in ("baseline", "teacher")
        for reference in by_role[role]
    ]
    for pair in pairs:
        folders = dict(zip(labels, (run for _, run in runs), strict=True))
        reference, candidate = (next(m for m in measured if m.label == pair[key]) for key in ("baseline", "candidate"))
        pair["lost_prompts"] = lost_prompts(
            reference, candidate, folders[reference.label], folders[candidate.label], settings.examples
        )
    return {
        "schema": SCHEMA,
        "settings": {
            "ks": ks, "confidence": settings.confidence, "threshold": settings.threshold,
            "allow_mismatch": list(settings.allow_mismatch),
        },
        "task": measured[0].meta["task"]["name"],
        "sampling": measured[0].meta["sampling"],
        "prompts": len(measured[0].prompts),
        "runs": [_run(role, item, ks, settings) for (role, _), item in zip(runs, measured, strict=True)],
        "pairs": pairs,
        "trust": as_rows(examine(measured)),
        "provenance": provenance(inputs={label: run.fingerprint(run.grades) for (_, run), label in zip(runs, labels, strict=True)}),
    }  # fmt: skip


def _labels(runs: Sequence[RunFolder]) -> list[str]:
    names = [run.label for run in runs]
    paths = [str(run.path) for run in runs]
    unique = [name if names.count(name) == 1 else path for name, path in zip(names, paths, strict=True)]
    return [name if unique.index(name) == i else f"{name} ({i + 1})" for i, name in enumerate(unique)]


def _check_scored(runs: Sequence[tuple[str, RunFolder]], teacher: RunFolder | None) -> None:
    for _, run in runs:
        for trajectory, source in (("teacher", teacher), ("student", run)):
            if source is None or not run.part_paths(run.tokens(trajectory)):
                continue
            if stale := run.stale_tokens(trajectory, source):
                raise CannotJudge(f"{run.tokens(trajectory)}: {stale}; rerun `odeval score`")


def _grid(wanted: tuple[int, ...] | Literal["all"], runs: Sequence[Measured]) -> list[int]:
    deepest = min(int(run.counts["n"].max()) for run in runs)
    if deepest < 1:
        raise CannotJudge("no completion is graded; nothing can be compared")
    if wanted == "all":
        return list(range(1, deepest + 1))
    if not wanted:
        return sorted({2**i for i in range(int(math.log2(deepest)) + 1)} | {deepest})
    for k in wanted:
        if k > deepest:
            shallow = min(runs, key=lambda run: int(run.counts["n"].max()))
            raise OdevalError(
                f"k {k} exceeds n {deepest} of {shallow.label}: pass@{k} cannot be estimated without bias; "
                f"sample more (-n {k}), or ask for k <= {deepest}"
            )
        if k < 1:
            raise OdevalError(f"k {k}: must be >= 1")
    return sorted(set(wanted))


def _clusters(run: Measured, prompt_ids: Sequence[str]) -> np.ndarray | None:
    names = [run.prompts[prompt_id].cluster or prompt_id for prompt_id in prompt_ids]
    found, index = np.unique(names, return_inverse=True)
    return None if len(found) == len(names) else index


def _curve(run: Measured, ks: Sequence[int], prompt_ids: Sequence[str]) -> Linearised:
    return linearise(pass_at_k_per_prompt(run.counts, ks), prompt_ids, _clusters(run, prompt_ids))


def _run(role: str, run: Measured, ks: Sequence[int], settings: CompareSettings) -> dict[str, Any]:
    prompt_ids = sorted(run.prompts)
    curve = _curve(run, ks, prompt_ids)
    metrics = {}
    for name, metric in run.sums.items():
        entry = METRICS[name.partition("@")[0]]
        value = estimate(linearise(metric, prompt_ids, _clusters(run, prompt_ids)), settings.confidence, entry.bounds)[0]
        metrics[name] = {**_described(name), **number(value)}
    return {
        "label": run.label,
        "role": role,
        "model": run.meta["model"],
        "samples": int(run.counts["n"].max()),
        "completions": len(run.completions),
        "solved": int((run.counts["c"] > 0).sum()),
        "pass_at_k": {"k": list(ks), **_columns(estimate(curve, settings.confidence, (0, 1)))},
        "metrics": metrics,
        "survival": _survival(run),
    }


def _pair(role: str, reference: Measured, candidate: Measured, ks: Sequence[int], settings: CompareSettings) -> dict[str, Any]:
    prompt_ids = sorted(reference.prompts)
    base, cand = (_curve(run, ks, prompt_ids) for run in (reference, candidate))
    metrics = {}
    for name in candidate.sums:
        if name not in reference.sums:
            continue
        bounds = METRICS[name.partition("@")[0]].bounds
        low, high = -(bounds[1] - bounds[0]), bounds[1] - bounds[0]
        own = [linearise(run.sums[name], prompt_ids, _clusters(reference, prompt_ids)) for run in (reference, candidate)]
        change = estimate(own[1].minus(own[0]), settings.confidence, (low, high))[0]
        metrics[name] = {
            **_described(name),
            "baseline": _plain(own[0].value[0]), "candidate": _plain(own[1].value[0]), "difference": number(change),
        }  # fmt: skip
    n = {"baseline": int(reference.counts["n"].min()), "candidate": int(candidate.counts["n"].min())}
    solved = [
        (run.counts["c"].reindex(prompt_ids) > 0).to_numpy() for run in (reference, candidate)
    ]
    return {
        "role": role,
        "baseline": reference.label,
        "candidate": candidate.label,
        "prompts": len(prompt_ids),
        "n": n,
        "pass_at_k": _difference(base, cand, ks, settings.confidence, min(n.values())),
        "metrics": metrics,
        "solved": {
            "both": int((solved[0] & solved[1]).sum()),
            "baseline_only": int((solved[0] & ~solved[1]).sum()),
            "candidate_only": int((~solved[0] & solved[1]).sum()),
            "neither": int((~solved[0] & ~solved[1]).sum()),
        },
    }


def _difference(
    base: Linearised, cand: Linearised, ks: Sequence[int], confidence: float, n: int
) -> dict[str, Any]:
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
        "baseline": _plain(base.value),
        "candidate": _plain(cand.value),
        "difference": _plain(change.value),
        "population": {
            "low": _plain(low), "high": _plain(high), "critical": _plain(critical),
            "covariance": {"k": [ks[j] for j in judged], "matrix": _plain(covariance[np.ix_(judged, judged)]),
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


def _survival(run: Measured) -> dict[str, Any]:
    if not run.survival:
        return {}
    curves = {
        trajectory: {model: _plain(1 - np.concatenate([[0], np.cumsum(found)])[:-1] / found.sum()) for model, found in models.items()}
        for trajectory, models in run.survival.items()
    }  # fmt: skip
    return {"entropy": _plain(SURVIVAL_EDGES[:-1]), **curves}


def _described(name: str) -> dict[str, Any]:
    entry = METRICS[name.partition("@")[0]]
    return {"label": entry.label, "unit": entry.unit, "direction": entry.direction, "fact": entry.fact, "source": entry.source}


def number(item: Estimate) -> dict[str, Any]:
    """An estimate as JSON; unknown is null."""
    return {key: value if isinstance(value, int | str) else _plain(value) for key, value in asdict(item).items()}


def _columns(items: Sequence[Estimate]) -> dict[str, list[float | None]]:
    return {key: [_plain(getattr(item, key)) for item in items] for key in ("value", "low", "high")}


def _plain(value: Any) -> Any:
    """Turn numpy into JSON, NaN into null."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    number = float(value)
    return number if math.isfinite(number) else None
