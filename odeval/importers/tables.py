"""Rows from JSONL, JSON, CSV and parquet, with file and row in every error."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from odeval.errors import OdevalError

Row = dict[str, Any]
_HEAD = 2**16  # characters of a .json file looked at to tell formats apart
_LINE = 2**26  # bytes of a first line
_DAMAGE = (OSError, EOFError, zlib.error, pa.ArrowException, csv.Error, ValueError, OverflowError, MemoryError)


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield (where, row) of a table file; `where` is "file:line" for errors.

    Args:
        path: .jsonl (also .gz), .json (an object or a list of them), .csv, .tsv or .parquet; other suffixes are read
            as JSONL.

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
    except OdevalError:
        raise
    except UnicodeDecodeError as error:
        raise OdevalError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except _DAMAGE as error:
        raise OdevalError(f"{path}: cannot be read ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """The first line of what an exception says, for a one-line message."""
    return str(getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0])


def head_keys(path: Path) -> set[str]:
    """Names of the first row's fields, empty if there is none; never raises.

    Of a .json file only the beginning is read: the names up to the first value that does not fit.
    """
    try:
        if path.suffix.lower() == ".json":
            return _leading_keys(head_text(path))
        if path.suffix.lower() == ".parquet":
            return set(pq.read_schema(path).names)
        if path.suffix.lower() in (".csv", ".tsv"):
            return set(next(read_rows(path))[1])
        with _opened(path) as file:  # bounded: what is looked at may be no text, and one line of gigabytes
            line = next(line for line in iter(lambda: file.readline(_LINE), b"") if line.strip())
        return set(as_object(parse_json(line.removeprefix(b"\xef\xbb\xbf"), str(path)), str(path)))
    except (OdevalError, StopIteration, *_DAMAGE):
        return set()


def head_text(path: Path) -> str:
    """The beginning of a text file, "" if it is none; never raises."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(_HEAD)
    except (OSError, ValueError):
        return ""


def _leading_keys(text: str) -> set[str]:
    decoder, keys = json.JSONDecoder(), set[str]()
    text = text.lstrip().removeprefix("[").lstrip()
    if not text.startswith("{"):
        return keys
    while text and text[0] in "{,":
        try:
            key, end = decoder.raw_decode(text[1:].lstrip())
            text = text[1:].lstrip()[end:].lstrip()
            if not isinstance(key, str) or not text.startswith(":"):
                return keys
            keys.add(key)
            _, end = decoder.raw_decode(text[1:].lstrip())
        except (ValueError, RecursionError):
            return keys
        text = text[1:].lstrip()[end:].lstrip()
    return keys


def parse_json(text: str | bytes, where: str, unique: bool = False) -> Any:
    """Parse JSON; half characters that UTF-8 cannot hold become "?".

    Args:
        text: JSON.
        where: File and row, for errors.
        unique: Refuse an object with one key twice, of which JSON readers silently keep the last.

    Raises:
        OdevalError: It is none.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique) if unique else json.loads(text)
    except UnicodeDecodeError as error:
        raise OdevalError(f"{where}: is not UTF-8 text (byte {error.start})") from error
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of more than 4300 digits
        raise OdevalError(f"{where}: is no JSON ({_json_reason(error)})") from error
    surrogate = b"\\ud" if isinstance(text, bytes) else "\\ud"
    return _whole_characters(value) if surrogate in text.lower() else value  # type: ignore[operator]


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _json_reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", reason(error))


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return value


def as_object(value: Any, where: str) -> Row:
    """Check that a JSON value is an object.

    Raises:
        OdevalError: It is something else.
    """
    if not isinstance(value, dict):
        raise OdevalError(f"{where}: is a {type(value).__name__}, expected an object")
    return value


def read_json_file(path: Path) -> Any:
    """Read one JSON file whole.

    Raises:
        OdevalError: It is missing, damaged, or not UTF-8.
    """
    try:
        return parse_json(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), str(path), unique=True)
    except OSError as error:
        raise OdevalError(f"{path}: cannot be read ({reason(error)})") from error


def _opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield f"{path}:{number}", as_object(parse_json(line, f"{path}:{number}"), f"{path}:{number}")


def _json(path: Path) -> Iterator[tuple[str, Row]]:
    content = read_json_file(path)
    for number, row in enumerate(content if isinstance(content, list) else [content], start=1):
        yield f"{path} item {number}", as_object(row, f"{path} item {number}")


def _csv(path: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    limit = csv.field_size_limit(sys.maxsize)  # a completion may be longer than the default 128 kB
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            while (row := _next(reader, path)) is not None:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise OdevalError(
                        f"{where}: has another number of fields than the header's {len(reader.fieldnames or [])}"
                    )
                yield where, {key: value for key, value in row.items() if value != ""}
    finally:
        csv.field_size_limit(limit)


def _next(reader: csv.DictReader[str], path: Path) -> dict[str | Any, str | Any] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise OdevalError(f"{path}:{reader.line_num}: is no CSV ({error})") from error


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row
