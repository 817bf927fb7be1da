"""EvalPlus: `…_eval_results.json`, {"hash", "eval": {task_id: [{solution, base_status, plus_status}]}}."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError, unknown
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, assemble, text_of
from odeval.importers.tables import as_object, head_keys, read_json_file, read_rows
from odeval.types import Prompt

_TESTS = {"base": ("base_status",), "plus": ("base_status", "plus_status")}
_STATUS = {"pass": True, "fail": False, "timeout": None}


def detect(path: Path) -> bool:
    keys = head_keys(path)
    return {"hash", "eval"} <= keys or {"task_id", "solution"} <= keys


def read(path: Path, options: ImportOptions) -> Imported:
    """Read evaluated samples.

    Args:
        path: The results file.
        options: `metric` base or plus; plus (which needs both test sets passed) where it was run.

    Raises:
        OdevalError: These are samples without outcomes, or the file is damaged.
    """
    if path.suffix != ".json":
        where, row = next(read_rows(path), (str(path), {}))
        if isinstance(row.get("solution"), list):
            raise OdevalError(f"{where}: field 'solution' is a list, which EvalPlus scores 0; write one row a solution")
        raise OdevalError(
            f"{where}: samples without outcomes; run `evalplus.evaluate --samples {path.name}` and import the "
            "_eval_results.json it writes"
        )
    tasks = as_object(as_object(read_json_file(path), str(path)).get("eval"), f"{path} key 'eval'")
    samples = [
        (f"{path} task {task} item {number}", task, as_object(sample, f"{path} task {task} item {number}"))
        for task, rows in tasks.items()
        for number, sample in enumerate(_list(rows, f"{path} task {task}"), start=1)
    ]
    with_plus = all(sample.get("plus_status") is not None for _, _, sample in samples)
    tests = options.metric or ("plus" if with_plus else "base")
    if tests not in _TESTS:
        raise OdevalError(unknown("metric", tests, _TESTS))
    notes = [] if with_plus or options.metric else ["only the base tests were run"]
    return assemble(
        "evalplus",
        _completions(samples, _TESTS[tests]),
        options,
        notes,
        recorded=f"recorded by evalplus ({tests} tests)",
    )


def _completions(samples: list[tuple[str, str, dict[str, Any]]], tests: tuple[str, ...]) -> Iterator[Found]:
    for where, task, sample in samples:
        statuses = [sample.get(test) for test in tests]
        for test, status in zip(tests, statuses, strict=True):
            if not isinstance(status, str) or status not in _STATUS:
                raise OdevalError(f"{where}: {test} is {status!r}, expected one of {', '.join(_STATUS)}")
        said = [_STATUS[str(status)] for status in statuses]
        # One failed test set is wrong, whatever the other did; a time-out alone is no verdict.
        correct = False if False in said else None if None in said else True
        yield Found(
            where,
            Prompt(text="", id=task),
            completion=text_of(sample.get("solution"), where, "solution"),
            score=correct,
            null="timed out (the tool counts it as wrong)" if correct is None else "",
            why=", ".join(
                f"{test.removesuffix('_status')} {status}" for test, status in zip(tests, statuses, strict=True)
            ),
        )


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise OdevalError(f"{where}: is a {type(value).__name__}, expected a list of samples")
    return value
