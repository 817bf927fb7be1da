"""How alike are some completions as texts? Secondary measures: reported beside the answers, never gated.

They follow wording and length as much as ideas, so they are computed on equally many right completions of either run.
Each takes the completions of one prompt, most of them as n-grams of token ids, so that no tokenizer is needed.

Letters: S completions, R rows, a row being one distinct n-gram of one completion (see `Grams`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from odeval.metrics.ngrams import Grams, Texts

_BLEU = 4
_VENDI = 4
_DENSE = 2**20  # cells up to which a dense matrix is faster
_SMALLEST = 0.1  # matches that BLEU counts where there are none: "method1"


def self_bleu(texts: Texts) -> float:
    """How well each completion is covered by all the others: mean BLEU-4 of each against the rest.

        BLEU = min(1, exp(1 − r / l)) · Π_n p_n^(1/4),   n = 1 … 4, l its length, r the closest length of another

    p_n is the share of its n-grams found in another completion, each at most as often as in the one that has it most
    often. That maximum over the others needs only the two largest counts of an n-gram, so the work is linear in the
    number of n-grams, not quadratic in that of completions. Where an order has no match, 0.1 matches are counted.

    Args:
        texts: S completions.

    Returns:
        In [0, 1], 1 for copies of at least 4 tokens; NaN when S < 2.

    Source:
        Zhu et al. 2018, https://arxiv.org/abs/1802.01886; BLEU and method1 as in NLTK, with which it agrees to 1e-12.

    Example:
        >>> from odeval.metrics.ngrams import take_apart
        >>> round(self_bleu(take_apart([np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])])), 4)
        0.3976
    """
    size = len(texts.lengths)
    if size < 2:
        return math.nan
    logs = np.zeros(size)
    for n in range(1, _BLEU + 1):
        matches = np.bincount(texts.grams[n - 1].owner, weights=_clipped(texts.grams[n - 1]), minlength=size)
        if n == 1:
            nothing = matches == 0
        possible = np.maximum(texts.lengths - n + 1, 1)
        logs += np.log(np.where(matches > 0, matches, _SMALLEST) / possible) / _BLEU
    scores = np.exp(logs + _brevity(texts.lengths))
    scores[nothing] = 0.0
    return float(scores.mean())


def _clipped(grams: Grams) -> np.ndarray:
    """[R] each count, at most the largest count of the n-gram in any other completion."""
    starts = np.flatnonzero(np.diff(grams.gram, prepend=-1))
    if not len(starts):
        return np.zeros(0)
    top = np.maximum.reduceat(grams.count, starts)[grams.gram]
    ties = np.add.reduceat(grams.count == top, starts, dtype=np.int64)[grams.gram]
    second = np.maximum.reduceat(np.where(grams.count == top, 0, grams.count), starts)[grams.gram]
    others = np.where((grams.count < top) | (ties > 1), top, second)
    clipped: np.ndarray = np.minimum(grams.count, others)
    return clipped


def _brevity(lengths: np.ndarray) -> np.ndarray:
    """[S] log of the brevity penalty against the closest length of another completion, the shorter of two as close."""
    kinds, which, times = np.unique(lengths, return_inverse=True, return_counts=True)
    below = kinds - np.concatenate([[-np.inf], kinds[:-1]])
    above = np.concatenate([kinds[1:], [np.inf]]) - kinds
    closest = np.where(times > 1, kinds, np.where(below <= above, kinds - below, kinds + above))
    log = np.minimum(0.0, 1 - closest / np.maximum(kinds, 1))
    penalty: np.ndarray = log[which]
    return penalty


def ead(distinct: np.ndarray, total: np.ndarray, vocabulary: int) -> np.ndarray:
    """Distinct n-grams over those expected of equally many draws from a uniform vocabulary, which takes out length.

        EAD_n = U_n / (V · [1 − (1 − 1/V)^(C_n)]),   averaged over n

    Args:
        distinct: [..., J] U_n for J values of n.
        total: [..., J] C_n; orders without an n-gram are left out of the average.
        vocabulary: V >= 1, the same in runs that are compared. V is also used for n > 1, as published; with a small
            vocabulary the value may then exceed 1.

    Returns:
        [...], >= 0; NaN where there is no n-gram at all.

    Source:
        Liu et al. 2022, https://arxiv.org/abs/2202.13587; V for every n as in Kirk et al. 2023.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = -vocabulary * np.expm1(total * np.log1p(-1.0 / vocabulary))
        ratio = np.where(total > 0, distinct / expected, 0.0)
        mean: np.ndarray = ratio.sum(-1) / (total > 0).sum(-1)
    return mean


def vendi(texts: Texts) -> tuple[float, float]:
    """Effective number of different completions, of order 1 and 2.

        order 1   exp(−Σ_i λ_i log λ_i)
        order 2   1 / Σ_i λ_i²                     λ eigenvalues of K / S

    K is the mean over n = 1 … 4 of the cosine similarities of n-gram counts; completions too short for an n-gram are
    alike in it. Copies are merged with their weight, and the smaller of X Xᵀ and Xᵀ X is taken apart (they share their
    eigenvalues); order 2 needs no eigenvalues at all.

    Args:
        texts: S completions.

    Returns:
        Both in [1, S]; NaN when S = 0. They cannot exceed S: compare only runs with equal S.

    Source:
        Friedman and Dieng 2022, https://arxiv.org/abs/2210.02410, definition 3.1; order q: Pasarkar and Dieng 2023.
    """
    kept, weight = np.unique(texts.copy_of, return_counts=True)
    if not len(kept):
        return math.nan, math.nan
    share = weight / len(texts.lengths)
    row, column, value, width = _features(texts, kept)
    value = value * np.sqrt(share / _VENDI)[row]
    if width < len(kept):
        features = _matrix(row, column, value, (len(kept), width))
        kernel = _dense(features.T @ features)
    else:
        shared = np.bincount(column, minlength=width) > 1  # the others touch the diagonal alone, and that is known
        used = shared[column]
        column = (np.cumsum(shared) - 1)[column[used]]
        features = _matrix(row[used], column, value[used], (len(kept), int(shared.sum())))
        kernel = _dense(features @ features.T)
        np.fill_diagonal(kernel, share)
    eigenvalues = np.linalg.eigvalsh(kernel)
    eigenvalues = eigenvalues[eigenvalues > 0]
    return float(np.exp(-(eigenvalues * np.log(eigenvalues)).sum())), float(1 / (kernel**2).sum())


def _features(texts: Texts, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Row, column and value of the n-gram counts, each completion and n of norm 1, and the number of columns."""
    place = np.full(len(texts.lengths), -1)
    place[kept] = np.arange(len(kept))
    rows, columns, values, width = [], [], [], 0
    for n, grams in enumerate(texts.grams[:_VENDI], start=1):
        used = place[grams.owner] >= 0
        short = np.flatnonzero(texts.lengths[kept] < n)  # one n-gram of their own, so that K has ones on its diagonal
        row = np.append(place[grams.owner[used]], short)
        count = np.append(grams.count[used], np.ones(len(short)))
        rows.append(row)
        columns.append(width + np.append(grams.gram[used], np.full(len(short), grams.distinct)))
        values.append(count / np.sqrt(np.bincount(row, weights=count**2, minlength=len(kept)))[row])
        width += grams.distinct + bool(len(short))
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values), width


def _matrix(row: np.ndarray, column: np.ndarray, value: np.ndarray, shape: tuple[int, int]) -> Any:
    """A sparse matrix, or a dense one where that is small and hence faster."""
    if shape[0] * shape[1] > _DENSE:
        return sparse.csr_array((value, (row, column)), shape=shape)
    matrix = np.zeros(shape)
    matrix[row, column] = value
    return matrix


def _dense(matrix: Any) -> np.ndarray:
    found: np.ndarray = matrix.toarray() if sparse.issparse(matrix) else matrix
    return found


def compression_ratio(completions: Sequence[bytes]) -> float:
    """Bytes of all completions over their bytes compressed together: how much they repeat each other and themselves.

    They are sorted first, so that their order does not matter. zlib looks back 32 kB, and builds of it may differ in
    the last digits.

    Args:
        completions: Texts as UTF-8.

    Returns:
        > 0, higher for more repetition; NaN when there is not one byte.

    Source:
        Shaib et al. 2024, https://arxiv.org/abs/2403.00553, with gzip's algorithm.
    """
    raw = b"\n".join(sorted(completions))
    return len(raw) / len(zlib.compress(raw)) if raw.strip(b"\n") else math.nan
