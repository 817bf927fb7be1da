"""How alike are some completions as texts? Secondary measures: reported beside the answers, never gated.

They follow wording and length as much as ideas, so they are computed on equally many right completions of either run.
Each takes the completions of one prompt as token ids; no tokenizer is needed. Where each stands is in `TEXT_METRICS`.

Letters: S completions, R rows, a row being one distinct n-gram of one completion.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from odeval.types import Direction

LONGEST = 5  # n of the longest n-gram
_BLEU = 4
_VENDI = 4
_SMALLEST = 0.1  # matches that BLEU counts where there are none: "method1"


@dataclass(frozen=True, slots=True)
class TextMetric:
    """What a reader needs to know of one measure."""

    label: str
    unit: str
    direction: Direction
    bounds: tuple[float, float]
    source: str


_INF = float("inf")
TEXT_METRICS: dict[str, TextMetric] = {
    "ead": TextMetric(
        "expectation-adjusted distinct n-grams, n = 1 … 5", "ratio", "higher", (0, _INF),
        "Liu et al. 2022, arXiv 2202.13587; averaged over n as in Kirk et al. 2023, arXiv 2310.06452",
    ),
    "self_bleu": TextMetric(
        "self-BLEU-4", "score", "lower", (0, 1), "Zhu et al. 2018, Texygen, arXiv 1802.01886; method1 smoothing",
    ),
    "vendi": TextMetric(
        "Vendi score of n-gram kernels", "completions", "higher", (1, _INF),
        "Friedman and Dieng 2022, arXiv 2210.02410",
    ),
    "vendi_2": TextMetric(
        "Vendi score of order 2", "completions", "higher", (1, _INF), "Pasarkar and Dieng 2023, arXiv 2310.12952",
    ),
    "compression_ratio": TextMetric(
        "bytes / compressed bytes (zlib)", "ratio", "lower", (0, _INF), "Shaib et al. 2024, arXiv 2403.00553",
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Grams:
    """The n-grams of S completions, for one n.

    Attributes:
        gram: [R] number of the n-gram, 0 … distinct − 1, ascending.
        owner: [R] the completion, ascending within a gram.
        count: [R] how often the n-gram stands in the completion.
        distinct: n-grams that differ.
        total: n-grams in all completions together.
    """

    gram: np.ndarray
    owner: np.ndarray
    count: np.ndarray
    distinct: int
    total: int


@dataclass(frozen=True, eq=False)
class Texts:
    """The completions of one prompt, taken apart once for all measures.

    Attributes:
        lengths: [S] tokens.
        copy_of: [S] the first completion with equal tokens, itself where there is none before it.
        grams: Those of n = 1 … LONGEST.
    """

    lengths: np.ndarray
    copy_of: np.ndarray
    grams: tuple[Grams, ...]


def take_apart(completions: Sequence[np.ndarray]) -> Texts:
    """Count the n-grams of every completion, n = 1 … LONGEST, in O(total n-grams · log).

    Args:
        completions: S arrays of token ids, >= 0; empty ones are allowed.
    """
    lengths = np.array([len(tokens) for tokens in completions], dtype=np.int64)
    seen: dict[bytes, int] = {}
    copy_of = np.array(
        [seen.setdefault(np.asarray(tokens, dtype=np.int64).tobytes(), i) for i, tokens in enumerate(completions)],
        dtype=np.int64,
    )
    flat = np.concatenate([np.zeros(0, dtype=np.int64), *completions]).astype(np.int64)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(flat))  # tokens from here to the completion's end
    single, rank, grams = flat, flat, []
    for n in range(1, LONGEST + 1):
        starts = np.flatnonzero(left >= n)
        keys = flat[starts] if n == 1 else rank[starts] * (int(single.max(initial=0)) + 1) + single[starts + n - 1]
        found, number = _grams(keys, owner[starts])
        rank = np.zeros(len(flat), dtype=np.int64)
        rank[starts] = number
        single = rank if n == 1 else single
        grams.append(found)
    return Texts(lengths, copy_of, tuple(grams))


def _grams(keys: np.ndarray, owner: np.ndarray) -> tuple[Grams, np.ndarray]:
    """Group equal keys; positions, and with them owners, ascend within a group."""
    size = len(keys)
    bits = max(size - 1, 0).bit_length()
    if int(keys.max(initial=0)).bit_length() + bits < 63:
        packed = np.sort(keys << bits | np.arange(size))  # one sort of integers is faster than an argsort
        order, ordered = packed & ((1 << bits) - 1), packed >> bits
    else:
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
    owners = owner[order]
    new = np.ones(size, dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    first = new.copy()
    first[1:] |= owners[1:] != owners[:-1]
    gram = np.cumsum(new) - 1
    rows = np.flatnonzero(first)
    number = np.empty(size, dtype=np.int64)
    number[order] = gram
    return Grams(gram[rows], owners[rows], np.diff(np.append(rows, size)), int(new.sum()), size), number


def self_bleu(texts: Texts) -> float:
    """How well each completion is covered by all the others: mean BLEU-4 of each against the rest.

        BLEU = min(1, exp(1 − r / l)) · Π_n p_n^(1/4),   n = 1 … 4, l its length, r the closest length of another

    p_n is the share of its n-grams found in another completion, each at most as often as in the one that has it most
    often. That maximum over the others needs only the two largest counts of an n-gram, so the work is linear in the
    number of n-grams, not quadratic in that of completions. Where an order has no match, 0.1 matches are counted.

    Args:
        texts: S completions.

    Returns:
        In [0, 1], 1 for copies; NaN when S < 2.

    Source:
        Zhu et al. 2018, https://arxiv.org/abs/1802.01886; BLEU and method1 as in NLTK, with which it agrees to 1e-12.

    Example:
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
    features = sparse.hstack([_features(texts, n, kept) for n in range(1, _VENDI + 1)], format="csr")
    scale = np.sqrt(weight / len(texts.lengths) / _VENDI)
    features = sparse.diags_array(scale) @ features
    if features.shape[1] < features.shape[0]:
        kernel = (features.T @ features).toarray()
    else:
        shared = (
            np.asarray((features != 0).sum(axis=0)).ravel() > 1
        )  # the others touch the diagonal alone, which is known
        features = features[:, shared]
        kernel = (features @ features.T).toarray()
        np.fill_diagonal(kernel, weight / len(texts.lengths))
    eigenvalues = np.linalg.eigvalsh(kernel)
    eigenvalues = eigenvalues[eigenvalues > 0]
    return float(np.exp(-(eigenvalues * np.log(eigenvalues)).sum())), float(1 / (kernel**2).sum())


def _features(texts: Texts, n: int, kept: np.ndarray) -> sparse.csr_array:
    """[kept completions, n-grams] counts divided by their norm."""
    grams = texts.grams[n - 1]
    row = np.full(len(texts.lengths), -1)
    row[kept] = np.arange(len(kept))
    used = row[grams.owner] >= 0
    owner, gram, count = row[grams.owner[used]], grams.gram[used], grams.count[used].astype(np.float64)
    short = np.flatnonzero(texts.lengths[kept] < n)  # one n-gram of their own, so that K has ones on its diagonal
    owner, gram = np.append(owner, short), np.append(gram, np.full(len(short), grams.distinct))
    count = np.append(count, np.ones(len(short)))
    norm = np.sqrt(np.bincount(owner, weights=count**2, minlength=len(kept)))
    return sparse.csr_array((count / norm[owner], (owner, gram)), shape=(len(kept), grams.distinct + 1))


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
