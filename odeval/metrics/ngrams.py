"""Completions of one prompt taken apart into n-grams, once for every measure that counts them.

Letters: S completions, R rows, a row being one distinct n-gram of one completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LONGEST = 5  # n of the longest n-gram


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
