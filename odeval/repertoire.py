"""What the candidate still covers of the reference's right answers, and which it lost, for comparison.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from odeval.completions import per_prompt
from odeval.curves import Counts
from odeval.measure import Measured
from odeval.metrics.classes import ClassCounts, Pool, class_counts
from odeval.metrics.coverage import (
    distinct_at_k,
    lost_modes,
    on_common_ground,
    recall_at_k,
    self_coverage_at_k,
    solution_coverage_at_k,
)
from odeval.overlap import benjamini_hochberg, fisher_less
from odeval.pairing import columns
from odeval.rows import UNBOUNDED, Entry, Intervals, VarietySettings, described, head_of, point, thinned
from odeval.stats import estimate
from odeval.tasks import TASKS
from odeval.types import Estimate, PerPrompt

_FALSE_DISCOVERIES = 0.05
_POOLS: dict[Pool, str] = {"graded": "k completions", "outputs": "k right completions"}
_COVERAGE = {
    "recall": Entry("reference's right outputs found again in k draws from the candidate", "share", "higher", (0, 1)),
    "ceiling": Entry("reference's right outputs found again in k draws of its own", "share", "neutral", (0, 1)),
    "gap": Entry("coverage gap: ceiling − recall", "share", "lower", (-1, 1)),
    "grounding": Entry("candidate's right outputs found in k draws from the reference", "share", "higher", (0, 1)),
}
_DISTINCT = Entry(
    "distinct right answers in k completions", "answers", "higher", (0, UNBOUNDED), "rarefaction, Hurlbert 1971"
)
_SOLUTIONS = Entry("share of all solutions found in k completions", "share", "higher", (0, 1))


def coverage_of(
    reference: Measured, candidate: Measured, ks: Sequence[int], settings: VarietySettings | None = None
) -> dict[str, Any]:
    """Say how much of the reference's right answers the candidate still covers, and which it lost.

    Args:
        reference: Usually the teacher; sampled independently of the candidate.
        candidate: The run under audit, same prompts.
        ks: Grid of the curves; a long one is thinned.
        settings: Confidence, classes.

    Returns:
        JSON-able: "views" (recall, ceiling, gap, grounding against k; once among k completions as a user draws them,
        once among k right ones, which takes accuracy out), "distinct", "solutions" (None where the task does not list
        them), "lost" and "gained" classes. Where a run holds counts only, "note" says so and the rest is empty.
    """
    settings = settings or VarietySettings()
    head = head_of(reference, candidate)
    if head["note"]:
        return {**head, "views": [], "distinct": None, "solutions": None, "lost": None, "gained": None}
    intervals, ks = Intervals(reference, settings.confidence), thinned(ks)
    runs = (reference.completions, candidate.completions)
    views = []
    for by in settings.by:
        for pool, draws in _POOLS.items():
            curves = per_prompt(partial(_curves, by=by, pool=pool, ks=ks), *runs)
            views.append({"by": by, "draws": draws, "k": ks, **_view(curves, ks, intervals)})
    name = reference.meta["task"]["name"]
    solve = TASKS[name](1).solutions if name in TASKS else None
    lost, gained = _Modes(settings.modes), _Modes(settings.modes)

    def found(*frames: pd.DataFrame) -> dict[str, PerPrompt]:
        own, other = class_counts(*frames)
        lost.add(own, other)
        gained.add(other, own)
        curves = {f"distinct {i}": distinct_at_k(run, ks) for i, run in enumerate((own, other))}
        if solve is not None:
            listed = {str(name): solve(reference.prompts[name]) for name in own.prompt_ids}
            curves |= {f"solutions {i}": solution_coverage_at_k(run, listed, ks) for i, run in enumerate((own, other))}
        return curves

    curves = per_prompt(found, *runs)
    return {
        **head,
        "views": views,
        "distinct": intervals.curves(_DISTINCT, curves["distinct 0"], curves["distinct 1"]),
        "solutions": intervals.curves(_SOLUTIONS, curves["solutions 0"], curves["solutions 1"]) if solve else None,
        "lost": lost.result(),
        "gained": gained.result(),
    }


def _curves(*frames: pd.DataFrame, by: str, pool: Pool, ks: Sequence[int]) -> dict[str, PerPrompt]:
    own, other = class_counts(*frames, by=by, pool=pool)
    ceiling, recall = on_common_ground(self_coverage_at_k(own, ks), recall_at_k(own, other, ks))
    return {"ceiling": ceiling, "recall": recall, "grounding": recall_at_k(other, own, ks)}


def _view(curves: Mapping[str, PerPrompt], ks: Sequence[int], intervals: Intervals) -> dict[str, Any]:
    """Recall, ceiling and gap over the same prompts; grounding beside them."""
    ceiling, recall, grounding = (curves[name] for name in ("ceiling", "recall", "grounding"))
    points: dict[str, list[Estimate]] = {name: [] for name in _COVERAGE}
    for j in range(len(ks)):
        lines = intervals.lines(point(recall, j), point(ceiling, j))
        found = {"recall": lines[0], "ceiling": lines[1], "gap": lines[1].minus(lines[0])}
        for name, line in found.items():
            points[name].append(estimate(line, intervals.confidence, _COVERAGE[name].bounds)[0])
        points["grounding"].append(intervals.one(point(grounding, j), _COVERAGE["grounding"].bounds))
    return {name: {**described(entry), **columns(points[name])} for name, entry in _COVERAGE.items()}


class _Modes:
    """Classes of one run that the other never produced, counted block by block."""

    def __init__(self, most: int) -> None:
        self._most, self._prompts, self._listed = most, 0, list[dict[str, Any]]()
        self._kinds, self._times = np.zeros((4, 0), dtype=np.int64), np.zeros(0, dtype=np.int64)

    def add(self, own: ClassCounts, other: ClassCounts) -> None:
        either = np.flatnonzero(own.count + other.count > 0)
        prompt = own.prompt[either]
        kinds = np.stack([own.n[prompt], own.count[either], other.n[prompt], other.count[either]])
        self._prompts += len(np.unique(prompt[_lost(kinds)]))
        times = np.append(self._times, np.ones(len(prompt), dtype=np.int64))
        self._kinds, which = np.unique(np.concatenate([self._kinds, kinds], axis=1), axis=1, return_inverse=True)
        self._times = np.bincount(which.ravel(), times, self._kinds.shape[1]).astype(np.int64)
        listed = [*self._listed, *lost_modes(own, other, self._most)]
        self._listed = sorted(listed, key=lambda row: -row["count"] / row["n"])[: self._most]

    def result(self) -> dict[str, Any]:
        """How many there are; beyond chance at a false discovery rate of 5 %."""
        kinds, times, lost = self._kinds, self._times, _lost(self._kinds)
        p_values = fisher_less(Counts(kinds[0], kinds[1]), Counts(kinds[2], kinds[3]))
        beyond = lost & benjamini_hochberg(p_values, _FALSE_DISCOVERIES, times)
        return {
            "count": int(times[lost].sum()),
            "prompts": self._prompts,
            "beyond_chance": int(times[beyond].sum()),
            "listed": self._listed,
        }


def _lost(kinds: np.ndarray) -> np.ndarray:
    found: np.ndarray = (kinds[1] > 0) & (kinds[3] == 0) & (kinds[2] > 0)
    return found
