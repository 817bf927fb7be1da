"""From sums per prompt to numbers with intervals: ratios, paired differences, simultaneous bands. numpy and scipy only.

Everything rests on one linearisation. A metric is R = Σ num / Σ den over prompts; prompt i moves it by
ψ_i / P with ψ_i = (num_i − R · den_i) / mean(den). The variance of R, of a difference of two metrics on the same
prompts (ψ of one minus ψ of the other), and of a whole curve follow from the P × J matrix ψ alone, and prompts
that share a cluster are summed before squaring. This is the *population* scope: would other prompts tell the same?

Letters: P prompts, J grid points of a curve, G clusters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import special

from odeval.moments import Moments
from odeval.types import Estimate, PerPrompt, PromptIds

_DRAWS = 20_000  # of the Gaussian process whose maximum gives a simultaneous band
_MAX_EXACT = 1e-12


@dataclass(frozen=True, eq=False)
class Linearised:
    """A curve (or a single number, J = 1) with what each prompt contributes to its error.

    Attributes:
        value: [J].
        psi: [P, J], columns sum to 0.
        n: [J] prompts that say something about each point.
        clusters: [P] integers; prompts with one integer are dependent.
    """

    value: np.ndarray
    psi: np.ndarray
    n: np.ndarray
    clusters: np.ndarray

    def minus(self, other: Linearised) -> Linearised:
        """The paired difference; both must hold the same prompts in the same order."""
        return Linearised(self.value - other.value, self.psi - other.psi, np.minimum(self.n, other.n), self.clusters)

    def over(self, other: Linearised) -> Linearised:
        """The paired ratio, by the delta method; NaN where the divisor is not clearly above 0."""
        spread = np.sqrt(np.maximum(np.diag(other.covariance()), 0.0))
        with np.errstate(invalid="ignore", divide="ignore"):
            clear = other.value > 3 * spread  # closer to 0 a ratio has no useful interval
            value = np.where(clear, self.value / other.value, np.nan)
            psi = np.where(clear, (self.psi - value * other.psi) / other.value, 0.0)
        return Linearised(value, psi, np.minimum(self.n, other.n), self.clusters)

    def covariance(self) -> np.ndarray:
        """Cluster-robust covariance of the value, [J, J]: G/(G−1) · Σ_g s_g s_gᵀ / P², s_g sums ψ in cluster g."""
        groups = int(self.clusters.max()) + 1 if len(self.clusters) else 0
        if groups < 2:
            return np.full((len(self.value), len(self.value)), np.nan)
        sums = np.zeros((groups, self.psi.shape[1]))
        np.add.at(sums, self.clusters, self.psi)
        matrix: np.ndarray = groups / (groups - 1) * (sums.T @ sums) / len(self.psi) ** 2
        return matrix

    @property
    def variance(self) -> np.ndarray:
        """Of the value at each grid point, [J]: the diagonal of `covariance`."""
        found: np.ndarray = np.diag(self.covariance())
        return found

    @property
    def degrees(self) -> int:
        return int(self.clusters.max()) if len(self.clusters) else 0


def linearise(metric: PerPrompt, prompt_ids: PromptIds, clusters: np.ndarray | None = None) -> Linearised:
    """Turn sums per prompt into a value and its influence on the given prompts.

    Args:
        metric: The sums; prompts not in `prompt_ids` are left out.
        prompt_ids: [P], the order of the result.
        clusters: [P] integers 0 … G − 1; None when prompts are independent.

    Returns:
        NaN values where no prompt says anything.
    """
    same = np.array_equal(metric.prompt_ids, prompt_ids)
    where = np.arange(len(prompt_ids)) if same else pd.Index(metric.prompt_ids).get_indexer(pd.Index(prompt_ids))
    numerator = _rows(metric.numerator, where)
    denominator = _rows(metric.denominator, where)
    unusable = ~np.isfinite(numerator) | ~np.isfinite(denominator)
    numerator[unusable] = denominator[unusable] = 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        value = numerator.sum(0) / denominator.sum(0)
        psi = (numerator - value * denominator) / denominator.mean(0)
    own = np.arange(len(where)) if clusters is None else np.asarray(clusters)
    return Linearised(value, psi, (denominator != 0).sum(0), own)


def _rows(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    matrix = values.reshape(len(values), -1).astype(np.float64)
    found = np.zeros((len(where), matrix.shape[1]))
    found[where >= 0] = matrix[where[where >= 0]]
    return found


def estimate(
    curve: Linearised | Moments, confidence: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> list[Estimate]:
    """Two-sided intervals, one per grid point, by Student's t over prompts (or clusters).

    A column without any variation has no standard error, yet is not certain. There the bound of "0 of P" is used:
    an effect met in none of P independent prompts is rarer than 1 − (1 − confidence)^(1/P).

    Args:
        curve: What to estimate.
        confidence: Of each interval.
        bounds: The metric's range; intervals are cut to it.

    Returns:
        J estimates; unknown ones are NaN and say why.
    """
    spread = np.sqrt(np.maximum(curve.variance, 0.0))
    quantile = float(t_quantile(max(curve.degrees, 1), 0.5 + confidence / 2))
    return [
        replace(
            _bounded(value, quantile * se, int(n), curve.degrees + 1, confidence, bounds),
            se=float(se),
            degrees=curve.degrees,
        )
        for value, se, n in zip(curve.value, spread, curve.n, strict=True)
    ]


def _bounded(
    value: float, half: float, n: int, groups: int, confidence: float, bounds: tuple[float, float]
) -> Estimate:
    if not np.isfinite(value):
        return Estimate(float("nan"), n=n, caution="no prompt says anything about it")
    if not np.isfinite(half):
        return Estimate(float(value), n=n, caution="one prompt alone gives no interval")
    caution = ""
    if half < _MAX_EXACT:
        reach = bounds[1] - bounds[0]
        if not np.isfinite(reach):
            return Estimate(float(value), n=n, caution="no variation between prompts, and no bound on it")
        half = reach * rare(groups, 1 - confidence)
        caution = "no variation between prompts; the interval is that of '0 of n'"
    low, high = max(bounds[0], value - half), min(bounds[1], value + half)
    return Estimate(float(value), float(low), float(high), n, caution)


def t_quantile(degrees: np.ndarray | float, probability: np.ndarray | float) -> np.ndarray:
    """Quantile of Student's t; `scipy.stats` would add a second to every command."""
    found: np.ndarray = special.stdtrit(degrees, probability)
    return found


def rare(trials: int, alpha: float) -> float:
    """Upper bound for a share of which no case was seen in `trials`: 1 − α^(1/trials).

    Example:
        >>> round(rare(64, 0.05), 3)  # never solved in 64 samples: the solve rate may still be 4.6 %
        0.046
    """
    return float(1 - alpha ** (1 / max(trials, 1)))


def sup_t(
    covariance: np.ndarray, degrees: int | None, confidence: float, two_sided: bool = True, seed: int = 0
) -> float:
    """Critical value q of a simultaneous band: P(max_j t_j <= q) = confidence.

    Args:
        covariance: [J, J]; grid points without variance are left out.
        degrees: Of freedom of a common t distribution; None for the Gaussian.
        confidence: That the whole curve lies inside.
        two_sided: Take |t|.
        seed: Of the simulation.

    Returns:
        q; NaN when no grid point varies.

    Source:
        Montiel Olea and Plagborg-Møller 2019, simultaneous confidence bands, algorithm 1, by simulation.
    """
    draws = _process(covariance, degrees, seed)
    if draws is None:
        return float("nan")
    peak = np.abs(draws).max(1) if two_sided else draws.max(1)
    tail = 0.5 + confidence / 2 if two_sided else confidence
    single = special.ndtri(tail) if degrees is None else t_quantile(max(degrees, 1), tail)
    return float(max(np.quantile(peak, confidence), single))


def sup_tail(covariance: np.ndarray, value: float, seed: int = 0) -> float:
    """Chance that the maximum of the Gaussian process exceeds a value: the inverse of one-sided `sup_t`.

    Args:
        covariance: [J, J].
        value: In standard deviations.
        seed: Of the simulation.

    Returns:
        A probability, bounded by J times the single tail where the simulation sees too few exceedances.
    """
    draws = _process(covariance, None, seed)
    single = float(special.ndtr(-value))
    if draws is None:
        return single
    seen = float((draws.max(1) >= value).mean())
    return seen if seen * _DRAWS >= 20 else min(1.0, single * draws.shape[1])


def _process(covariance: np.ndarray, degrees: int | None, seed: int) -> np.ndarray | None:
    """Draw the standardised process with this covariance, [draws, live points]; None when no point varies."""
    variance = np.diag(covariance)
    live = np.isfinite(variance) & (variance > _MAX_EXACT**2)
    if not live.any():
        return None
    spread = np.sqrt(variance[live])
    correlation = covariance[np.ix_(live, live)] / np.outer(spread, spread)
    weights, vectors = np.linalg.eigh(correlation)
    factor = vectors * np.sqrt(np.maximum(weights, 0.0))
    generator = np.random.default_rng(seed)
    draws: np.ndarray = generator.standard_normal((_DRAWS, len(spread))) @ factor.T
    if degrees is not None:
        draws /= np.sqrt(generator.chisquare(max(degrees, 1), size=(_DRAWS, 1)) / max(degrees, 1))
    return draws


def digits(item: Estimate) -> int:
    """How many decimals the interval supports: two significant digits of its half-width, between 1 and 6.

    Example:
        >>> digits(Estimate(0.123456, 0.1, 0.15, 200)), digits(Estimate(0.5, 0.4999, 0.5001, 200))
        (3, 6)
    """
    half = (item.high - item.low) / 2
    if not np.isfinite(half) or half <= 0:
        return 3
    return int(np.clip(1 - np.floor(np.log10(half)), 1, 6))
