"""tinker-cookbook's `runs/ID/BENCHMARK/trajectories.jsonl`: {example_id, turns, reward, error} a line, one a sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, answer_of, assemble
from odeval.importers.tables import Row, as_object, head_keys, read_rows
from odeval.types import Prompt


def detect(path: Path) -> bool:
    return {"benchmark", "example_id", "turns", "reward"} <= head_keys(path)


def read(path: Path, options: ImportOptions) -> Imported:
    """Read stored trajectories; the lines of one example are its samples. Errors have reward 0 there, null here.

    Raises:
        OdevalError: A row is malformed, names no example, or has a reward other than 0 and 1 and no threshold is given.
    """
    rows = list(read_rows(path))
    asked: dict[str, str] = {}
    for where, row in rows:  # a failed sample stores no turns; another sample of it tells what was asked
        key = _key(row, where)
        asked[key] = asked.get(key) or _first_turn(row, where)
    tasks = sorted({str(row.get("benchmark")) for _, row in rows})
    if len(tasks) > 1:
        raise OdevalError(f"{path}: mixes benchmarks {', '.join(tasks)}; give one file a benchmark")
    answers = {_key(row, where): _answer(row) for where, row in reversed(rows) if _answer(row)}
    return assemble("tinker", _completions(rows, asked, answers), options, task=tasks[0] if tasks else "")


def _completions(rows: list[tuple[str, Row]], asked: dict[str, str], answers: dict[str, str]) -> Iterator[Found]:
    for where, row in rows:
        key = _key(row, where)
        said = [turn for turn in _turns(row, where) if turn.get("role") == "assistant"]
        logs, metrics = (as_object(row.get(name) or {}, f"{where} {name}") for name in ("logs", "metrics"))
        cut = metrics.get("max_tokens_reached") or metrics.get("context_overflow")
        error = row.get("error")
        yield Found(
            where,
            Prompt(text=asked[key], id=key, answer=answers.get(key, "")),
            completion=str(said[-1].get("content") or "") if said else None,
            score=row.get("reward"),
            null="" if error is None else "sample error (the tool counts it as wrong)",
            why="" if error is None else str(error),
            answer=None if logs.get("extracted") is None else str(logs["extracted"]),
            finish="" if not said else "length" if cut else "",
        )


def _key(row: Row, where: str) -> str:
    if not row.get("example_id"):
        raise OdevalError(f"{where}: example_id is empty, and the positions it falls back to change between rounds")
    return str(row["example_id"])


def _turns(row: Row, where: str) -> list[Row]:
    turns = row.get("turns")
    if not isinstance(turns, list):
        raise OdevalError(f"{where}: field 'turns' is a {type(turns).__name__}, expected a list")
    return [as_object(turn, f"{where} turn") for turn in turns]


def _first_turn(row: Row, where: str) -> str:
    turns = _turns(row, where)
    return str(turns[0].get("content") or "") if turns else ""


def _answer(row: Row) -> str:
    logs: Any = row.get("logs")
    return answer_of(logs.get("expected")) if isinstance(logs, dict) else ""
