"""Any table: one row a completion, or one row a prompt with lists, under whatever column names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError, unknown
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, answer_of, assemble, prompt_of, text_of
from odeval.importers.tables import Row, head_keys, read_rows

OURS = ("prompt", "completion", "correct", "id", "answer", "sample_id", "finish_reason", "seed", "reward")
_PER_COMPLETION = ("completion", "correct", "sample_id", "finish_reason", "seed", "reward")


def detect(path: Path) -> bool:
    keys = head_keys(path)
    return "correct" in keys and bool({"id", "prompt"} & keys)


def read(path: Path, options: ImportOptions) -> Imported:
    """Read a table by a column map.

    Args:
        path: JSONL, JSON, CSV or parquet. A cell of `completion` or `correct` may be a list: one row a prompt.
        options: `columns` maps our names to the file's; a name that is not mapped means itself.

    Raises:
        OdevalError: A mapped column does not exist, or a cell is malformed.
    """
    for ours in options.columns:
        if ours not in OURS:
            raise OdevalError(unknown("column in --map", ours, OURS))
    theirs = {ours: options.columns.get(ours, ours) for ours in OURS}
    rows = list(read_rows(path))
    present = {key for _, row in rows for key in row}
    for ours in options.columns:
        if theirs[ours] not in present and rows:
            raise OdevalError(f"{path}: {unknown('column', theirs[ours], present)}")
    if rows and not {theirs["id"], theirs["prompt"]} & present:
        raise OdevalError(
            f"{path}: has no column '{theirs['prompt']}' or '{theirs['id']}' to tell prompts apart, only "
            f"{', '.join(sorted(present))}; pass --map prompt=THEIRS,correct=THEIRS"
        )
    if rows and theirs["correct"] not in present and options.grader is None:
        raise OdevalError(
            f"{path}: has no column '{theirs['correct']}', only {', '.join(sorted(present))}; "
            "pass --map correct=THEIRS, or --grader NAME to grade the completions"
        )
    found = (item for where, row in rows for item in _completions(where, row, theirs))
    return assemble("table", found, options, recorded=f"column '{theirs['correct']}'")


def _completions(where: str, row: Row, theirs: Mapping[str, str]) -> Iterator[Found]:
    cells: dict[str, Any] = {ours: row.get(name) for ours, name in theirs.items()}
    if cells["id"] is None and cells["prompt"] is None:
        raise OdevalError(f"{where}: neither '{theirs['prompt']}' nor '{theirs['id']}' is given")
    if isinstance(cells["id"], float | list | dict) and not (
        isinstance(cells["id"], float) and cells["id"].is_integer()
    ):
        raise OdevalError(f"{where}: id {cells['id']!r} is neither text nor a whole number")
    identity = "" if cells["id"] is None else str(int(cells["id"]) if isinstance(cells["id"], float) else cells["id"])
    prompt = prompt_of(cells["prompt"], where, identity=identity, answer=answer_of(cells["answer"]))
    lists = {ours: cells[ours] for ours in _PER_COMPLETION if isinstance(cells[ours], list)}
    sizes = {len(cell) for cell in lists.values()}
    if len(sizes) > 1:
        said = ", ".join(f"{theirs[ours]} {len(cell)}" for ours, cell in lists.items())
        raise OdevalError(f"{where}: its lists differ in length ({said})")
    for place in range(sizes.pop() if sizes else 1):
        one = {ours: lists[ours][place] if ours in lists else cells[ours] for ours in _PER_COMPLETION}
        yield Found(
            where, prompt,
            completion=text_of(one["completion"], where, theirs["completion"]),
            score=one["correct"],
            finish=str(one["finish_reason"] or ""),
            seed=_number(one["seed"], where, theirs["seed"], 2**64),
            sample_id=_number(one["sample_id"], where, theirs["sample_id"], 2**31),
            reward=_reward(one["reward"], where, theirs["reward"]),
        )  # fmt: skip


def _reward(value: Any, where: str, name: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise OdevalError(f"{where}: {name} is {value!r}, expected a number") from None
    return number if math.isfinite(number) else None


def _number(value: Any, where: str, name: str, end: int) -> int | None:
    if value is None or value != value:
        return None
    try:
        number = int(value)
        exact = not isinstance(value, bool) and float(value) == float(number) and 0 <= number < end
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        raise OdevalError(f"{where}: {name} is {value!r}, expected a whole number from 0 to {end - 1}")
    return number
