"""lighteval's `details_TASK_DATE.parquet`: {doc, model_response, metric} a row, without single outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError, unknown
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, answer_of, assemble, text_of
from odeval.importers.tables import Row, as_object, head_keys, read_rows
from odeval.types import Prompt


def detect(path: Path) -> bool:
    return path.suffix == ".parquet" and {"doc", "model_response", "metric"} <= head_keys(path)


def read(path: Path, options: ImportOptions) -> Imported:
    """Read every response of every document.

    Args:
        path: The details file.
        options: A grader; without one only logs of a single response can be read, by `metric`.

    Raises:
        OdevalError: There are several responses and no grader, or the file is damaged.
    """
    rows = list(read_rows(path))
    deepest = max((len(_texts(row, where)) for where, row in rows), default=1)
    chosen = ""
    if options.grader is None and rows:
        if deepest > 1:
            raise OdevalError(
                f"{path}: lighteval keeps no outcome of one response, only metrics over {deepest} of a prompt; pass "
                "--grader NAME to grade them"
            )
        chosen = _metric(rows[0], options)
    tasks = sorted({str(_part(row, "doc", where).get("task_name") or "") for where, row in rows})
    if len(tasks) > 1:
        raise OdevalError(f"{path}: mixes tasks {', '.join(tasks)}; give one file a task")
    return assemble(
        "lighteval", _completions(rows, chosen), options, task=tasks[0] if tasks else "", sampling=_sampling(rows),
        recorded=f"recorded by lighteval ({chosen})",
    )  # fmt: skip


def _completions(rows: list[tuple[str, Row]], chosen: str) -> Iterator[Found]:
    for place, (where, row) in enumerate(rows):
        doc = _part(row, "doc", where)
        answers = _golds(doc, where)
        prompt = Prompt(
            text=text_of(doc.get("query"), where, "doc.query") or "",
            id=str(doc.get("id") or place),
            answer=" | ".join(answers),
        )
        texts = _texts(row, where)
        for text in texts or [None]:
            score = _part(row, "metric", where).get(chosen) if chosen else None
            yield Found(
                where, prompt, text, score=score, answers=answers, null="" if texts else "the model gave no completion"
            )


def _part(row: Row, name: str, where: str) -> Row:
    return as_object(row.get(name), f"{where} field '{name}'")


def _texts(row: Row, where: str) -> list[str | None]:
    """The responses without their reasoning where lighteval took it off."""
    response = _part(row, "model_response", where)
    texts = response.get("text_post_processed") or response.get("text") or []
    if not isinstance(texts, list):
        raise OdevalError(f"{where}: field 'model_response.text' is a {type(texts).__name__}, expected a list")
    return [text_of(text, where, "model_response.text") for text in texts]


def _golds(doc: Row, where: str) -> list[str]:
    choices, places = doc.get("choices") or [], doc.get("gold_index")
    places = places if isinstance(places, list) else [] if places is None else [places]
    if not all(isinstance(place, int) and 0 <= place < len(choices) for place in places):
        raise OdevalError(f"{where}: doc.gold_index {places} is outside its {len(choices)} choices")
    return [answer_of(choices[place]) for place in places]


def _metric(first: tuple[str, Row], options: ImportOptions) -> str:
    where, row = first
    offered = [name for name, value in _part(row, "metric", where).items() if isinstance(value, int | float)]
    if options.metric and options.metric not in offered:
        raise OdevalError(f"{where}: {unknown('metric', options.metric, offered)}")
    if not options.metric and len(offered) != 1:
        raise OdevalError(
            f"{where}: {len(offered)} metrics are recorded; choose one with --metric: {' or '.join(offered)}"
        )
    return options.metric or offered[0]


def _sampling(rows: list[tuple[str, Row]]) -> dict[str, Any]:
    limits = {_part(row, "doc", where).get("generation_size") for where, row in rows}
    return {"max_tokens": limits.pop()} if len(limits) == 1 else {}
