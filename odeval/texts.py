"""Completions of chosen prompts, read part by part and measured as texts. Memory does not grow with the prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa

from odeval.metrics.ngrams import LONGEST, take_apart
from odeval.metrics.textdiversity import compression_ratio, ead, self_bleu, vendi
from odeval.rows import UNBOUNDED, Entry
from odeval.store import RunFolder
from odeval.types import PerPrompt

TEXT_METRICS = {
    "ead": Entry(
        "expectation-adjusted distinct n-grams, n = 1 … 5", "ratio", "higher", (0, UNBOUNDED),
        "Liu et al. 2022, arXiv 2202.13587; averaged over n as in Kirk et al. 2023, arXiv 2310.06452",
    ),
    "self_bleu": Entry(
        "self-BLEU-4", "score", "lower", (0, 1), "Zhu et al. 2018, Texygen, arXiv 1802.01886; smoothing method1",
    ),
    "vendi": Entry(
        "Vendi score of n-gram kernels", "completions", "higher", (1, UNBOUNDED),
        "Friedman and Dieng 2022, arXiv 2210.02410",
    ),
    "vendi_2": Entry(
        "Vendi score of order 2", "completions", "higher", (1, UNBOUNDED),
        "Pasarkar and Dieng 2023, arXiv 2310.12952",
    ),
    "compression_ratio": Entry(
        "bytes / compressed bytes (zlib)", "ratio", "lower", (0, UNBOUNDED), "Shaib et al. 2024, arXiv 2403.00553",
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class TextMeasures:
    """One run's measures before the vocabulary is known.

    Attributes:
        prompt_ids: [P].
        values: Name in TEXT_METRICS, without ead → [P].
        distinct: [P, LONGEST] n-grams that differ, n = 1 … LONGEST.
        total: [P, LONGEST] n-grams.
        vocabulary: Every token (or word) met.
    """

    prompt_ids: np.ndarray
    values: dict[str, np.ndarray]
    distinct: np.ndarray
    total: np.ndarray
    vocabulary: set[int]

    def per_prompt(self, vocabulary: int) -> dict[str, PerPrompt]:
        """All of TEXT_METRICS, [P] with denominator 1; NaN where unknown."""
        found = {**self.values, "ead": ead(self.distinct, self.total, max(vocabulary, 1))}
        return {
            name: PerPrompt(self.prompt_ids, found[name], np.where(np.isfinite(found[name]), 1.0, np.nan))
            for name in TEXT_METRICS
        }


def measure_texts(run: RunFolder, chosen: pd.DataFrame, words: dict[str, int] | None = None) -> TextMeasures:
    """Compute every text measure on the chosen completions.

    Args:
        run: Where they are.
        chosen: Their prompt_id and sample_id.
        words: None to take token ids as they are; else words between white space are numbered in it, and added.
    """
    prompt_ids, rows, counts, vocabulary = [], [], [], set[int]()
    for prompt_id, tokens, texts in _prompts(run, chosen, words):
        apart = take_apart(tokens)
        prompt_ids.append(prompt_id)
        rows.append((self_bleu(apart), *vendi(apart), compression_ratio(texts)))
        counts.append([(grams.distinct, grams.total) for grams in apart.grams])
        vocabulary.update(np.unique(np.concatenate(tokens)).tolist())
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    pairs = np.array(counts, dtype=np.float64).reshape(-1, LONGEST, 2)
    names = ("self_bleu", "vendi", "vendi_2", "compression_ratio")
    return TextMeasures(
        np.array(prompt_ids, dtype=object),
        dict(zip(names, table.T, strict=True)),
        pairs[..., 0],
        pairs[..., 1],
        vocabulary,
    )


def _prompts(
    run: RunFolder, chosen: pd.DataFrame, words: dict[str, int] | None
) -> Iterator[tuple[str, list[np.ndarray], list[bytes]]]:
    """Yield a prompt as soon as all its chosen completions were met; they may stand in several parts."""
    wanted = {str(name): set(ids) for name, ids in chosen.groupby("prompt_id")["sample_id"]}
    held: dict[str, tuple[list[np.ndarray], list[bytes]]] = {}
    columns = ["prompt_id", "sample_id", "completion", *(["token_ids"] if words is None else [])]
    for part in run.iterate(run.samples, columns):
        keys = zip(part["prompt_id"].to_pylist(), part["sample_id"].to_pylist(), strict=True)
        part = part.filter(pa.array([sample_id in wanted.get(name, ()) for name, sample_id in keys], pa.bool_()))
        texts = [text or "" for text in part["completion"].to_pylist()]
        tokens = _token_arrays(part) if words is None else [_numbered(text, words) for text in texts]
        for name, own, text in zip(part["prompt_id"].to_pylist(), tokens, texts, strict=True):
            found = held.setdefault(name, ([], []))
            found[0].append(own)
            found[1].append(text.encode(errors="surrogatepass"))
            if len(found[0]) == len(wanted[name]):
                yield name, *held.pop(name)


def _token_arrays(part: pa.Table) -> list[np.ndarray]:
    lists = part["token_ids"].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]


def _numbered(text: str, words: dict[str, int]) -> np.ndarray:
    return np.array([words.setdefault(word, len(words)) for word in text.split()], dtype=np.int64)
