"""Rows from JSONL, JSON, CSV and parquet, with file and row in every error."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from odeval.errors import OdevalError

_HEAD = 2**20  # bytes looked at to tell formats apart


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) of a table file; `where` is "file:line" for errors.

    Args:
        path: .jsonl, .json (a list of objects), .csv, .tsv or .parquet; other suffixes are read as JSONL.

    Raises:
        OdevalError: The file is missing or damaged, or a row is no object.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        elif suffix in (".csv", ".tsv"):
            yield from _csv(path, "\t" if suffix == ".tsv" else ",")
        elif suffix == ".json":
            yield from _json(path)
        else:
            yield from _jsonl(path)
    except UnicodeDecodeError as error:
        raise OdevalError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except (OSError, pa.ArrowException, csv.Error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OdevalError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or reason})") from error


def head_keys(path: Path) -> set[str]:
    """Names of the first row's fields, empty if there is none; never raises."""
    try:
        if path.suffix.lower() == ".json" and path.stat().st_size > _HEAD:
            return set()
        _, row = next(iter(read_rows(path)))
    except (OdevalError, StopIteration, OSError):
        return set()
    return set(row)


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", _object(line, f"{path}:{number}")


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise OdevalError(f"{where}: is no JSON ({getattr(error, 'msg', 'nested too deeply')})") from error
    if not isinstance(row, dict):
        raise OdevalError(f"{where}: is a {type(row).__name__}, expected an object")
    return row


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise OdevalError(f"{path}: is no JSON ({getattr(error, 'msg', 'nested too deeply')})") from error
    rows = content if isinstance(content, list) else [content]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise OdevalError(f"{path} item {number}: is a {type(row).__name__}, expected an object")
        yield f"{path} item {number}", row


def _csv(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise OdevalError(
                    f"{where}: has another number of fields than the header's {len(reader.fieldnames or [])}"
                )
            yield where, {key: value for key, value in row.items() if value != ""}


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row
