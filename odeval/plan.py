"""Power and budget before the money is spent: what a gate on P prompts × n samples can see.

The solve rates of a pilot (or of a typical benchmark) give the exact covariance of the pass@k curve at any n; a
Gaussian draw of the difference with that covariance is judged as the gate would judge it. A collapse is modelled as
sharpening, logit p → γ · logit p, which leaves pass@1 about where it was and takes away what was rarely solved.

Letters: P prompts, n samples, K values of k, Q nodes of the distribution of solve rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy import stats as distributions

from odeval.curves import Counts
from odeval.errors import OdevalError
from odeval.extrapolate import fit
from odeval.stats import sup_t

_NODES = 400
_DRAWS = 4000
_STRONGEST = 64.0  # γ of the sharpest collapse that is tried


@dataclass(frozen=True, slots=True)
class Design:
    """One line of a plan.

    Attributes:
        prompts: P.
        samples: n of each run.
        largest_k: Largest k that the gate judges, n / 2 at most.
        completions: P × n, of one run.
        passes: Chance of PASS when nothing changed.
        detectable: Smallest drop of pass@k, at its worst k, that FAILs with the wanted power; NaN if none does.
        power: Chance of FAIL at the drop that was asked about; NaN if none was.
    """

    prompts: int
    samples: int
    largest_k: int
    completions: int
    passes: float
    detectable: float
    power: float


def typical_rates() -> np.ndarray:
    """Solve rates of an ordinary benchmark, [Q]: 15 % never solved, 10 % nearly always, the rest Beta(0.7, 1).

    Source: our stand-in where there is no pilot; real ones differ, so make a pilot.
    """
    kinds = [round(0.15 * _NODES), round(0.1 * _NODES)]
    rest = _NODES - sum(kinds)
    middle = distributions.beta.ppf((np.arange(rest) + 0.5) / rest, 0.7, 1.0)
    return np.concatenate([np.zeros(kinds[0]), np.full(kinds[1], 0.995), middle])


def pilot_rates(counts: Counts) -> np.ndarray:
    """Solve rates behind a pilot's counts, [Q], by the zero-inflated beta-binomial.

    c / n itself would be too spread out: it holds the sampling noise as well.

    Raises:
        OdevalError: The pilot is too small, or all or none of it is solved.
    """
    found = fit(counts)
    if found is None:
        raise OdevalError("the pilot tells nothing: it needs at least 20 prompts, some of them solved and some not")
    zeros = round(found.zeros * _NODES)
    rest = _NODES - zeros
    return np.concatenate([np.zeros(zeros), distributions.beta.ppf((np.arange(rest) + 0.5) / rest, found.a, found.b)])


def curve_covariance(rates: np.ndarray, n: int, ks: Sequence[int]) -> np.ndarray:
    """Exact covariance of one prompt's unbiased pass@k curve, given its solve rate.

        Cov(k, l) = E_i[(1 − p)^(k + l − i)] − (1 − p)^(k + l),   i ~ overlap of a k- and an l-subset of n

    Args:
        rates: [Q] solve rates.
        n: Samples, at least the largest k.
        ks: [K].

    Returns:
        [Q, K, K].

    Source:
        Hoeffding 1948, variance of a U-statistic.
    """
    miss = 1 - np.asarray(rates, dtype=float)
    covariance = np.empty((len(miss), len(ks), len(ks)))
    for a, k in enumerate(ks):
        for b, other in enumerate(ks[: a + 1]):
            overlap = np.arange(max(0, k + other - n), min(k, other) + 1)
            weight = distributions.hypergeom.pmf(overlap, n, k, other)
            with np.errstate(divide="ignore"):
                joint = (miss[:, None] ** (k + other - overlap)[None, :]) @ weight
            covariance[:, a, b] = covariance[:, b, a] = joint - miss ** (k + other)
    return covariance


def sharpened(rates: np.ndarray, gamma: float) -> np.ndarray:
    """Solve rates after logit p → γ · logit p; 0 and 1 stay."""
    found: np.ndarray = special.expit(gamma * special.logit(rates))
    return found


def evaluate(
    rates: np.ndarray,
    prompts: int,
    samples: int,
    ks: Sequence[int] | None = None,
    *,
    margin: float = 0.03,
    alpha: float = 0.05,
    power: float = 0.8,
    drop: float | None = None,
) -> Design:
    """Tell what a gate `pass@k.delta >= −margin` on this design can see.

    Args:
        rates: [Q] solve rates of the baseline.
        prompts: P.
        samples: n of baseline and candidate.
        ks: Judged k; powers of two up to n / 2 by default.
        margin: Of the rule.
        alpha: One-sided.
        power: Wanted chance of FAIL.
        drop: A drop of pass@k, at its worst k, to tell the power for.

    Raises:
        OdevalError: A number is out of range.
    """
    if prompts < 2 or samples < 2:
        raise OdevalError(f"{prompts} prompts × {samples} samples: a plan needs at least 2 of each")
    grid = list(ks) if ks else [2**i for i in range(int(np.log2(max(samples // 2, 1))) + 1)]
    if max(grid) > samples // 2:
        raise OdevalError(
            f"k {max(grid)} with {samples} samples: the gate judges k <= n/2; plan with n >= {2 * max(grid)}"
        )
    judge = _Judge(rates, prompts, samples, grid, margin, alpha)
    return Design(
        prompts=prompts,
        samples=samples,
        largest_k=max(grid),
        completions=prompts * samples,
        passes=judge.passes(1.0),
        detectable=judge.detectable(power),
        power=float("nan") if drop is None else judge.fails(judge.gamma_for(drop)),
    )


@dataclass(frozen=True)
class _Judge:
    rates: np.ndarray
    prompts: int
    samples: int
    ks: Sequence[int]
    margin: float
    alpha: float

    def change(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean change of the curve [K] (candidate minus baseline) and its covariance over fresh prompts [K, K]."""
        after = sharpened(self.rates, gamma)
        grid = np.asarray(self.ks, dtype=float)
        moved = (1 - self.rates[:, None]) ** grid - (1 - after[:, None]) ** grid
        within = sum(curve_covariance(rates, self.samples, self.ks).mean(0) for rates in (self.rates, after))
        return moved.mean(0), (within + np.cov(moved.T, bias=True).reshape(len(grid), len(grid))) / self.prompts

    def draws(self, gamma: float) -> tuple[np.ndarray, np.ndarray, float]:
        mean, covariance = self.change(gamma)
        found = np.random.default_rng(0).multivariate_normal(mean, covariance, size=_DRAWS, method="eigh")
        critical = sup_t(covariance, self.prompts - 1, 1 - self.alpha, two_sided=False)
        return found, np.sqrt(np.maximum(np.diag(covariance), 0.0)), critical

    def fails(self, gamma: float) -> float:
        drawn, spread, critical = self.draws(gamma)
        return float((drawn + np.nan_to_num(critical) * spread < -self.margin).any(1).mean())

    def passes(self, gamma: float) -> float:
        drawn, spread, _ = self.draws(gamma)
        single = distributions.t.isf(self.alpha, self.prompts - 1)
        return float((drawn - single * spread >= -self.margin).all(1).mean())

    def drop(self, gamma: float) -> float:
        return float(-self.change(gamma)[0].min())

    def gamma_for(self, drop: float) -> float:
        """The collapse whose worst k loses `drop`; the strongest one where none does."""
        return self._bisect(lambda gamma: self.drop(gamma) >= drop)

    def detectable(self, power: float) -> float:
        gamma = self._bisect(lambda gamma: self.fails(gamma) >= power)
        return self.drop(gamma) if gamma < _STRONGEST else float("nan")

    def _bisect(self, reached: Callable[[float], bool]) -> float:
        low, high = 1.0, _STRONGEST
        if not reached(high):
            return high
        for _ in range(18):
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if reached(middle) else (middle, high)
        return high
