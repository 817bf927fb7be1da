"""pass@k beyond n, from a zero-inflated beta-binomial. Drawn as what it is, at most 4 × n, and never gated.

The solve rates p of the prompts are taken to be 0 with probability z and Beta(a, b) else; c given n is then
zero-inflated beta-binomial, and pass@K = (1 − z) (1 − B(a, b + K) / B(a, b)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from odeval.curves import Counts

FARTHEST = 4  # times n
_ENOUGH = 20  # prompts
_LOW, _HIGH = np.array([-8.0, -8.0, -12.0]), np.array([8.0, 8.0, 6.0])  # log a, log b, logit z
_COARSE, _FINE, _SHRINK, _PRECISE = 13, 5, 0.4, 1e-5


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted distribution of solve rates: share of zeros, and the beta distribution of the rest."""

    zeros: float
    a: float
    b: float

    def pass_at_k(self, ks: Sequence[int]) -> np.ndarray:
        """Expected pass@k of a prompt from this distribution, [K]."""
        k = np.asarray(ks, dtype=float)
        values: np.ndarray = -(1 - self.zeros) * np.expm1(
            special.betaln(self.a, self.b + k) - special.betaln(self.a, self.b)
        )
        return values


def fit(counts: Counts, inflated: bool = True) -> Fit | None:
    """Fit by maximum likelihood.

    Args:
        counts: n and c per prompt.
        inflated: Allow a share of prompts with solve rate 0.

    Returns:
        None where there are too few prompts, or all are solved or none is, so that nothing can be fitted.

    Source:
        Zero inflation after the hierarchical model of openreview IGzxVhdGMb; beta-binomial after Kazdan et al. 2025,
        https://arxiv.org/abs/2510.05197.
    """
    used = counts.n > 0
    pairs, weight = np.unique(np.stack([counts.n[used], counts.c[used]], axis=1), axis=0, return_counts=True)
    if weight.sum() < _ENOUGH or (pairs[:, 1] == 0).all() or (pairs[:, 1] == pairs[:, 0]).all():
        return None
    n, c = pairs[:, 0].astype(float), pairs[:, 1].astype(float)
    choose = special.gammaln(n + 1) - special.gammaln(c + 1) - special.gammaln(n - c + 1)

    def loss(theta: np.ndarray) -> np.ndarray:
        """Minus the log-likelihood of [M, 3] values of log a, log b and logit z."""
        a, b = np.exp(theta[:, :2]).T[:, :, None]
        plain = choose + special.betaln(c + a, n - c + b) - special.betaln(a, b)
        if inflated:
            zeros = special.expit(theta[:, 2:])
            plain = np.log1p(-zeros) + plain
            plain = np.where(c == 0, np.logaddexp(np.log(zeros), plain), plain)
        found: np.ndarray = -(plain @ weight)
        return found

    best = _zoom(loss, _LOW, _HIGH) if inflated else _zoom(loss, _LOW[:2], _HIGH[:2])
    a, b = np.exp(best[:2])
    return Fit(float(special.expit(best[2])) if inflated else 0.0, float(a), float(b))


def _zoom(loss: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The minimum over a box, by ever finer grids around the best point so far.

    `scipy.optimize` would add a third of a second to every command, and may stop in a local minimum.
    """
    centre: np.ndarray = (low + high) / 2
    half, points = (high - low) / 2, _COARSE
    while half.max() > _PRECISE:
        steps = np.linspace(-1.0, 1.0, points)
        offsets = np.stack(np.meshgrid(*[steps] * len(low), indexing="ij"), axis=-1).reshape(-1, len(low))
        grid = np.clip(centre + offsets * half, low, high)
        moved = grid[int(np.argmin(loss(grid)))]
        # The likelihood has a long ridge in a and b: the box shrinks only when the best point lies well inside it.
        inside = (np.abs(moved - centre) < 0.75 * half).all() or points == _COARSE
        centre, half, points = moved, half * (_SHRINK if inside else 1.0), _FINE
    return centre


def extrapolate(counts: Counts) -> dict[str, list[float]] | None:
    """Continue a pass@k curve from n to 4 n.

    Returns:
        "k", "value" (zero-inflated) and "without_zeros" (plain beta-binomial), which bracketed the truth in the one
        real pair it was tried on; None where nothing can be fitted.
    """
    n = int(counts.n.max(initial=0))
    inflated, plain = fit(counts), fit(counts, inflated=False)
    if inflated is None or plain is None:
        return None
    ks = sorted({n, *(round(n * 2 ** (i / 2)) for i in range(1, 5))})
    return {
        "k": [float(k) for k in ks],
        "value": inflated.pass_at_k(ks).tolist(),
        "without_zeros": plain.pass_at_k(ks).tolist(),
    }
