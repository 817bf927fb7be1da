"""verl's validation generations: `validation_data_dir/STEP.jsonl`, {input, output, gts, score, step, …} a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from odeval.errors import OdevalError, unknown
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, answer_of, assemble, text_of
from odeval.importers.tables import Row, head_keys, read_rows
from odeval.types import Prompt

_OWN = ("input", "output", "gts", "step")


def detect(path: Path) -> bool:
    return {"input", "output", "score", "step"} <= head_keys(path)


def read(path: Path, options: ImportOptions) -> Imported:
    """Read one validation step. verl writes no prompt ids, so completions of one input and answer are one prompt.

    Args:
        path: The file of one step.
        options: `metric` names another reward column than "score", such as "acc".

    Raises:
        OdevalError: A row lacks a field, the file mixes steps, or a score is neither 0 nor 1 and no threshold is given.
    """
    rows = list(read_rows(path))
    metric = options.metric or "score"
    if rows and metric not in rows[0][1]:
        raise OdevalError(f"{rows[0][0]}: {unknown('metric', metric, rows[0][1].keys() - set(_OWN))}")
    steps = {str(row.get("step")) for _, row in rows}
    if len(steps) > 1:
        raise OdevalError(f"{path}: mixes steps {', '.join(sorted(steps))}; give one file a step")
    found = list(_completions(rows, metric))
    sizes = Counter(item.prompt.prompt_id for item in found)
    usual = min(sizes.values(), default=1)
    merged = sum(size > usual for size in sizes.values())
    notes = [f"{merged} prompts have more than {usual} completions: verl names no prompts, and equal ones were merged"]
    return assemble(
        "verl", found, options, notes if merged else [], task=f"step {steps.pop()}" if steps else "",
        recorded=f"recorded by verl ({metric})",
    )  # fmt: skip


def _completions(rows: list[tuple[str, Row]], metric: str) -> Iterator[Found]:
    for where, row in rows:
        for key in ("input", "output"):
            if row.get(key) is None:
                raise OdevalError(f"{where}: field '{key}' is missing")
        prompt = Prompt(text=text_of(row["input"], where, "input"), answer=answer_of(row.get("gts")))
        yield Found(where, prompt, text_of(row["output"], where, "output"), score=row.get(metric))
