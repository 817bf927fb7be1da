"""How many of k completions drawn from n are right, when c of n are. `scipy.stats` would add half a second to commands.

Letters: P cases, J numbers of right completions.
"""

from __future__ import annotations

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

        C(c, j) C(n − c, k − j) / C(n, k)

    Args:
        right: j; all arguments are integers that broadcast, 0 <= c, k <= n.
        n: Completions.
        c: Right ones among them.
        k: Drawn without replacement.

    Example:
        >>> chance(np.arange(3), np.array(4), np.array(2), np.array(2)).round(4).tolist()
        [0.1667, 0.6667, 0.1667]
    """
    found: np.ndarray = np.exp(log_choose(c, right) + log_choose(n - c, k - right) - log_choose(n, k))
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
