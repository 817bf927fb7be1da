"""reasoning-gym's eval results: `CATEGORY/DATASET.json`, or `results.json` of a whole run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, answer_of, assemble, text_of
from odeval.importers.tables import Row, as_object, head_keys, read_json_file
from odeval.types import Prompt


def detect(path: Path) -> bool:
    keys = head_keys(path)
    one = {"name", "category", "average_best_score", "results"} <= keys
    return path.suffix == ".json" and (one or {"metadata", "categories"} <= keys)


def read(path: Path, options: ImportOptions) -> Imported:
    """Read scored completions. Scores give partial credit, so most datasets need a threshold.

    Where the entries' metadata was saved, `--grader reasoning_gym` scores the completions anew.

    Raises:
        OdevalError: A score is neither 0 nor 1 and no threshold is given, or the file is damaged.
    """
    whole = as_object(read_json_file(path), str(path))
    said = as_object(whole.get("metadata") or {}, f"{path} key 'metadata'")
    datasets = [whole]
    if "categories" in whole:
        categories = [
            as_object(item, f"{path} category") for item in _list(whole["categories"], f"{path} key 'categories'")
        ]
        datasets = [
            as_object(item, f"{path} dataset")
            for category in categories
            for item in _list(category.get("datasets"), f"{path} category {category.get('name')}")
        ]
    found = [item for dataset in datasets for item in _completions(path, dataset)]
    lost = sum(_missing(dataset) for dataset in datasets)
    notes = [f"{lost} completions are missing: their requests failed and the tool kept no trace"] if lost else []
    return assemble(
        "reasoning_gym", found, options, notes, model=str(said.get("model") or ""),
        task=", ".join(str(dataset.get("name")) for dataset in datasets),
        sampling={key: said.get(key) for key in ("temperature", "top_p", "max_tokens")},
    )  # fmt: skip


def _completions(path: Path, dataset: Row) -> Iterator[Found]:
    name = str(dataset.get("name"))
    for place, value in enumerate(_list(dataset.get("results"), f"{path} dataset {name}")):
        where = f"{path} dataset {name} entry {place}"
        entry = as_object(value, where)
        prompt = Prompt(
            text=text_of(entry.get("question"), where, "question") or "",
            id=f"{name}/{place}",
            answer=_answer(entry, name),
        )
        completions = _list(entry.get("completions"), where)
        if not completions:
            yield Found(
                where, prompt, null="the model gave no completion", why=str(entry.get("error") or ""), finish="error"
            )
        for item in completions:
            one = as_object(item, where)
            yield Found(
                where,
                prompt,
                completion=text_of(one.get("full_model_response"), where, "full_model_response"),
                score=one.get("score"),
                null="the scorer failed (the tool counts it as wrong)" if "error" in one else "",
                why=str(one.get("error") or ""),
                answer=None if one.get("model_answer") is None else str(one["model_answer"]),
            )


def _answer(entry: Row, name: str) -> str:
    """The expected answer, or with metadata the entry as the tool's own scorers want it."""
    if not isinstance(entry.get("metadata"), dict):
        return answer_of(entry.get("expected_answer"))
    metadata = {"source_dataset": name, **entry["metadata"]}
    known = {"question": entry.get("question"), "answer": entry.get("expected_answer"), "metadata": metadata}
    return json.dumps(known, ensure_ascii=False, sort_keys=True)


def _missing(dataset: Row) -> int:
    wanted = dataset.get("completions_per_prompt")
    if not isinstance(wanted, int):
        return 0
    return sum(max(0, wanted - max(1, len(entry["completions"]))) for entry in dataset["results"])


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise OdevalError(f"{where}: is a {type(value).__name__}, expected a list")
    return value
