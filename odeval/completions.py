"""A run's completions without their texts, in a temporary file: read block of prompts by block of prompts.

Only the names of the prompts stay in memory, so a comparison does not grow with the number of completions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from odeval.errors import CannotJudge
from odeval.parts import iterate_rows, part_columns, places, read_part
from odeval.questions import Questions
from odeval.schemas import REWARD
from odeval.spool import Spool
from odeval.store import RunFolder
from odeval.sums import Sums
from odeval.types import PerPrompt

_COLUMNS = ("prompt_id", "sample_id", "seed", "token_ids", "logprobs", "completion", "finish_reason", "entropies")
_UNIT = 64  # prompts that are always read together
_ROWS = 2**16  # completions of a block
_KEY = [("prompt", pa.int32()), ("sample_id", pa.int32())]
_SAMPLED = [
    ("seed", pa.uint64()), ("finish_reason", pa.string()), ("num_tokens", pa.int32()), ("logprob", pa.float64()),
    ("entropy", pa.float64()), ("digest", pa.int64()),
]  # fmt: skip
_GRADED = [("correct", pa.float64()), ("answer", pa.string())]


class Completions:
    """The completions of a run, sorted by (prompt_id, sample_id), as frames of some prompts at a time.

    A frame has one row a completion: prompt_id, sample_id, seed, finish_reason, num_tokens, logprob (of the whole
    completion), entropy (summed over its tokens), digest (a hash of them), correct (1.0, 0.0 or NaN), answer, and
    reward where grades hold one.

    Args:
        prompt_ids: [P] str, sorted.
        tables: The rows, `prompt` an index into prompt_ids; those of one prompt stand in one table, in order.
        rewarded: There is a reward.

    Attributes:
        prompt_ids: As given.
        num_known: Column → completions of which it is known.
        num_samples: [P] completions of each prompt.
    """

    def __init__(
        self, prompt_ids: Sequence[str] | np.ndarray = (), tables: Iterable[pa.Table] = (), rewarded: bool = False
    ) -> None:
        self.prompt_ids = np.asarray(prompt_ids, dtype=object)
        self._schema = pa.schema([*_KEY, *_SAMPLED, *_GRADED, *([REWARD] if rewarded else [])])
        self.rows = Spool(self._schema)
        self.num_known = dict.fromkeys(self._schema.names, 0)
        self.num_samples = np.zeros(len(self.prompt_ids), dtype=np.int64)
        for table in tables:
            prompt = table["prompt"].to_numpy()
            self.rows.add(table.select(self._schema.names), prompt // _UNIT)
            self.num_samples += np.bincount(prompt, minlength=len(self.prompt_ids))
            for name in self.num_known:
                self.num_known[name] += table.num_rows - table[name].null_count

    def __len__(self) -> int:
        return len(self.rows)

    def knows_all(self, column: str) -> bool:
        """Tell whether a column is known of every completion."""
        return self.num_known[column] == len(self)

    def between(self, first: int, last: int) -> pd.DataFrame:
        """The completions of units first to last, without the last."""
        return self._frame(self.rows.read(range(first, last)))

    def of(self, prompt_ids: Iterable[str]) -> pd.DataFrame:
        """The completions of some prompts, sorted; names that are not asked are passed over."""
        names = np.array(sorted(set(prompt_ids)), dtype=object)
        place = np.searchsorted(self.prompt_ids, names)
        place = place[np.concatenate([self.prompt_ids, [None]])[place] == names]
        found = [self.rows.read([])]
        for unit in np.unique(place // _UNIT):
            table, own = self.rows.read([unit]), place[place // _UNIT == unit]
            ends = [np.searchsorted(table["prompt"].to_numpy(), own, side) for side in ("left", "right")]
            found += [table.slice(start, end - start) for start, end in zip(*ends, strict=True)]
        return self._frame(pa.concat_tables(found))

    def _frame(self, table: pa.Table) -> pd.DataFrame:
        columns = {name: _values(table[name].combine_chunks()) for name in self._schema.names[1:]}
        present, codes = np.unique(table["prompt"].to_numpy(), return_inverse=True)
        names = pd.Index(self.prompt_ids[present], dtype=object)
        return pd.DataFrame({"prompt_id": pd.Categorical.from_codes(codes, names), **columns}, copy=False)

    def whole(self) -> pd.DataFrame:
        """All of them at once: for a run that is known to be small."""
        return self.between(0, 1 + len(self.prompt_ids) // _UNIT)


def blocks(*runs: Completions) -> Iterator[list[pd.DataFrame]]:
    """Walk runs of the same prompts in step: the same prompts of each, some at a time.

    Args:
        runs: Of the same prompts.
    """
    if any(not np.array_equal(run.prompt_ids, runs[0].prompt_ids) for run in runs[1:]):
        raise ValueError("runs that are read in step must have been asked the same prompts")
    units = -(-len(runs[0].prompt_ids) // _UNIT)
    step = max(1, units * _ROWS // max(1, sum(map(len, runs))))
    for first in range(0, max(units, 1), step):
        yield [run.between(first, first + step) for run in runs]


def per_prompt(compute: Callable[..., Mapping[str, PerPrompt]], *runs: Completions) -> Sums:
    """Compute sums per prompt block by block; they are held on disk.

    Args:
        compute: Frames of the same prompts, one a run → name → PerPrompt.
        runs: Of the same prompts.
    """
    found = Sums(runs[0].prompt_ids)
    for frames in blocks(*runs):
        found.put(compute(*frames))
    return found


def load_completions(run: RunFolder, prompt_ids: Sequence[str] | np.ndarray | None = None) -> Completions:
    """Join samples with grades, without the texts. Parts may come in any order, and divide a prompt's samples.

    Args:
        run: Sampled and graded.
        prompt_ids: Of its prompts, sorted, where they are known already.

    Raises:
        CannotJudge: It holds samples of prompts that it was not asked.
    """
    names = Questions(run).ids if prompt_ids is None else np.asarray(prompt_ids, dtype=object)
    samples = Spool(pa.schema([*_KEY, *_SAMPLED]))
    for path in run.part_paths(run.samples):
        there = part_columns(path)  # samples of an older odeval have no entropies
        table = _packed(read_part(path, [name for name in _COLUMNS if name in there]), names)
        prompt = table["prompt"].to_numpy()
        if (prompt < 0).any():
            raise CannotJudge(f"{run.path}: a sample's prompt is not in prompts.jsonl; the run folder is not whole")
        samples.add(table, prompt // _UNIT)
    grades, rewarded = Spool(pa.schema([*_KEY, *_GRADED, REWARD])), False
    for table in iterate_rows(run.grades):
        rewarded = REWARD.name in table.column_names
        reward = table[REWARD.name] if rewarded else pa.nulls(table.num_rows, REWARD.type)
        place = places(table["prompt_id"], names)
        kept = {"sample_id": table["sample_id"], "correct": table["correct"].cast(pa.float64())}
        grades.add(pa.table({"prompt": place, **kept, "answer": table["answer"], "reward": reward}), place // _UNIT)
    units = range(-(-len(names) // _UNIT))
    found = Completions(names, (_joined(samples.read([u]), grades.read([u])) for u in units), rewarded)
    pa.default_memory_pool().release_unused()
    return found


def _packed(table: pa.Table, names: np.ndarray) -> pa.Table:
    """A part of the samples without its texts."""
    tokens = table["token_ids"].combine_chunks()
    known = tokens.null_count == 0
    told = "entropies" in table.column_names
    entropies = table["entropies"].combine_chunks() if told else pa.nulls(table.num_rows, pa.list_(pa.float32()))
    digest = _token_digests(tokens) if known else _text_digests(table["completion"].to_pylist())
    return pa.table({
        "prompt": places(table["prompt_id"], names),
        "sample_id": table["sample_id"],
        "seed": table["seed"],
        "finish_reason": table["finish_reason"],
        "num_tokens": pc.list_value_length(tokens) if known else pa.nulls(table.num_rows, pa.int32()),
        "logprob": _list_sums(table["logprobs"].combine_chunks()),
        "entropy": _list_sums(entropies),
        "digest": pa.array(digest, pa.int64()),
    })  # fmt: skip


def _joined(samples: pa.Table, grades: pa.Table) -> pa.Table:
    """Sort samples by prompt and number, and put their grades beside them; null where there is none."""
    keys, graded = _keys(samples), _keys(grades)
    if (np.diff(keys) <= 0).any():
        order = np.argsort(keys, kind="stable")
        samples, keys = samples.take(order), keys[order]
    if not np.array_equal(keys, graded):
        grades = grades.take(pc.index_in(pa.array(keys), value_set=pa.array(graded)))
    for name in grades.column_names[len(_KEY) :]:
        samples = samples.append_column(name, grades[name])
    return samples


def _keys(table: pa.Table) -> np.ndarray:
    found: np.ndarray = (table["prompt"].to_numpy().astype(np.int64) << 32) + table["sample_id"].to_numpy()
    return found


def _values(column: Any) -> Any:
    """A column of a frame; texts that repeat are categories, in order."""
    if not pa.types.is_string(column.type):
        return column.to_numpy(zero_copy_only=False)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    part = column.dictionary_encode()
    texts = np.array(part.dictionary.to_pylist(), dtype=object)
    order = np.argsort(texts)
    place = np.full(len(texts) + 1, -1, dtype=np.int32)  # the last stands for a text that is missing
    place[order] = np.arange(len(texts))
    codes = part.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    return pd.Categorical.from_codes(place[codes], categories=pd.Index(texts[order], dtype=object))


def _list_sums(lists: pa.ListArray) -> pa.Array:
    """Sum each list; null where it is null."""
    values, offsets = lists.values.to_numpy().astype(np.float64), lists.offsets.to_numpy()
    running = np.concatenate([[0.0], np.cumsum(values)])
    sums: np.ndarray = running[offsets[1:]] - running[offsets[:-1]]
    return pa.array(sums, mask=lists.is_null().to_numpy(zero_copy_only=False))


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
