"""Samples × grader → grades.parquet. Regrading never resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from odeval.atomic import hash_files
from odeval.errors import CannotJudge
from odeval.executors import Alone, Crew
from odeval.store import RunFolder, part_provenance, read_part, write_table
from odeval.tasks.base import Grader
from odeval.types import GRADES, Grade, Prompt

Advance = Callable[[int, int], None]


def grade(
    run: RunFolder,
    grader: Grader | Crew[Grader],
    name: str,
    advance: Advance = lambda done, total: None,
    force: bool = False,
) -> None:
    """Grade every completion of a run; equal completions of one prompt are graded once.

    A completion whose engine failed is not graded: `correct` stays null and it is counted as attrition.

    Args:
        run: A sampled run.
        grader: (prompt, completion) -> Grade; or a crew that has one each.
        name: The grader's name, recorded with the grades.
        advance: Told (parts done, parts in all).
        force: Grade again even if the grades are up to date.

    Raises:
        CannotJudge: There are no samples, or samples of a prompt that the run does not list.
        OdevalError: A part is damaged, or another process is writing the run.
    """
    parts = run.part_paths(run.samples)
    if not parts:
        raise CannotJudge(f"{run.path}: nothing to grade (samples/ is empty); run `odeval sample` first")
    if not force and run.grades.exists() and not stale(run, name):
        advance(len(parts), len(parts))
        return
    with run.lock():
        made_from = {**_made_from(run), "grader": name}
        prompts = {prompt.prompt_id: prompt for prompt in run.prompts()}
        crew = grader if isinstance(grader, Crew) else Alone(grader)
        tables: dict[str, pa.Table] = {}
        for part, table in crew.each(partial(_grade_part, prompts=prompts), {path.name: path for path in parts}):
            tables[part] = table
            advance(len(tables), len(parts))
        write_table(run.grades, pa.concat_tables([tables[path.name] for path in parts]), made_from)


def _grade_part(grader: Grader, path: Path, *, prompts: Mapping[str, Prompt]) -> pa.Table:
    table = read_part(path, ["prompt_id", "sample_id", "completion", "finish_reason"])
    known: dict[tuple[str, str], Grade] = {}  # a prompt's samples stand in one part, or in a few after an extension
    grades = []
    rows = zip(*(table[column].to_pylist() for column in ("prompt_id", "completion", "finish_reason")), strict=True)
    for prompt_id, text, reason in rows:
        if reason == "error" or text is None:
            grades.append(Grade(None, why="the engine returned no completion"))
            continue
        if prompt_id not in prompts:
            raise CannotJudge(f"{path}: prompt {prompt_id} is not in prompts.jsonl; the run folder is not whole")
        if (prompt_id, text) not in known:
            known[prompt_id, text] = grader(prompts[prompt_id], text)
        grades.append(known[prompt_id, text])
    columns = (
        table["prompt_id"],
        table["sample_id"],
        pa.array([g.correct for g in grades], pa.bool_()),
        pa.array([g.answer for g in grades], pa.string()),
        pa.array([g.why for g in grades], pa.string()),
    )
    return pa.table(list(columns), schema=GRADES)


def _made_from(run: RunFolder) -> dict[str, str]:
    return {"samples": run.fingerprint(run.samples), "prompts": hash_files([run.path / "prompts.jsonl"])}


def stale(run: RunFolder, grader: str | None = None) -> str:
    """Say why the grades do not belong to what is in the folder now, "" if they do.

    Args:
        run: A graded run.
        grader: The grader that is wanted; None for whichever it was.
    """
    old = part_provenance(run.grades)
    for key, now in _made_from(run).items():
        if old.get(key, now if key == "prompts" else "") != now:  # an importer records no prompts
            return f"made from other {key} than are there now"
    return "" if grader in (None, old.get("grader")) else f"made by the grader '{old.get('grader')}', not '{grader}'"


def check_grades(run: RunFolder) -> None:
    """Make sure the grades belong to the samples that are there.

    Raises:
        CannotJudge: They are missing or stale.
    """
    if not run.grades.exists():
        raise CannotJudge(f"{run.path}: not graded yet; run `odeval grade {run.path}`")
    if reason := stale(run):
        raise CannotJudge(f"{run.grades}: {reason}; run `odeval grade {run.path}`")


def summary(run: RunFolder) -> str:
    """Say in one line how a run was graded."""
    correct = read_part(run.grades, ["correct"])["correct"]
    graded = len(correct) - correct.null_count
    right = int(pc.sum(correct).as_py() or 0)
    share = f" ({right / graded:.1%})" if graded else ""
    return f"{run.label}: {right} of {graded} graded completions right{share}, {correct.null_count} not graded"
