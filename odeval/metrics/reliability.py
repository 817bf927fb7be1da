"""Other ways to read the same samples: all of k right, a majority right, the best by a reward. Beside pass@k.

Letters: P prompts, K grid points; n graded completions of a prompt, c correct ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from odeval.errors import OdevalError
from odeval.metrics.hypergeometric import at_least
from odeval.types import PerPrompt

_VOTES = 2**17  # votes held at once


def pass_hat_k(n: np.ndarray, c: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Estimate pass^k, the chance that all of k completions are right, without bias.

        pass^k = C(c, k) / C(n, k)

    Args:
        n: [P] graded completions.
        c: [P] correct ones.
        ks: [K] grid.

    Returns:
        [P, K] in [0, 1]; NaN where n < k.

    Source:
        Yao et al. 2024, τ-bench, https://arxiv.org/abs/2406.12045, section 5.1.

    Example:
        >>> pass_hat_k(np.array([4]), np.array([3]), [1, 2, 4]).round(4).tolist()
        [[0.75, 0.5, 0.0]]
    """
    return _at_least(n, c, ks, lambda k: k)


def g_pass_at_k(n: np.ndarray, c: np.ndarray, ks: Sequence[int], tau: float) -> np.ndarray:
    """Estimate G-Pass@k_τ, the chance that at least ⌈τ k⌉ of k completions are right, without bias.

        Σ_{j ≥ max(⌈τ k⌉, 1)} C(c, j) C(n − c, k − j) / C(n, k)

    τ → 0 gives pass@k, τ = 1 gives pass^k.

    Args:
        n: [P] graded completions.
        c: [P] correct ones.
        ks: [K] grid.
        tau: In [0, 1].

    Returns:
        [P, K] in [0, 1]; NaN where n < k.

    Source:
        Liu et al. 2024, https://arxiv.org/abs/2412.13147, eq. 3.
    """
    if not 0 <= tau <= 1:
        raise OdevalError(f"tau {tau}: must be in [0, 1]")
    # 1e-9: 0.3 · 10 must ask for 3 of 10, which binary fractions would turn into 4
    return _at_least(n, c, ks, lambda k: max(1, math.ceil(tau * k - 1e-9)))


def _at_least(n: np.ndarray, c: np.ndarray, ks: Sequence[int], needed: Callable[[int], int]) -> np.ndarray:
    n, c = np.asarray(n, dtype=np.int64), np.asarray(c, dtype=np.int64)
    result = np.full((len(n), len(ks)), np.nan)
    for j, k in enumerate(ks):
        if k < 1:
            raise OdevalError(f"k {k}: must be >= 1")
        rows = n >= k
        result[rows, j] = at_least(needed(k), n[rows], c[rows], np.full(rows.sum(), k))[:, -1]
    return result


def pass_hat(counts: pd.DataFrame, ks: Sequence[int]) -> PerPrompt:
    """pass^k of every prompt, from its n and c."""
    return _curve(counts, pass_hat_k(counts["n"].to_numpy(), counts["c"].to_numpy(), ks), ks)


def half_right(counts: pd.DataFrame, ks: Sequence[int]) -> PerPrompt:
    """G-Pass@k of every prompt for τ = 0.5, from its n and c."""
    return _curve(counts, g_pass_at_k(counts["n"].to_numpy(), counts["c"].to_numpy(), ks, 0.5), ks)


def best_of_k(completions: pd.DataFrame, ks: Sequence[int]) -> PerPrompt:
    """Estimate how often the completion with the highest reward among k is right, without bias.

        Σ_r C(r − 1, k − 1) / C(n, k) · correct_(r),   r the rank by reward, lowest first

    Equal rewards are broken at random: their correctness is averaged.

    Args:
        completions: With prompt_id, correct (1, 0, NaN) and reward; rows without either are left out.
        ks: [K] grid.

    Returns:
        [P, K] in [0, 1]; NaN where n < k.

    Source:
        Closed form of the expectation over k-subsets; ours.
    """
    usable = completions.dropna(subset=["correct", "reward"])
    rows: dict[str, list[float]] = {}
    for prompt_id, group in usable.groupby("prompt_id", sort=True):
        ordered = group.sort_values("reward", kind="stable")
        right = ordered.groupby("reward", sort=True)["correct"].transform("mean").to_numpy()
        rows[str(prompt_id)] = [_expected_last(right, k) for k in ks]
    return _curve(pd.DataFrame(index=list(rows)), np.array(list(rows.values())).reshape(-1, len(ks)), ks)


def _expected_last(values: np.ndarray, k: int) -> float:
    """Expectation of the last of k values drawn without replacement from an ordered list."""
    n = len(values)
    if n < k:
        return math.nan
    # The weight of rank r is w_r = C(r−1, k−1) / C(n, k); from the top, w_(r−1) = w_r (r − k) / (r − 1).
    weights = np.zeros(n)
    weights[n - 1] = k / n
    for r in range(n, k, -1):
        weights[r - 2] = weights[r - 1] * (r - k) / (r - 1)
    return float(weights @ values)


def majority_at_k(completions: pd.DataFrame, ks: Sequence[int], draws: int = 100, seed: int = 0) -> PerPrompt:
    """Estimate how often a majority vote among k completions is right.

    Subsets are drawn without replacement; ties between the most frequent answers are broken at random, by the share
    of the tied answers that is right. A completion without an answer does not vote.

    Args:
        completions: With prompt_id, sample_id, answer and correct (1, 0, NaN); not graded ones are left out.
        ks: [K] grid.
        draws: Subsets per prompt and k. Prompts with equal n share their places; what stands there is independent.
        seed: Of the draws.

    Returns:
        [P, K] in [0, 1]; NaN where n < k.

    Source:
        Wang et al. 2022, self-consistency, https://arxiv.org/abs/2203.11171; the tie rule is ours.
    """
    graded = (
        completions[["prompt_id", "sample_id", "answer", "correct"]]
        .dropna(subset=["correct"])
        .sort_values(["prompt_id", "sample_id"], kind="stable")
    )
    sizes = graded.groupby("prompt_id", sort=True).size()
    n, names = sizes.to_numpy(), sizes.index.to_numpy()
    start = np.cumsum(n) - n
    answer, _ = pd.factorize(graded["answer"])
    correct = graded["correct"].to_numpy()
    values = np.full((len(n), len(ks)), np.nan)
    for size in np.unique(n):
        order = np.argsort(np.random.default_rng([seed, int(size)]).random((draws, size)), axis=1)
        same = np.flatnonzero(n == size)
        for rows in np.array_split(same, max(1, len(same) * draws * size // _VOTES)):
            if len(rows):
                places = start[rows][:, None] + np.arange(size)
                values[rows] = _votes(answer[places], correct[places], order, ks)
    return _curve(pd.DataFrame(index=names), values, ks)


def _votes(answer: np.ndarray, correct: np.ndarray, order: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Mean correctness of the winners, [P, K], for answers [P, n] of which −1 does not vote."""
    prompts, size = answer.shape
    keys = np.where(answer < 0, -1, answer + np.arange(prompts)[:, None] * (int(answer.max(initial=0)) + 1))
    known, code = np.unique(keys, return_inverse=True)  # small numbers within each prompt
    code = code.reshape(keys.shape)
    first = np.full(prompts, len(known))
    np.minimum.at(first, np.nonzero(keys >= 0)[0], code[keys >= 0])
    code = np.where(keys >= 0, code - first[:, None], -1)
    width = int(code.max(initial=0)) + 1
    voter, where = np.nonzero(code >= 0)
    slot = voter * width + code[voter, where]
    support = np.bincount(slot, minlength=prompts * width)
    right = np.bincount(slot, correct[voter, where], prompts * width) / np.maximum(support, 1)
    shuffled = code[:, order]  # [P, draws, n]
    votes = np.zeros((prompts * len(order), width), dtype=np.int64)
    result, done = np.full((prompts, len(ks)), np.nan), 0
    for j in np.argsort(ks, kind="stable"):
        if ks[j] > size:
            continue
        fresh = shuffled[:, :, done : ks[j]].reshape(len(votes), -1)
        ballot, column = np.nonzero(fresh >= 0)
        votes += np.bincount(ballot * width + fresh[ballot, column], minlength=votes.size).reshape(votes.shape)
        done = ks[j]
        top = votes.max(1, keepdims=True)
        winners = ((votes == top) & (top > 0)).reshape(prompts, -1, width)
        share = (winners * right.reshape(prompts, 1, width)).sum(2) / np.maximum(winners.sum(2), 1)
        result[:, j] = share.mean(1)
    return result


def _curve(prompts: pd.DataFrame, values: np.ndarray, ks: Sequence[int]) -> PerPrompt:
    known = np.isfinite(values)
    names = prompts.index.to_numpy()
    return PerPrompt(names, np.where(known, values, 0.0), known.astype(float), tuple(float(k) for k in ks))
