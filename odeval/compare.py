"""Runs paired by prompt → the comparison: every number that a report, a plot or a gate prints.

The result is plain JSON. A number is {"value", "low", "high", "n", "caution"}; unknown is null. Intervals here are
two-sided; the gate takes its one-sided bounds from the covariance that stands beside the curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from odeval.attrition import pass_bounds
from odeval.chance import chance_of, check_chance
from odeval.completions import per_prompt
from odeval.curves import Counts, curve_per_prompt
from odeval.dropped import dropped_branches
from odeval.errors import CannotJudge, OdevalError, unknown
from odeval.examples import lost_prompts
from odeval.extrapolate import extrapolate
from odeval.heatmap import completion_to_show
from odeval.measure import SURVIVAL_EDGES, Measured, measure
from odeval.metrics import FAMILIES, METRICS
from odeval.moments import Moments
from odeval.pairing import columns, counts_of, described, number, pair, plain
from odeval.repertoire import coverage_of
from odeval.rows import VarietySettings
from odeval.stats import Linearised, estimate, linearise
from odeval.store import RunFolder, provenance
from odeval.tradeoff import tradeoff
from odeval.training import training_of
from odeval.trust import check_comparable, depth_of_baseline, examine
from odeval.types import PromptIds
from odeval.variety import diversity_of

SCHEMA = "odeval.comparison/1"


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
    training: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Compare every candidate with the teacher and with the baseline, prompt by prompt.

    Args:
        candidates: Runs under audit; scored against the teacher if token metrics are wanted.
        teacher: The teacher's run.
        baseline: The run a candidate must not be worse than: the student before distillation, or the last release.
        settings: Grid, confidence, threshold.
        training: Label of a candidate → folder in which odkd trained it; by default the model's own, where it holds a
            log.

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
        pair(role, reference, candidate, ks, settings.confidence)
        for candidate in by_role["candidate"]
        for role in ("baseline", "teacher")
        for reference in by_role[role]
    ]
    stored = [check for item in by_role["baseline"] for check in depth_of_baseline(item, by_role["candidate"])]
    folders = {item.label: run for item, (_, run) in zip(measured, runs, strict=True)}
    by_label = {item.label: item for item in measured}
    for row in pairs:
        names = row["baseline"], row["candidate"]
        reference, candidate = (by_label[name] for name in names)
        before, after = (folders[name] for name in names)
        row.update(_details(row["role"], reference, candidate, before, after, ks, settings))
    described_runs = [_run(role, item, ks, settings) for (role, _), item in zip(runs, measured, strict=True)]
    _add_training(described_runs, training or {})
    chance = chance_of(measured, ks)
    return {
        "schema": SCHEMA,
        "settings": {
            "ks": ks, "confidence": settings.confidence, "threshold": settings.threshold,
            "allow_mismatch": list(settings.allow_mismatch),
        },
        "task": measured[0].meta["task"]["name"],
        "sampling": measured[0].meta["sampling"],
        "prompts": len(measured[0].prompts),
        "clusters": measured[0].prompts.num_clusters,
        "prompt_ids": measured[0].prompts.ids.tolist(),
        "chance": chance,  # what guessing would score at each k, or null where the task does not state it
        "runs": described_runs,
        "pairs": pairs,
        "tradeoff": tradeoff(described_runs, pairs, settings.confidence),
        "trust": [asdict(check) for check in examine(measured) + stored + check_chance(chance, described_runs)],
        "provenance": provenance(inputs={label: run.fingerprint(run.grades) for label, run in folders.items()}),
    }  # fmt: skip


def _add_training(runs: Sequence[dict[str, Any]], named: Mapping[str, Path]) -> None:
    """Put the log of their training beside the candidates."""
    labels = [run["label"] for run in runs if run["role"] == "candidate"]
    for label in named:
        if label not in labels:
            raise OdevalError(f"training: {unknown('candidate', label, labels)}")
    for run in runs:
        label, own = run["label"], str(run["model"].get("path") or "")
        run["training"] = None
        if label in named:
            run["training"] = training_of(named[label], asked=True)
        elif label in labels and own:
            run["training"] = training_of(Path(own))


def _details(
    role: str, reference: Measured, candidate: Measured, reference_run: RunFolder, candidate_run: RunFolder,
    ks: Sequence[int], settings: CompareSettings,
) -> dict[str, Any]:  # fmt: skip
    """What lies behind the numbers of a pair: prompts, answers, branches. Read from the runs' own files."""
    both = reference, candidate, reference_run, candidate_run
    variety = VarietySettings(settings.confidence)
    scored = role == "teacher" and "teacher" in candidate.survival
    branches = dropped_branches(*both) if scored else None
    return {
        "lost_prompts": lost_prompts(*both, settings.examples),
        "coverage": coverage_of(reference, candidate, ks, variety),
        "diversity": diversity_of(*both, ks, variety),
        "branches": branches,
        "completion": completion_to_show(reference, reference_run, candidate_run, branches, settings.threshold)
        if scored
        else None,
    }


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


def _run(role: str, run: Measured, ks: Sequence[int], settings: CompareSettings) -> dict[str, Any]:
    prompt_ids = run.prompts.ids
    own = curve_per_prompt(counts_of(run, prompt_ids), np.asarray(prompt_ids, dtype=object), ks)
    curve = linearise(own, prompt_ids, run.prompts.clusters)
    metrics = {}
    for name, metric in run.sums.items():
        entry = METRICS[name.partition("@")[0]]
        value = estimate(linearise(metric, prompt_ids, run.prompts.clusters), settings.confidence, entry.bounds)[0]
        metrics[name] = {**described(name), **number(value)}
    return {
        "label": run.label,
        "role": role,
        "model": run.meta["model"],
        "samples": int(run.counts["n"].max()),
        "completions": len(run.completions) or int(run.counts["n"].sum()),
        "solved": int((run.counts["c"] > 0).sum()),
        "counts": {key: run.counts[key].reindex(prompt_ids).tolist() for key in ("n", "c")},  # in order of prompt_ids
        "pass_at_k": {"k": list(ks), **columns(estimate(curve, settings.confidence, (0, 1)))},
        "metrics": metrics,
        "families": _families(run, prompt_ids, ks, settings.confidence),
        "bounds": _bounds(run, prompt_ids, settings.confidence),
        "extrapolation": _extrapolation(counts_of(run, prompt_ids)),
        "thresholds": run.thresholds,
        "survival": _survival(run),
        "ungraded": pass_bounds(run, prompt_ids, ks),
    }


def _families(run: Measured, prompt_ids: PromptIds, ks: Sequence[int], confidence: float) -> dict[str, Any]:
    curves: dict[str, tuple[Sequence[float], Linearised | Moments]] = {}
    curves |= {name: (curve.grid, curve) for name, curve in run.families.items()}
    for name, family in FAMILIES.items():
        if family.reads == "counts":
            own = family.compute(run.counts, ks)
        elif run.completions.num_known.get(family.reads):
            own = per_prompt(lambda frame, family=family: {"": family.compute(frame, ks)}, run.completions)[""]
        else:
            continue
        curves[name] = own.grid, linearise(own, prompt_ids, run.prompts.clusters)
    found = {}
    for name, (grid, curve) in curves.items():
        family = FAMILIES[name.partition("@")[0]]
        used = [j for j, value in enumerate(curve.value) if np.isfinite(value)]
        items = estimate(curve, confidence, family.bounds)
        found[name] = {
            "label": family.label, "unit": family.unit, "grid_unit": family.grid_unit, "source": family.source,
            "grid": [grid[j] for j in used], **columns([items[j] for j in used]),
        }  # fmt: skip
    return found


def _bounds(run: Measured, prompt_ids: PromptIds, confidence: float) -> dict[str, Any]:
    """What top-K log-probabilities prove: the truth lies between low and high, whatever the unseen tokens were."""
    found: dict[str, Any] = {}
    for trajectory, sums in run.bounds.items():
        table: dict[str, Any] = {"label": "bounds from top-K log-probabilities, not estimates", "unit": "share"}
        for name, metric in sums.items():
            quantity, _, end = name.partition(".")
            items = estimate(linearise(metric, prompt_ids, run.prompts.clusters), confidence, (0, 1))
            table.setdefault(quantity, {"grid": list(metric.grid)})[end] = columns(items)
            if end == "undecidable":
                table[quantity]["undecidable_tokens"] = metric.numerator.sum(0).astype(int).tolist()
                table["tokens"] = int(metric.denominator[:, 0].sum())
        found[trajectory] = table
    return found


def _extrapolation(counts: Counts) -> dict[str, Any] | None:
    found = extrapolate(counts)
    return found and {
        "label": "extrapolated",
        "method": "zero-inflated beta-binomial by maximum likelihood; without_zeros is the beta-binomial",
        "caution": "a model's guess beyond n: no interval, and no rule may judge it",
        "gated": False,
        **found,
    }


def _survival(run: Measured) -> dict[str, Any]:
    if not run.survival:
        return {}
    curves = {
        trajectory: {model: _shares_above(found) for model, found in models.items()}
        for trajectory, models in run.survival.items()
    }
    return {"entropy": plain(SURVIVAL_EDGES[:-1]), **curves}


def _shares_above(histogram: np.ndarray) -> list[float | None]:
    below = np.concatenate([[0], np.cumsum(histogram)])[:-1]
    shares: list[float | None] = plain(1 - below / max(histogram.sum(), 1))
    return shares
