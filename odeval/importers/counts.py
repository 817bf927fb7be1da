"""Counts: `{id, n, c}` a line. Enough for curves, bands, overlap and gate; the format of passk-inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from odeval.errors import OdevalError
from odeval.importers.base import COLUMNS, Imported, ImportOptions
from odeval.importers.tables import head_keys, read_rows
from odeval.types import Prompt

_MOST = 10_000_000  # completions of a prompt; more is a damaged file


def detect(path: Path) -> bool:
    return {"id", "n", "c"} <= head_keys(path)


def read(path: Path, options: ImportOptions) -> Imported:
    """Read counts per prompt.

    Raises:
        OdevalError: A row lacks a field, repeats an id, or has c > n; the text names file and row.
    """
    if options.grader is not None or options.threshold is not None:
        raise OdevalError(f"{path}: holds counts only, nothing to grade; leave out --grader and --threshold")
    counts: dict[str, tuple[int, int]] = {}
    contents: dict[str, str] = {}
    for where, row in read_rows(path):
        missing = [key for key in ("id", "n", "c") if row.get(key) is None]
        if missing:
            raise OdevalError(f"{where}: field '{missing[0]}' is missing; counts need id, n and c")
        key = str(row["id"])
        if not key:
            raise OdevalError(f"{where}: id is empty")
        if key in counts:
            raise OdevalError(f"{where}: id '{key}' stands there twice; merge its counts or rename it")
        n, c = (_whole(row[name], name, where) for name in ("n", "c"))
        if not 0 <= c <= n:
            raise OdevalError(f"{where}: c {c} of n {n}: must be 0 <= c <= n")
        counts[key] = (n, c)
        if row.get("content"):
            contents[key] = str(row["content"])
    if not counts:
        raise OdevalError(f"{path}: holds no counts; write one line {{id, n, c}} a prompt")
    dropped = [key for key, (n, _) in counts.items() if n == 0]
    return Imported(
        tool="counts",
        prompts=[Prompt(text="", id=key) for key in counts],
        rows=pd.DataFrame(columns=list(COLUMNS)),
        counts=counts,
        contents=contents,
        model=options.model,
        notes=[f"{len(dropped)} prompts have n = 0 and say nothing"] if dropped else [],
    )


def _whole(value: Any, name: str, where: str) -> int:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not (number.is_integer() and abs(number) <= _MOST):
        raise OdevalError(f"{where}: {name} is {value!r}, expected a whole number up to {_MOST:,}")
    return int(number)
