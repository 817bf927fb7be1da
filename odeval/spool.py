"""Rows in a temporary file, written in any order and read group by group: what must be held of a run, out of memory."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from odeval.errors import OdevalError

_HELD = 2**17  # rows that wait to be written


class Spool:
    """A table cut into groups, in a file that goes when the object goes.

    Args:
        schema: Of the rows.

    Example:
        >>> spool = Spool(pa.schema([("value", pa.int64())]))
        >>> spool.add(pa.table({"value": [10, 11, 12]}), np.array([1, 0, 1]))
        >>> spool.read([1])["value"].to_pylist(), len(spool)
        ([10, 12], 3)
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema, self._rows, self._waiting = schema, 0, 0
        self._tables: list[pa.Table] = []
        self._groups: list[np.ndarray] = []
        self._batches: dict[int, list[int]] = {}  # group → numbers of its batches
        self._written = 0
        self._path = ""
        self._writer: pa.RecordBatchFileWriter | None = None
        self._reader: pa.RecordBatchFileReader | None = None

    def __len__(self) -> int:
        return self._rows

    def add(self, table: pa.Table, group: np.ndarray) -> None:
        """Take in rows, each of the group that stands beside it; rows of one group stay in order.

        Raises:
            OdevalError: The file cannot be written.
        """
        self._tables.append(table.cast(self._schema))
        self._groups.append(group)
        self._rows, self._waiting = self._rows + table.num_rows, self._waiting + table.num_rows
        if self._waiting >= _HELD:
            self._write()

    def _write(self) -> None:
        table, group = pa.concat_tables(self._tables), np.concatenate(self._groups)
        self._tables, self._groups, self._waiting = [], [], 0
        if (np.diff(group) < 0).any():
            order = np.argsort(group, kind="stable")
            table, group = table.take(order), group[order]
        table = table.combine_chunks()
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        with room():
            writer = self._open()
            for start, end in zip(starts, [*starts[1:], len(group)], strict=True):
                for batch in table.slice(start, end - start).to_batches():
                    writer.write_batch(batch)
                    self._batches.setdefault(int(group[start]), []).append(self._written)
                    self._written += 1

    def _open(self) -> pa.RecordBatchFileWriter:
        if self._writer is None:
            self._path = temporary_file(self)
            self._writer = pa.ipc.new_file(pa.OSFile(self._path, "wb"), self._schema)
        return self._writer

    def read(self, groups: Iterable[int]) -> pa.Table:
        """The rows of some groups, one group after the other; nothing may be added afterwards."""
        if self._tables:
            self._write()
        if self._reader is None and self._writer is not None:
            self._writer.close()
            self._reader = pa.ipc.open_file(pa.OSFile(self._path))
        wanted = [number for group in groups for number in self._batches.get(group, ())]
        batches = [self._reader.get_batch(number) for number in wanted] if self._reader is not None else []
        return pa.Table.from_batches(batches, self._schema)


def temporary_file(owner: object) -> str:
    """Path of an empty file that goes when its owner goes."""
    with room():
        handle, path = tempfile.mkstemp(prefix="odeval-")
    os.close(handle)
    weakref.finalize(owner, _remove, path)
    return path


@contextmanager
def room() -> Iterator[None]:
    """Say what to do where the disk is full.

    Raises:
        OdevalError: It is.
    """
    try:
        yield
    except OSError as error:
        raise OdevalError(
            f"{tempfile.gettempdir()}: cannot hold what is compared ({error.strerror or error}); "
            "set TMPDIR to a folder with more room"
        ) from error


def _remove(path: str) -> None:
    with suppress(OSError):
        Path(path).unlink()
