"""A run's completions as one table, without their texts: some 80 bytes each, which is all that grows with a run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa

from odeval.parts import read_part
from odeval.store import RunFolder


def load_completions(run: RunFolder) -> pd.DataFrame:
    """Join samples with grades, without the texts.

    Returns:
        Frame sorted by (prompt_id, sample_id); `correct` is 1.0, 0.0 or NaN.
    """
    columns = ["prompt_id", "sample_id", "seed", "token_ids", "logprobs", "completion", "finish_reason"]
    frames = []
    for table in run.iterate(run.samples, columns):
        tokens = table["token_ids"].combine_chunks()
        known = tokens.null_count == 0
        frame = table.select(["prompt_id", "sample_id", "seed", "finish_reason"]).to_pandas()
        lengths = pa.compute.list_value_length(tokens).to_numpy(zero_copy_only=False) if known else np.nan
        frame["num_tokens"] = lengths
        frame["logprob"] = _list_sums(table["logprobs"].combine_chunks())
        frame["digest"] = _token_digests(tokens) if known else _text_digests(table["completion"].to_pylist())
        frames.append(frame)
    samples = pd.concat(frames, ignore_index=True)
    frames.clear()
    joined = _with_grades(samples, read_part(run.grades))
    prompt, _ = pd.factorize(joined["prompt_id"], sort=True)
    order = np.lexsort((joined["sample_id"].to_numpy(), prompt))
    return joined if (np.diff(order) == 1).all() else joined.take(order).reset_index(drop=True)


def _with_grades(samples: pd.DataFrame, table: pa.Table) -> pd.DataFrame:
    """Add correct, answer and perhaps reward. Grades stand in the order of the samples, if nothing was moved."""
    names = [name for name in ("prompt_id", "sample_id", "answer", "reward") if name in table.column_names]
    grades = table.select(names).to_pandas()
    grades.insert(2, "correct", table["correct"].cast(pa.float64()).to_numpy(zero_copy_only=False))
    keys = ["prompt_id", "sample_id"]
    if len(grades) == len(samples) and all((grades[key] == samples[key]).all() for key in keys):
        return samples.assign(**{name: grades[name] for name in grades.columns.drop(keys)})
    return samples.merge(grades, on=keys, how="left", validate="one_to_one")


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
