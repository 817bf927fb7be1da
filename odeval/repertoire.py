"""What the candidate still covers of the reference's right answers, and which it lost, for comparison.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
from odeval.types import Estimate

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
            own, other = class_counts(*runs, by=by, pool=pool)
            views.append({"by": by, "draws": draws, "k": ks, **_view(own, other, ks, intervals)})
    own, other = class_counts(*runs)
    return {
        **head,
        "views": views,
        "distinct": intervals.curves(_DISTINCT, distinct_at_k(own, ks), distinct_at_k(other, ks)),
        "solutions": _solutions(reference, own, other, ks, intervals),
        "lost": _modes(own, other, settings.modes),
        "gained": _modes(other, own, settings.modes),
    }


def _view(own: ClassCounts, other: ClassCounts, ks: Sequence[int], intervals: Intervals) -> dict[str, Any]:
    """Recall, ceiling and gap over the same prompts; grounding beside them."""
    ceiling, recall = on_common_ground(self_coverage_at_k(own, ks), recall_at_k(own, other, ks))
    grounding = recall_at_k(other, own, ks)
    points: dict[str, list[Estimate]] = {name: [] for name in _COVERAGE}
    for j in range(len(ks)):
        lines = intervals.lines(point(recall, j), point(ceiling, j))
        found = {"recall": lines[0], "ceiling": lines[1], "gap": lines[1].minus(lines[0])}
        for name, line in found.items():
            points[name].append(estimate(line, intervals.confidence, _COVERAGE[name].bounds)[0])
        points["grounding"].append(intervals.one(point(grounding, j), _COVERAGE["grounding"].bounds))
    return {name: {**described(entry), **columns(points[name])} for name, entry in _COVERAGE.items()}


def _solutions(
    reference: Measured, own: ClassCounts, other: ClassCounts, ks: Sequence[int], intervals: Intervals
) -> dict[str, Any] | None:
    """Share of all solutions found, for a task that lists them."""
    name = reference.meta["task"]["name"]
    solve = TASKS[name](1).solutions if name in TASKS else None
    if solve is None:
        return None
    listed = {prompt_id: solve(prompt) for prompt_id, prompt in reference.prompts.items()}
    both = [solution_coverage_at_k(run, listed, ks) for run in (own, other)]
    return intervals.curves(_SOLUTIONS, *both)


def _modes(own: ClassCounts, other: ClassCounts, most: int) -> dict[str, Any]:
    """Classes of one run that the other never produced; beyond chance at a false discovery rate of 5 %."""
    either = np.flatnonzero(own.count + other.count > 0)
    prompt = own.prompt[either]
    cases = np.stack([own.n[prompt], own.count[either], other.n[prompt], other.count[either]])
    kinds, which = np.unique(cases, axis=1, return_inverse=True)
    p_values = fisher_less(Counts(kinds[0], kinds[1]), Counts(kinds[2], kinds[3]))[which]
    lost = (own.count[either] > 0) & (other.count[either] == 0) & (other.n[prompt] > 0)
    return {
        "count": int(lost.sum()),
        "prompts": len(np.unique(prompt[lost])),
        "beyond_chance": int((lost & benjamini_hochberg(p_values, _FALSE_DISCOVERIES)).sum()),
        "listed": lost_modes(own, other, most),
    }
