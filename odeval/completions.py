"""A run's completions as one table, without their texts: some 50 bytes each, which is all that grows with a run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from odeval.parts import iterate_rows, num_rows
from odeval.store import RunFolder

_COLUMNS = ("prompt_id", "sample_id", "seed", "token_ids", "logprobs", "completion", "finish_reason")
_KEYS = ["prompt_id", "sample_id"]


def load_completions(run: RunFolder) -> pd.DataFrame:
    """Join samples with grades, without the texts.

    Returns:
        Frame sorted by (prompt_id, sample_id); `correct` is 1.0, 0.0 or NaN. Texts that repeat (prompt_id, answer,
        finish_reason) are categories.
    """
    samples = _Columns(sum(map(num_rows, run.part_paths(run.samples))), ["prompt_id", "finish_reason"])
    for table in run.iterate(run.samples, _COLUMNS):
        tokens = table["token_ids"].combine_chunks()
        known = tokens.null_count == 0
        digest = _token_digests(tokens) if known else _text_digests(table["completion"].to_pylist())
        lengths = pa.compute.list_value_length(tokens).to_numpy(zero_copy_only=False) if known else None
        samples.add(
            table.select(["prompt_id", "sample_id", "seed", "finish_reason"]),
            num_tokens=np.full(table.num_rows, np.nan) if lengths is None else lengths.astype(np.int32),
            logprob=_list_sums(table["logprobs"].combine_chunks()),
            digest=np.array(digest, dtype=np.int64),
        )
    grades = _Columns(num_rows(run.grades), ["prompt_id", "answer"])
    for table in iterate_rows(run.grades):
        correct = table["correct"].cast(pa.float64()).to_numpy(zero_copy_only=False)
        grades.add(
            table.drop_columns([name for name in ("correct", "why") if name in table.column_names]), correct=correct
        )
    joined = _with_grades(samples.frame(), grades.frame())
    pa.default_memory_pool().release_unused()
    order = np.lexsort((joined["sample_id"].to_numpy(), joined["prompt_id"].cat.codes.to_numpy()))
    return joined if (np.diff(order) == 1).all() else joined.take(order).reset_index(drop=True)


class _Columns:
    """Fills a table part by part; arrays have their full length from the start, or their growing would cost as much.

    Args:
        rows: Of the whole table.
        texts: Columns of which the few distinct texts are numbered, and the rest forgotten.
    """

    def __init__(self, rows: int, texts: Sequence[str]) -> None:
        self._rows, self._done = rows, 0
        self._codes: dict[str, dict[str | None, int]] = {name: {} for name in texts}
        self._arrays: dict[str, np.ndarray] = {}

    def add(self, table: pa.Table, **more: np.ndarray) -> None:
        parts = dict(more)
        for name in table.column_names:
            column = table[name].combine_chunks()
            known = self._numbered(name, column) if name in self._codes else column.to_numpy(zero_copy_only=False)
            parts[name] = known
        end = self._done + table.num_rows
        for name, values in parts.items():
            held = self._arrays.get(name)
            kind = values.dtype if held is None else np.promote_types(held.dtype, values.dtype)
            if held is None:
                held = np.empty(self._rows, kind)
            self._arrays[name] = held if held.dtype == kind else held.astype(kind)
            self._arrays[name][self._done : end] = values
        self._done = end

    def _numbered(self, name: str, column: Any) -> np.ndarray:
        known, part = self._codes[name], column.dictionary_encode()
        own = [known.setdefault(text, len(known)) for text in part.dictionary.to_pylist()]
        codes = part.indices.fill_null(len(own)).to_numpy(zero_copy_only=False)
        found: np.ndarray = np.array([*own, -1], dtype=np.int32)[codes]
        return found

    def frame(self) -> pd.DataFrame:
        columns = {name: self._values(name, self._arrays.pop(name)) for name in list(self._arrays)}
        return pd.DataFrame(columns, copy=False)

    def _values(self, name: str, values: np.ndarray) -> Any:
        if name not in self._codes:
            return values
        texts = np.array(list(self._codes[name]), dtype=object)
        order = np.argsort(texts)
        place = np.full(len(texts) + 1, -1, dtype=np.int32)  # the last stands for −1, a text that is missing
        place[order] = np.arange(len(texts))
        return pd.Categorical.from_codes(place[values], categories=pd.Index(texts[order], dtype=object))


def _with_grades(samples: pd.DataFrame, grades: pd.DataFrame) -> pd.DataFrame:
    """Add correct, answer and perhaps reward. Grades stand in the order of the samples, if nothing was moved."""
    if all(samples[key].array.equals(grades[key].array) for key in _KEYS):
        return samples.assign(**{name: grades[name] for name in grades.columns.drop(_KEYS)})
    joined = samples.merge(grades, on=_KEYS, how="left", validate="one_to_one")
    return joined.astype({"prompt_id": samples["prompt_id"].dtype})


def _list_sums(lists: pa.ListArray) -> np.ndarray:
    """Sum each list; NaN where it is null."""
    values, offsets = lists.values.to_numpy().astype(np.float64), lists.offsets.to_numpy()
    running = np.concatenate([[0.0], np.cumsum(values)])
    sums: np.ndarray = running[offsets[1:]] - running[offsets[:-1]]
    sums[lists.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return sums


def _token_digests(tokens: pa.ListArray) -> list[int]:
    values, offsets = tokens.values.to_numpy(), tokens.offsets.to_numpy()
    return [_digest(values[start:end].tobytes()) for start, end in pairwise(offsets)]


def _text_digests(texts: Sequence[str | None]) -> list[int]:
    """A completion that is missing is no copy of another that is missing."""
    return [
        _digest(b"missing %d" % row if text is None else b"text " + text.encode(errors="surrogatepass"))
        for row, text in enumerate(texts)
    ]


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
