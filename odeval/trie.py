"""Completions of some prompts as a trie: two tokens have one node if they follow the same tokens of the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Trie:
    """R completions and their N tokens.

    Attributes:
        prompt: [R] number of the prompt.
        start: [R] place of the first token.
        row: [N] completion of each token.
        token: [N] its id.
        node: [N] context in which it was chosen, numbered from 0.
    """

    prompt: np.ndarray
    start: np.ndarray
    row: np.ndarray
    token: np.ndarray
    node: np.ndarray

    def of_interest(self, nodes: np.ndarray) -> np.ndarray:
        """Places of the tokens that were chosen in some contexts."""
        wanted = np.zeros(int(self.node.max(initial=-1)) + 1, dtype=bool)
        wanted[nodes] = True
        return np.flatnonzero(wanted[self.node])


def grow(prompt_ids: Sequence[str], token_ids: pa.ChunkedArray) -> Trie:
    """Number the contexts, position by position; exact, without hashing.

    Args:
        prompt_ids: [R].
        token_ids: [R] lists, none null.

    Example:
        >>> grow(["p", "p", "q"], pa.chunked_array([[[7, 8], [7, 9], [7]]])).node.tolist()
        [0, 2, 0, 2, 1]
    """
    lists = token_ids.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    token = lists.flatten().to_numpy().astype(np.int64)
    length = np.diff(lists.offsets.to_numpy())
    start = np.cumsum(length) - length
    prompt = pd.factorize(np.asarray(prompt_ids, dtype=object))[0]
    width = int(token.max(initial=0)) + 1
    node = np.empty(len(token), dtype=np.int64)
    alive = np.flatnonzero(length > 0)
    here, used = prompt[alive], int(prompt.max(initial=-1)) + 1
    for t in range(int(length.max(initial=0))):
        node[start[alive] + t] = here
        longer = length[alive] > t + 1
        alive, here = alive[longer], here[longer]
        kinds, here = np.unique(here * width + token[start[alive] + t], return_inverse=True)
        here = here + used
        used += len(kinds)
    return Trie(prompt, start, np.repeat(np.arange(len(length)), length), token, node)
