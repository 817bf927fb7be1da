"""How many of k completions drawn from n are right, when c of n are. `scipy.stats` would add half a second to commands.

Letters: P cases, J numbers of right completions.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special


def log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Logarithm of the ways to choose k of n; −inf where there is none."""
    ways = special.gammaln(n + 1.0)
    for part in (k, n - k):
        ways = ways - special.gammaln(np.maximum(part, 0) + 1.0)
    found: np.ndarray = np.where((k >= 0) & (k <= n), ways, -np.inf)
    return found


def chance(right: np.ndarray, n: np.ndarray, c: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Chance of just so many right ones.

        C(c, j) C(n − c, k − j) / C(n, k)  =  b(j; c, p) b(k − j; n − c, p) / b(k; n, p),   p = k / n

    The binomials b are near their modes, so nothing large cancels: right to 1e-14 up to n = 5,000, and to 1e-12 of
    itself where it is tiny; log-gammas lose 1e-11.

    Args:
        right: j; all arguments are integers that broadcast, 0 <= c, k <= n.
        n: Completions.
        c: Right ones among them.
        k: Drawn without replacement.

    Source:
        Loader 2000, Fast and accurate computation of binomial probabilities.

    Example:
        >>> chance(np.arange(3), np.array(4), np.array(2), np.array(2)).round(4).tolist()
        [0.1667, 0.6667, 0.1667]
    """
    right, n, c, k = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (right, n, c, k)))
    possible = (right >= 0) & (right <= c) & (right <= k) & (k - right <= n - c)
    j = np.where(possible, right, np.clip(k, 0, c))  # anything that can be computed, where the answer is 0
    wrong = np.clip(k - j, 0, n - c)
    logs = _log_binomial(j, c, k, n) + _log_binomial(wrong, n - c, k, n) - _log_binomial(k, n, k, n)
    found: np.ndarray = np.where(possible, np.exp(logs), 0.0)
    return found


def _log_binomial(x: np.ndarray, n: np.ndarray, k: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Logarithm of the chance of x successes among n with p = k / total, for 0 <= x <= n."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = k / np.maximum(total, 1), (total - k) / np.maximum(total, 1)
        none = np.where(n > 0, n * np.log(q), 0.0)
        every = np.where(n > 0, n * np.log(p), 0.0)
        inside = (
            _stirling_error(n) - _stirling_error(x) - _stirling_error(n - x) - _deviance(x, n * p)
            - _deviance(n - x, n * q) - 0.5 * (np.log(2 * np.pi * np.maximum(x, 1)) + np.log1p(-x / np.maximum(n, 1)))
        )  # fmt: skip
    found: np.ndarray = np.where(x == 0, none, np.where(x == n, every, inside))
    return found


_SMALL = np.array([0.0] + [math.log(math.factorial(n)) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2 * math.pi)
                           for n in range(1, 16)])  # fmt: skip


def _stirling_error(n: np.ndarray) -> np.ndarray:
    """What Stirling's formula lacks: log n! − log(√(2πn) (n/e)^n)."""
    m = np.maximum(n, 16.0)
    series = (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - 1 / 1188 / m**2) / m**2) / m**2) / m**2) / m
    found: np.ndarray = np.where(n < 16, _SMALL[np.clip(n, 0, 15).astype(int)], series)
    return found


def _deviance(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Half a deviance: x log(x / mean) + mean − x, without cancellation where the two are close."""
    d = (x - mean) / (x + mean)
    close = np.abs(d) < 0.1
    u = np.where(close, d, 0.0)
    power, total = u.copy(), np.zeros_like(u)
    for odd in range(3, 25, 2):  # log((1 + u) / (1 − u)) = 2 (u + u³/3 + …)
        power = power * u * u
        total = total + power / odd
    series = (x - mean) * u + 2 * x * total
    plain = x * np.log(x / mean) + mean - x
    found: np.ndarray = np.where(close, series, plain)
    return found


def at_least(most: int, n: np.ndarray, c: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Chance of at least j right ones, for j = 0 … most.

    Args:
        most: J − 1.
        n: [P].
        c: [P].
        k: [P].

    Returns:
        [P, J] in [0, 1]. Equal cases are computed once.
    """
    cases, which = np.unique(np.stack([n, c, k], axis=1), axis=0, return_inverse=True)
    size = int(cases[:, 2].max(initial=0)) + 1
    mass = chance(np.arange(max(size, most + 1))[None, :], *(column[:, None] for column in cases.T))
    tails = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1][:, : most + 1]
    found: np.ndarray = np.clip(tails, 0.0, 1.0)[which.reshape(-1)]
    return found
