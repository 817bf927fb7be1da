"""Sums per prompt in a temporary file: each metric is read when it is asked for, and let go again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from odeval.spool import room, temporary_file
from odeval.types import PerPrompt


class Sums(Mapping[str, PerPrompt]):
    """Name → PerPrompt over all prompts, 0 over 0 where nothing was put.

    Args:
        prompt_ids: [P] str, sorted.

    Example:
        >>> sums = Sums(np.array(["a", "b"], dtype=object))
        >>> sums.put({"length": PerPrompt(["b"], [12.0], [3.0])})
        >>> sums["length"].numerator.tolist(), sums["length"].denominator.tolist()
        ([0.0, 12.0], [0.0, 3.0])
    """

    def __init__(self, prompt_ids: np.ndarray) -> None:
        self._ids = prompt_ids
        self._places: dict[str, tuple[int, tuple[float, ...]]] = {}  # name → offset in the file, grid
        self._path, self._size = "", 0

    def put(self, sums: Mapping[str, PerPrompt]) -> None:
        """Take in some prompts' sums of some metrics, in place of what was there.

        Raises:
            OdevalError: The disk is full.
        """
        self._path = self._path or temporary_file(self)
        for name, own in sums.items():
            if name not in self._places:
                self._places[name] = self._size, own.grid
                with room(), Path(self._path).open("ab") as file:  # zeros, not a hole: a full disk must show here
                    for _ in range(max(1, len(own.grid))):
                        self._size += file.write(bytes(16 * len(self._ids)))
        if not self._size:
            return
        # Mapped for as long as it is written: what stays mapped would count as this process's memory.
        values, names, rows = np.memmap(self._path, np.float64, "r+"), None, np.zeros(0, dtype=np.int64)
        for name, own in sums.items():
            if own.prompt_ids is not names:
                names = own.prompt_ids
                rows = np.searchsorted(self._ids, names)
                if not np.array_equal(self._ids.take(rows, mode="clip"), names):
                    raise ValueError(f"{name}: sums of a prompt that the run was not asked")
            start, shape = self._places[name][0] // 8, self._shape(own.grid)
            table = values[start : start + int(np.prod(shape))].reshape(shape)
            table[0, rows], table[1, rows] = own.numerator, own.denominator

    def _shape(self, grid: tuple[float, ...]) -> tuple[int, ...]:
        return (2, len(self._ids), len(grid)) if grid else (2, len(self._ids))

    def __getitem__(self, name: str) -> PerPrompt:
        start, grid = self._places[name]
        shape = self._shape(grid)
        table = np.fromfile(self._path, np.float64, int(np.prod(shape)), offset=start).reshape(shape)
        return PerPrompt(self._ids, table[0], table[1], grid)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
