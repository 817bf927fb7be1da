"""The token tables of one trajectory, flattened without copies and read part by part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from odeval.parts import places
from odeval.schemas import BRANCH_COLUMNS, TOKEN_COLUMNS
from odeval.store import RunFolder
from odeval.types import PerPrompt


@dataclass(frozen=True, eq=False)
class TokenBlock:
    """Some completions of one trajectory, one value per generated token, in nats.

    Attributes:
        prompt_ids: [P] of the block.
        prompt: [N] index into prompt_ids for each token.
        sequence: [N] number of the completion inside the block.
        position: [N] place of the token in its completion, from 0.
        teacher_logprob: [N] of the sampled token, and so on for the six columns.
    """

    prompt_ids: np.ndarray
    prompt: np.ndarray
    sequence: np.ndarray
    position: np.ndarray
    teacher_logprob: np.ndarray
    student_logprob: np.ndarray
    teacher_entropy: np.ndarray
    student_entropy: np.ndarray
    forward_kl: np.ndarray
    reverse_kl: np.ndarray
    nucleus_recall: np.ndarray  # NaN where nobody looked: below BRANCH_FLOOR, or in a table without these columns
    top_overlap: np.ndarray
    dropped: np.ndarray

    def sums(self, numerator: np.ndarray, denominator: np.ndarray) -> PerPrompt:
        """Add up per-token values [N] by prompt."""
        count = len(self.prompt_ids)
        return PerPrompt(
            self.prompt_ids,
            np.bincount(self.prompt, weights=numerator, minlength=count),
            np.bincount(self.prompt, weights=denominator, minlength=count),
        )

    def sums_from(self, values: np.ndarray, grid: Sequence[float], weights: np.ndarray | None = None) -> np.ndarray:
        """Add up weights by prompt over tokens whose value is at least a grid point, [P, J]; counts without weights."""
        order, binned = self._binned(values, grid, weights)
        found = np.empty((len(binned), len(grid)))
        found[:, order] = np.cumsum(binned[:, ::-1], axis=1)[:, ::-1][:, 1:]
        return found

    def sums_below(self, values: np.ndarray, grid: Sequence[float], weights: np.ndarray | None = None) -> np.ndarray:
        """The same over tokens whose value is below a grid point."""
        order, binned = self._binned(values, grid, weights)
        found = np.empty((len(binned), len(grid)))
        found[:, order] = np.cumsum(binned, axis=1)[:, :-1]
        return found

    def _binned(
        self, values: np.ndarray, grid: Sequence[float], weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One pass over the tokens, however many grid points there are: sums by prompt and number of points reached."""
        order = np.argsort(np.asarray(grid, dtype=np.float64), kind="stable")
        width = len(grid) + 1
        place = self.prompt * width + np.searchsorted(np.asarray(grid, dtype=np.float64)[order], values, side="right")
        sums = np.bincount(place, weights, len(self.prompt_ids) * width).reshape(-1, width)
        return order, sums.astype(np.float64)

    def on_grid(self, numerator: np.ndarray, denominator: np.ndarray, grid: Sequence[float]) -> PerPrompt:
        """Wrap sums [P, J]."""
        return PerPrompt(self.prompt_ids, numerator, denominator, tuple(float(x) for x in grid))

    def sequence_starts(self) -> np.ndarray:
        """Index of the first token of every completion that has one."""
        return np.flatnonzero(self.position == 0)


def block(table: pa.Table) -> TokenBlock:
    """Flatten one part of tokens/."""
    prompt_ids, prompt, sequence, position = layout(table, "teacher_entropy")
    values = {name: flat(table[name]) for name in TOKEN_COLUMNS}
    unknown = np.full(len(prompt), np.nan, dtype=np.float32)
    values |= {name: flat(table[name]) if name in table.column_names else unknown for name in BRANCH_COLUMNS}
    return TokenBlock(prompt_ids=prompt_ids, prompt=prompt, sequence=sequence, position=position, **values)


def layout(table: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where the tokens of a list column belong: prompt ids [P], and prompt, completion and position of each, [N]."""
    lists = table[column].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    lengths = np.diff(lists.offsets.to_numpy())
    names = np.array(sorted(table["prompt_id"].unique().to_pylist()), dtype=object)
    prompt = places(table["prompt_id"], names)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(sequence)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return names, prompt[sequence], sequence, position


def blocks(run: RunFolder, trajectory: str) -> Iterator[TokenBlock]:
    """Yield the parts of a trajectory; memory does not grow with their number."""
    for table in run.iterate(run.tokens(trajectory)):
        yield block(table)


def last_parts(run: RunFolder, trajectory: str, prompt_ids: np.ndarray) -> np.ndarray:
    """Number of the last part that holds each prompt, [P]: a run that was extended, or imported, divides prompts."""
    found = np.full(len(prompt_ids), -1)
    for number, table in enumerate(run.iterate(run.tokens(trajectory), ["prompt_id"])):
        place = places(table["prompt_id"], prompt_ids)
        found[place[place >= 0]] = number
    return found


def whole_prompts(
    parts: Iterable[Mapping[str, PerPrompt]], prompt_ids: np.ndarray, last: np.ndarray
) -> Iterator[Mapping[str, PerPrompt]]:
    """Pass on the sums of parts, each prompt once and whole; only prompts that go on in a later part are held.

    Args:
        parts: Metric name → sums over one part; all metrics on the part's prompts.
        prompt_ids: [P] of the run, sorted.
        last: [P] as `last_parts` finds it.
    """
    held: Mapping[str, PerPrompt] = {}
    for number, sums in enumerate(parts):
        if held:
            sums = {name: combined([held[name], own]) for name, own in sums.items()}
        ends = last[np.searchsorted(prompt_ids, next(iter(sums.values())).prompt_ids)] <= number
        held = {} if ends.all() else {name: _of_prompts(own, ~ends) for name, own in sums.items()}
        yield sums if ends.all() else {name: _of_prompts(own, ends) for name, own in sums.items()}


def _of_prompts(sums: PerPrompt, rows: np.ndarray) -> PerPrompt:
    return PerPrompt(sums.prompt_ids[rows], sums.numerator[rows], sums.denominator[rows], sums.grid)


def flat(column: pa.ChunkedArray) -> np.ndarray:
    """The values of a list column, one after the other."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    values: np.ndarray = array.flatten().to_numpy(zero_copy_only=False)
    return values


def combined(parts: Sequence[PerPrompt]) -> PerPrompt:
    """Add up the sums of several blocks; a prompt may stand in more than one."""
    names, where = np.unique(np.concatenate([part.prompt_ids for part in parts]), return_inverse=True)
    sums = []
    for key in ("numerator", "denominator"):
        values = np.concatenate([getattr(part, key) for part in parts])
        total = np.zeros((len(names), *values.shape[1:]))
        np.add.at(total, where, values)
        sums.append(total)
    return PerPrompt(names, sums[0], sums[1], parts[0].grid)
