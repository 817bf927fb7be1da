"""pass@k beyond n, from a zero-inflated beta-binomial. Drawn as what it is, at most 4 × n, and never gated.

The solve rates p of the prompts are taken to be 0 with probability z and Beta(a, b) else; c given n is then
zero-inflated beta-binomial, and pass@K = (1 − z) (1 − B(a, b + K) / B(a, b)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from odeval.curves import Counts

FARTHEST = 4  # times n
_ENOUGH = 20  # prompts


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

    def loss(theta: np.ndarray) -> float:
        a, b = np.exp(theta[:2])
        plain = choose + special.betaln(c + a, n - c + b) - special.betaln(a, b)
        if inflated:
            zeros = special.expit(theta[2])
            plain = np.log1p(-zeros) + plain
            plain = np.where(c == 0, np.logaddexp(np.log(zeros), plain), plain)
        return -float(weight @ plain)

    from scipy import optimize  # a third of a second, which counts files without enough prompts need not wait

    start = [np.log(0.7), 0.0] + ([-2.0] if inflated else [])
    bounds = [(-8.0, 8.0), (-8.0, 8.0)] + ([(-12.0, 6.0)] if inflated else [])
    found = optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    if not np.isfinite(found.fun):
        return None
    a, b = np.exp(found.x[:2])
    return Fit(float(special.expit(found.x[2])) if inflated else 0.0, float(a), float(b))


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
