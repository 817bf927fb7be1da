"""One parquet file of a run folder: written atomically, with what it was made from; damage is told in one line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from odeval.atomic import write_bytes
from odeval.errors import OdevalError
from odeval.provenance import git_state, versions
from odeval.schemas import BOUND_COLUMNS, BRANCH_COLUMNS, TOKEN_COLUMNS


def write_table(path: Path, table: pa.Table, made_from: Mapping[str, Any]) -> None:
    """Write one parquet part atomically; equal rows and equal `made_from` give equal bytes.

    The time of writing stands in run.json only, so that a resumed run equals an uninterrupted one.
    """
    record = json.dumps({"versions": versions(), "git": git_state(), **made_from}, sort_keys=True)
    table = table.replace_schema_metadata({"provenance": record})
    stream = [
        f"{name}.list.element"
        for name in (*TOKEN_COLUMNS, *BRANCH_COLUMNS, *BOUND_COLUMNS)
        if name in table.column_names
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=[c for c in ("prompt_id", "finish_reason", "why") if c in table.column_names],
        column_encoding=dict.fromkeys(stream, "BYTE_STREAM_SPLIT") or None,
        write_page_checksum=True,
    )
    write_bytes(path, sink.getvalue().to_pybytes())


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one parquet file that `write_table` wrote.

    Raises:
        OdevalError: It is damaged.
    """
    with _damage(path):
        wanted = None if columns is None else list(columns)
        return pq.read_table(path, columns=wanted, partitioning=None, page_checksum_verification=True)


def num_rows(path: Path) -> int:
    """Rows of a parquet file, read from its footer.

    Raises:
        OdevalError: It is damaged.
    """
    with _damage(path):
        return int(pq.read_metadata(path).num_rows)


def iterate_rows(path: Path, rows: int = 65_536) -> Iterator[pa.Table]:
    """Read a parquet file that `write_table` wrote some rows at a time.

    Raises:
        OdevalError: It is damaged.
    """
    with _damage(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        for batch in file.iter_batches(rows):
            yield pa.Table.from_batches([batch], schema)


def part_provenance(path: Path) -> dict[str, Any]:
    """Read back what `write_table` recorded in a parquet file.

    Raises:
        OdevalError: It is damaged.
    """
    with _damage(path):
        found = pq.read_schema(path).metadata or {}
        record: dict[str, Any] = json.loads(found.get(b"provenance", b"{}"))
    return record


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OdevalError(f"{path}: damaged ({reason}); delete it and rerun the stage that wrote it") from error


def part_columns(path: Path) -> list[str]:
    """Names of a part's columns.

    Raises:
        OdevalError: It is damaged.
    """
    with _damage(path):
        names: list[str] = pq.read_schema(path).names
    return names


def is_from(path: Path, made_from: Mapping[str, Any]) -> bool:
    """Tell whether a part is there and was made from just this."""
    if not path.exists():
        return False
    found = part_provenance(path)
    return all(found.get(key) == value for key, value in made_from.items())


def places(column: Any, names: np.ndarray) -> np.ndarray:
    """Index of each prompt id in the sorted names, −1 where it is not there."""
    part = column.combine_chunks().dictionary_encode()
    own = np.array(part.dictionary.to_pylist(), dtype=object)
    place = np.minimum(np.searchsorted(names, own), max(len(names) - 1, 0))
    place = np.where(names[place] == own, place, -1) if len(names) else np.full(len(own), -1)
    found: np.ndarray = place.astype(np.int32)[part.indices.to_numpy()]
    return found
