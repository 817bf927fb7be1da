"""pass@k for every k at once, unbiased, from counts of graded and correct completions.

Letters: P prompts, K values of k; n graded completions, c correct ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from odeval.errors import OdevalError

_CELLS = 2**24  # of one block of the table


def miss_probability(n: int, c: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """Return log f_k(n, c), f_k = C(n − c, k) / C(n, k): the chance that k of n completions hold no correct one.

        log f_k = Σ_{j<k} log(1 − c / (n − j))

    Args:
        n: Graded completions.
        c: [C] correct ones, 0 <= c <= n.
        ks: [K] increasing, 1 <= k <= n.

    Returns:
        [C, K], −inf where fewer than k completions are wrong.
    """
    top = int(ks[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.log1p(-c[:, None] / (n - np.arange(top)[None, :]))
    terms[c[:, None] + np.arange(top)[None, :] >= n] = -np.inf
    return _cumulative(terms)[:, ks - 1]


def _cumulative(terms: np.ndarray) -> np.ndarray:
    """Cumulative sums along the last axis in two levels, which keeps the rounding error near √length · 1e-16."""
    rows, length = terms.shape
    width = int(np.ceil(np.sqrt(length)))
    padded = np.zeros((rows, width * int(np.ceil(length / width))))
    padded[:, :length] = terms
    blocks = padded.reshape(rows, -1, width)
    inside = np.cumsum(blocks, axis=-1)
    before = np.zeros((rows, blocks.shape[1], 1))
    before[:, 1:, 0] = np.cumsum(blocks.sum(-1), axis=-1)[:, :-1]
    with np.errstate(invalid="ignore"):
        total: np.ndarray = (inside + before).reshape(rows, -1)[:, :length]
    return total


def pass_at_k(n: np.ndarray, c: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Estimate pass@k of each prompt without bias.

        pass@k = 1 − C(n − c, k) / C(n, k)

    Args:
        n: [P] completions that were graded (errors are not among them); they may differ between prompts.
        c: [P] completions that were right, 0 <= c <= n.
        ks: [K] completions a user would draw, each >= 1.

    Returns:
        [P, K] in [0, 1]; NaN where n < k, since no unbiased estimate exists there.

    Raises:
        OdevalError: A k below 1, or c outside [0, n].

    Source:
        Chen et al. 2021, https://arxiv.org/abs/2107.03374, eq. 1; evaluated with log1p and expm1, because lgamma
        loses 11 digits at n = 100,000.

    Example:
        >>> pass_at_k(np.array([10, 4]), np.array([3, 0]), [1, 5]).round(4).tolist()
        [[0.3, 0.9167], [0.0, nan]]
    """
    n, c = np.asarray(n, dtype=np.int64), np.asarray(c, dtype=np.int64)
    order = np.asarray(ks, dtype=np.int64)
    if (order < 1).any():
        raise OdevalError(f"k {int(order.min())}: must be >= 1")
    if ((c < 0) | (c > n)).any():
        raise OdevalError("more correct completions than graded ones; the counts are damaged")
    grid, back = np.unique(order, return_inverse=True)
    result = np.full((len(n), len(grid)), np.nan)
    for size in np.unique(n):
        valid = grid <= size
        if not valid.any():
            continue
        rows = n == size
        counts, which = np.unique(c[rows], return_inverse=True)
        step = max(1, _CELLS // int(grid[valid][-1]))
        blocks = [
            0.0 - np.expm1(miss_probability(int(size), counts[i : i + step], grid[valid]))
            for i in range(0, len(counts), step)
        ]
        result[np.ix_(rows, valid)] = np.concatenate(blocks)[which]
    return result[:, back]


def counts(completions: pd.DataFrame) -> pd.DataFrame:
    """Count graded and correct completions per prompt.

    Args:
        completions: One row a completion with `prompt_id` and `correct` (1, 0, or NaN for not graded).

    Returns:
        Frame indexed by prompt_id with int columns n and c; NaN grades are in neither.
    """
    grouped = completions.groupby("prompt_id", sort=True)["correct"]
    return pd.DataFrame({"n": grouped.count(), "c": grouped.sum().astype(np.int64)})


def sampling_covariance(n: np.ndarray, c: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Estimate without bias how re-sampling the same prompts would move each prompt's pass@k curve.

        Cov(pass@k, pass@l) = f_k · f_l − f_(k+l),   f_k = C(n − c, k) / C(n, k)

    f_k · f_l estimates the product from one set of samples, f_(k+l) the product of the true miss probabilities
    (1 − p)^k (1 − p)^l; their difference has the covariance as its expectation, whatever p is.

    Args:
        n: [P] graded completions.
        c: [P] correct ones.
        ks: [K] grid.

    Returns:
        [P, K, K]; NaN where k + l > n, since no unbiased estimate exists there.

    Source:
        Ours; U-statistics after Hoeffding 1948.

    Example:
        >>> n, c = np.array([4]), np.array([2])  # at k = 1 it is the variance of a mean, p (1 − p) / (n − 1)
        >>> sampling_covariance(n, c, [1])[0].round(6).tolist()
        [[0.083333]]
    """
    order = np.asarray(ks, dtype=np.int64)
    sums = order[:, None] + order[None, :]
    wanted = sorted({int(k) for k in order} | {int(k) for k in sums.ravel()})
    place = {k: i for i, k in enumerate(wanted)}
    miss = 1 - pass_at_k(n, c, wanted)
    single = miss[:, [place[int(k)] for k in order]]
    joint = miss[:, [place[int(k)] for k in sums.ravel()]].reshape(len(single), len(order), len(order))
    covariance: np.ndarray = single[:, :, None] * single[:, None, :] - joint
    return covariance
