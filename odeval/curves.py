"""Inference on a whole paired pass@k curve: two scopes, simultaneous bands, permutation test.

*Benchmark* scope asks whether re-sampling these very prompts would tell the same; its covariance is exact and needs
k + l <= n. *Population* scope asks whether other prompts would; it rests on the spread between prompts, or between
clusters of prompts. Letters: P prompts, K grid points, G clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from odeval.metrics.passk import pass_at_k, sampling_covariance
from odeval.stats import Linearised, rare, sup_t, sup_tail, t_quantile
from odeval.types import PerPrompt

SCOPES = ("benchmark", "population")
_FLAT = 1e-12  # a standard error below this is none
_DRAWN = 2**16  # permuted counts held at once


@dataclass(frozen=True, eq=False)
class Counts:
    """Graded and correct completions of the same prompts, in one order.

    Attributes:
        n: [P] graded.
        c: [P] correct.
    """

    n: np.ndarray
    c: np.ndarray


@dataclass(frozen=True, eq=False)
class Scope:
    """How certain a paired curve is, in one sense of the word.

    Attributes:
        covariance: [K, K] of the difference; NaN where it cannot be estimated.
        degrees: [K] of freedom of the variance at each k, for the t distribution.
        trials: [K] independent trials behind a point where nothing varies and the covariance is 0.
        scale: [K] what one such trial can move the point by.
    """

    covariance: np.ndarray
    degrees: np.ndarray
    trials: np.ndarray
    scale: np.ndarray

    def known(self) -> np.ndarray:
        """Where the covariance can be estimated, [K] bool."""
        return np.isfinite(np.diag(self.covariance))

    def at(self, points: Sequence[int]) -> Scope:
        """The same for some of the grid points."""
        chosen = list(points)
        return Scope(
            self.covariance[np.ix_(chosen, chosen)], self.degrees[chosen], self.trials[chosen], self.scale[chosen]
        )

    def p_value(self, distance: np.ndarray) -> float:
        """Smallest level at which the one-sided simultaneous bound lies `distance` [K] away from the value."""
        spread = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            tails = special.stdtr(np.maximum(self.degrees, 1.0), -distance / spread)
        empty = np.clip(1 - distance / self.scale, 0.0, 1.0) ** self.trials  # "0 of trials" read backwards
        tails = np.where(spread < _FLAT, empty, tails)
        known = self.known()
        worst = -float(special.ndtri(np.clip(tails[known].min(), 1e-300, 1.0)))
        joint = sup_tail(self.covariance[np.ix_(known, known)], worst)
        return max(joint, float(tails[known].min()))

    def half_width(self, confidence: float, two_sided: bool = True, simultaneous: bool = True) -> np.ndarray:
        """Half-width of an interval or band, [K].

        The critical value of the whole curve is found for a Gaussian process, and each point then takes the t quantile
        of the same tail, because the variance at a large k often rests on few prompts. Where nothing varies, the bound
        of "0 of so many trials" is used.

        Args:
            confidence: That the truth lies inside (on the one side, if not two-sided).
            two_sided: Bound both sides.
            simultaneous: For the whole curve at once, not for one point.
        """
        known = self.known()
        tail = 0.5 + confidence / 2 if two_sided else confidence
        quantile = float(special.ndtri(tail))
        if simultaneous:
            joint = sup_t(self.covariance[np.ix_(known, known)], None, confidence, two_sided)
            quantile = quantile if math.isnan(joint) else joint
        spread = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        critical = t_quantile(np.maximum(self.degrees, 1.0), special.ndtr(quantile))
        floor = [scale * rare(int(n), 1 - confidence) for scale, n in zip(self.scale, self.trials, strict=True)]
        half: np.ndarray = np.where(spread < _FLAT, np.minimum(floor, 1.0), critical * spread)
        return half


@dataclass(frozen=True, eq=False)
class PairedCurve:
    """Two pass@k curves on the same prompts.

    Attributes:
        ks: [K].
        baseline: [K], over the prompts that have n >= k in both runs.
        candidate: [K].
        prompts: [K] how many those are.
        scopes: By name, of candidate minus baseline.
    """

    ks: np.ndarray
    baseline: np.ndarray
    candidate: np.ndarray
    prompts: np.ndarray
    scopes: dict[str, Scope]

    @property
    def difference(self) -> np.ndarray:
        change: np.ndarray = self.candidate - self.baseline
        return change

    def band(self, scope: str, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """Two-sided simultaneous band, cut to [−1, 1]; NaN where the scope cannot tell."""
        half = self.scopes[scope].half_width(confidence)
        return np.maximum(self.difference - half, -1.0), np.minimum(self.difference + half, 1.0)


def paired_curve(
    baseline: Counts, candidate: Counts, ks: Sequence[int], clusters: np.ndarray | None = None
) -> PairedCurve:
    """Compare two runs over the whole grid.

    Args:
        baseline: Counts of the reference.
        candidate: Counts of the run under audit, same prompts in the same order.
        ks: Grid, increasing.
        clusters: [P] integers 0 … G − 1; None when prompts are independent.

    Returns:
        Values over the prompts with n >= k in both runs, and both scopes.
    """
    values = [pass_at_k(run.n, run.c, ks) for run in (baseline, candidate)]
    both = np.isfinite(values[0]) & np.isfinite(values[1])
    shared = both.sum(0)
    with np.errstate(invalid="ignore"):
        base, cand = (np.where(both, value, 0.0).sum(0) / shared for value in values)
    return PairedCurve(
        np.asarray(ks),
        base,
        cand,
        shared,
        {
            "benchmark": _benchmark_scope(baseline, candidate, ks, both),
            "population": _population_scope(values, both, clusters, ks),
        },
    )


def _benchmark_scope(baseline: Counts, candidate: Counts, ks: Sequence[int], both: np.ndarray) -> Scope:
    used = both.any(1)
    count = max(int(used.sum()), 1)
    runs = (baseline, candidate)
    parts = [_own_noise(run.n[used], run.c[used], ks) for run in runs]
    # A prompt that lost so many samples that k + l > n says nothing about its own noise: the whole entry is unknown.
    covariance = (parts[0][0] + parts[1][0]) / count**2
    trials = np.full(len(ks), sum(int(run.n[used].sum()) for run in runs) / 2)
    own = (parts[0][1] + parts[1][1]) / count**2
    return Scope(covariance, _effective_degrees(own, count), trials, np.asarray(ks, dtype=float))


def _own_noise(n: np.ndarray, c: np.ndarray, ks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Covariance summed over prompts, [K, K], and each prompt's own variances, [P, K]; equal counts are done once."""
    pairs, which, times = np.unique(np.stack([n, c]), axis=1, return_inverse=True, return_counts=True)
    each = sampling_covariance(pairs[0], pairs[1], ks)
    return np.einsum("u,ukl->kl", times, each), np.diagonal(each, axis1=1, axis2=2)[which.ravel()]


def _effective_degrees(own: np.ndarray, prompts: int) -> np.ndarray:
    """Satterthwaite's degrees of freedom, [K]: a few prompts may carry all the noise at a large k.

        2 · (Σ V̂_i)² / Σ V̂_i²

    The factor 2 takes out the noise of the estimates V̂_i themselves, which at least doubles the mean of their squares;
    without it bands are far too wide, with infinite degrees slightly too narrow (benchmarks/gate_calibration.py).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        degrees = 2 * own.sum(0) ** 2 / (own**2).sum(0)
    found: np.ndarray = np.clip(np.nan_to_num(degrees, nan=1.0, posinf=1.0), 1.0, max(prompts - 1, 1))
    return found


def _population_scope(
    values: Sequence[np.ndarray], both: np.ndarray, clusters: np.ndarray | None, ks: Sequence[int]
) -> Scope:
    change = np.where(both, values[1] - values[0], 0.0)
    share = both.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = change.sum(0) / both.sum(0)
        psi: np.ndarray = (change - mean * both) / share
    own = np.arange(len(change)) if clusters is None else clusters
    line = Linearised(mean, psi, both.sum(0), own)
    groups = line.degrees + 1
    return Scope(line.covariance(), np.full(len(ks), line.degrees), np.full(len(ks), groups), np.ones(len(ks)))


def curve_per_prompt(run: Counts, prompt_ids: np.ndarray, ks: Sequence[int]) -> PerPrompt:
    """One run's pass@k curve as sums per prompt."""
    values = pass_at_k(run.n, run.c, ks)
    defined = np.isfinite(values)
    return PerPrompt(prompt_ids, np.where(defined, values, 0.0), defined.astype(float), tuple(float(k) for k in ks))


class _Lookup:
    """pass@k of every possible count, so that a permutation costs one look-up a prompt.

    Args:
        n: [P] graded completions of each prompt.
        ks: [K] grid, none above any n.
    """

    def __init__(self, n: np.ndarray, ks: Sequence[int]) -> None:
        sizes = np.unique(n)
        starts = np.concatenate([[0], np.cumsum(sizes + 1)])[:-1]
        self.offset = starts[np.searchsorted(sizes, n)]
        self.table = np.concatenate([pass_at_k(np.full(size + 1, size), np.arange(size + 1), ks) for size in sizes])

    def mean(self, c: np.ndarray) -> np.ndarray:
        """Mean curve over prompts for counts [D, P], as [D, K]."""
        where = self.offset + c
        return np.stack([column[where].mean(1) for column in self.table.T], axis=1)


def permutation_test(
    baseline: Counts, candidate: Counts, ks: Sequence[int], draws: int = 2000, seed: int = 0
) -> tuple[float, np.ndarray]:
    """Test "nothing changed on any prompt" by exchanging completions between the runs, prompt by prompt.

    Under that hypothesis, which of a prompt's n_B + n_C completions came from which run is chance, so the candidate's
    correct ones are hypergeometric. The statistic is the largest |difference| / spread over the grid (max-T), which
    holds its level over all k together.

    Args:
        baseline: Counts.
        candidate: Counts, same prompts.
        ks: Grid.
        draws: Permutations.
        seed: Of the draws.

    Returns:
        The p value of the whole curve and that of each k, [K], adjusted for looking at all of them.

    Source:
        Westfall and Young 1993, max-T; exact for any sample size up to Monte-Carlo error.
    """
    usable = (np.minimum(baseline.n, candidate.n)[:, None] >= np.asarray(ks)[None, :]).all(1)
    n_b, c_b, n_c, c_c = (x[usable] for x in (baseline.n, baseline.c, candidate.n, candidate.c))
    if not len(n_b):
        return math.nan, np.full(len(ks), math.nan)
    generator = np.random.default_rng(seed)
    pooled, total = c_b + c_c, n_b + n_c
    old, new = _Lookup(n_b, ks), _Lookup(n_c, ks)
    observed = new.mean(c_c[None, :])[0] - old.mean(c_b[None, :])[0]
    moved = np.empty((draws, len(ks)))
    step = max(1, _DRAWN // len(n_b))
    for start in range(0, draws, step):
        size = (min(step, draws - start), len(n_b))
        drawn = generator.hypergeometric(pooled, total - pooled, n_c, size=size)
        moved[start : start + size[0]] = new.mean(drawn) - old.mean(pooled - drawn)
    spread = np.sqrt((moved**2).mean(0))
    scale = np.where(spread > _FLAT, spread, np.inf)
    peak = (np.abs(moved) / scale).max(1)
    adjusted = (1 + (peak[:, None] >= np.abs(observed) / scale - 1e-9).sum(0)) / (draws + 1)
    return float(adjusted.min()), adjusted
