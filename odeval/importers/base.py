"""What an importer returns, and how it becomes a run folder like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from odeval.atomic import write_text
from odeval.errors import OdevalError
from odeval.schemas import REWARD
from odeval.store import RunFolder, write_table
from odeval.tasks.base import Grader
from odeval.types import GRADES, SAMPLES, ModelRef, Prompt

COLUMNS = ("prompt_id", "sample_id", "completion", "correct", "answer", "why", "finish_reason", "seed", "reward")
UNKNOWN_SAMPLING = {"temperature": None, "top_p": None, "top_k": None, "max_tokens": None, "seed": None}
_PART_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a user may say about a file.

    Attributes:
        columns: For the generic table: our column → theirs.
        grader: Grade the completions with this instead of taking the file's word; None keeps what is recorded.
        grader_name: Its name.
        threshold: For scores that are not 0 or 1: correct means score >= threshold. None refuses such scores.
        metric: Which of several recorded scores to use.
        model: Name of the model, where the file does not say.
        partial: Take the log of a run that did not end well.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    grader: Grader | None = None
    grader_name: str = ""
    threshold: float | None = None
    metric: str = ""
    model: str = ""
    partial: bool = False


@dataclass(frozen=True, eq=False)
class Imported:
    """A log, read.

    Attributes:
        tool: Which program wrote it.
        prompts: The questions, ids unique.
        rows: One row a completion with COLUMNS; `correct` True, False or None (not graded), texts or None. Empty when
            the file holds counts only.
        counts: id → (n, c) when the file holds counts only.
        contents: id → hash of the question, where the file carries one.
        model: As the file names it, or "".
        task: As the file names it, or "".
        sampling: temperature, top_p, top_k, max_tokens, seed; None where the file does not say.
        grader: Who decided `correct`: "recorded by TOOL", or a grader's name.
        notes: What was dropped and why, one line each; empty when nothing was.
    """

    tool: str
    prompts: Sequence[Prompt]
    rows: pd.DataFrame
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    task: str = ""
    sampling: Mapping[str, Any] = field(default_factory=lambda: dict(UNKNOWN_SAMPLING))
    grader: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Importer:
    """One line of IMPORTERS.

    Attributes:
        read: (path, options) -> Imported. Raises OdevalError with one line that names file and row.
        detect: path -> is this file of that kind? Reads as little as possible, never raises.
        what: For people: which tool, which file.
        takes: Which of `columns`, `metric` and `partial` it heeds; the others are refused, not ignored.
    """

    read: Callable[[Path, ImportOptions], Imported]
    detect: Callable[[Path], bool]
    what: str
    takes: tuple[str, ...] = ()


def write_imported(found: Imported, run: RunFolder, source: Path) -> None:
    """Write a log as a run folder: samples and grades, or counts alone.

    Args:
        found: The log.
        run: Where to.
        source: The file it came from, for provenance.

    Raises:
        OdevalError: The log holds nothing, or the folder holds another run.
    """
    if found.rows.empty and not found.counts:
        raise OdevalError(f"{source}: holds no completions" + (f" ({'; '.join(found.notes)})" if found.notes else ""))
    n = (
        int(found.rows.groupby("prompt_id").size().max())
        if not found.rows.empty
        else max(n for n, _ in found.counts.values())
    )
    meta = {
        "model": asdict(ModelRef(path=found.model or source.stem, fingerprint=found.model or str(source))),
        "task": {"name": found.task or "imported", "grader": found.grader},
        "sampling": {**UNKNOWN_SAMPLING, **found.sampling, "n": n},
        "imported": {"tool": found.tool, "file": str(source), "notes": list(found.notes)},
    }
    with run.lock():
        run.open(meta, found.prompts)
        if found.counts:
            lines = [
                {"id": key, "n": n, "c": c, **({"content": found.contents[key]} if key in found.contents else {})}
                for key, (n, c) in found.counts.items()
            ]
            write_text(run.path / "counts.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
            return
        ordered = found.rows.sort_values(["prompt_id", "sample_id"], kind="stable")
        for number, start in enumerate(range(0, len(ordered), _PART_ROWS)):
            write_table(
                run.samples / f"part-{number:05d}-00000.parquet",
                _samples(ordered[start : start + _PART_ROWS]),
                {"source": str(source)},
            )
        made_from = {"samples": run.fingerprint(run.samples), "grader": found.grader}
        write_table(run.grades, _grades(ordered), made_from)


def _samples(rows: pd.DataFrame) -> pa.Table:
    nothing: list[None] = [None] * len(rows)
    columns = {
        "prompt_id": rows["prompt_id"].tolist(),
        "sample_id": rows["sample_id"].tolist(),
        "seed": _or_none(rows["seed"]),
        "completion": _or_none(rows["completion"]),
        "finish_reason": rows["finish_reason"].tolist(),
    }
    return pa.table([pa.array(columns.get(f.name, nothing), f.type) for f in SAMPLES], schema=SAMPLES)


def _grades(rows: pd.DataFrame) -> pa.Table:
    schema = GRADES.append(REWARD) if rows["reward"].notna().any() else GRADES
    return pa.table([pa.array(_or_none(rows[f.name]), f.type) for f in schema], schema=schema)


def _or_none(column: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value for value in column.tolist()]
