"""Sums per prompt of two runs → described rows and curves of comparison.json, with intervals and paired differences.

A number is {"value", "low", "high", "n", ...} as in `pairing.number`; in a curve those are lists along "k". Differences
are candidate minus reference, which stands under "baseline" as in every pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from odeval.measure import Measured
from odeval.pairing import QUESTIONS, columns, number
from odeval.stats import Linearised, estimate, linearise
from odeval.types import Direction, Estimate, PerPrompt

SIDES = ("baseline", "candidate", "difference")
UNBOUNDED = float("inf")
_MOST_POINTS = 16


@dataclass(frozen=True, slots=True)
class VarietySettings:
    """How coverage and diversity are computed.

    Attributes:
        confidence: Of intervals.
        by: Columns of the completions that name a class: "answer", "digest" (the completion token by token).
        modes: Lost and gained classes to list.
        text_prompts: Prompts on which texts are compared, taken in the order of a hash.
        text_samples: Right completions a prompt at most, there.
        seed: Of the choice of prompts and completions.
        vocabulary: V of the expectation-adjusted distinct n-grams; None for the number of tokens met in both runs.
    """

    confidence: float = 0.95
    by: tuple[str, ...] = ("answer",)
    modes: int = 20
    text_prompts: int = 200
    text_samples: int = 256
    seed: int = 0
    vocabulary: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """How a number is described."""

    label: str
    unit: str
    direction: Direction
    bounds: tuple[float, float]
    source: str = "ours"


def head_of(reference: Measured, candidate: Measured) -> dict[str, Any]:
    counted = [run.label for run in (reference, candidate) if not run.completions]
    note = f"{', '.join(counted)}: counts only; which answers were given is not known" if counted else ""
    return {"scope": "population", "question": QUESTIONS["population"], "note": note}


def thinned(ks: Sequence[int]) -> list[int]:
    """At most 16 points of a grid, evenly spaced in the logarithm of their place, with the first and the last.

    Example:
        >>> thinned([1, 2, 4, 8]), thinned(range(1, 101))
        ([1, 2, 4, 8], [1, 2, 3, 5, 6, 9, 12, 16, 22, 29, 40, 54, 74, 100])
    """
    if len(ks) <= _MOST_POINTS:
        return list(ks)
    places = np.unique(np.round(np.geomspace(1, len(ks), _MOST_POINTS)).astype(int)) - 1
    return [ks[place] for place in places]


def point(curve: PerPrompt, j: int) -> PerPrompt:
    """One grid point of a curve."""
    return PerPrompt(curve.prompt_ids, curve.numerator[:, j], curve.denominator[:, j])


def described(entry: Entry) -> dict[str, Any]:
    return {"label": entry.label, "unit": entry.unit, "direction": entry.direction, "source": entry.source}


class Intervals:
    """Turns sums per prompt into numbers, each over the prompts that say something about it."""

    def __init__(self, reference: Measured, confidence: float) -> None:
        self.confidence = confidence
        prompt_ids, groups = reference.prompts.ids, reference.prompts.clusters
        self.groups = pd.Series(np.arange(len(prompt_ids)) if groups is None else groups, prompt_ids)

    def lines(self, *metrics: PerPrompt) -> list[Linearised]:
        """Linearise scalar metrics over the prompts known to all of them, so that degrees of freedom are theirs."""
        frames = [metric.frame().reindex(self.groups.index) for metric in metrics]
        known = np.ones(len(self.groups), dtype=bool)
        for frame in frames:
            known &= np.isfinite(frame["numerator"]).to_numpy() & (frame["denominator"] > 0).to_numpy()
        if not known.any():
            known[:] = True  # nobody knows it: NaN, over all of them
        names, groups = self.groups.index[known], np.unique(self.groups[known], return_inverse=True)[1]
        sums = [PerPrompt(names, *frame[known].to_numpy().T) for frame in frames]
        return [linearise(metric, list(names), groups) for metric in sums]

    def one(self, metric: PerPrompt, bounds: tuple[float, float]) -> Estimate:
        return estimate(self.lines(metric)[0], self.confidence, bounds)[0]

    def difference(self, baseline: PerPrompt, candidate: PerPrompt, bounds: tuple[float, float]) -> list[Estimate]:
        """Both values and their paired difference, over common prompts."""
        base, cand = self.lines(baseline, candidate)
        reach = bounds[1] - bounds[0]
        return [
            *(estimate(line, self.confidence, bounds)[0] for line in (base, cand)),
            estimate(cand.minus(base), self.confidence, (-reach, reach))[0],
        ]

    def row(self, entry: Entry, baseline: PerPrompt, candidate: PerPrompt) -> dict[str, Any]:
        """A scalar measure of both runs, with its paired difference."""
        found = self.difference(baseline, candidate, entry.bounds)
        return {**described(entry), **dict(zip(SIDES, map(number, found), strict=True))}

    def curves(self, entry: Entry, baseline: PerPrompt, candidate: PerPrompt) -> dict[str, Any]:
        """The same along k."""
        points = [
            self.difference(point(baseline, j), point(candidate, j), entry.bounds) for j in range(len(baseline.grid))
        ]
        ks = [int(k) for k in baseline.grid]
        sides = {side: columns([point[i] for point in points]) for i, side in enumerate(SIDES)}
        return {**described(entry), "k": ks, **sides}
