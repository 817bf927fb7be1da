"""Samples × grader → grades.parquet. Regrading never resamples."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from odeval.errors import CannotJudge
from odeval.store import RunFolder, part_provenance, write_table
from odeval.tasks.base import Grader
from odeval.types import GRADES, Grade

Advance = Callable[[int, int], None]


def grade(
    run: RunFolder, grader: Grader, name: str, advance: Advance = lambda done, total: None, force: bool = False
) -> None:
    """Grade every completion of a run; equal completions of one prompt are graded once.

    A completion whose engine failed is not graded: `correct` stays null and it is counted as attrition.

    Args:
        run: A sampled run.
        grader: (prompt, completion) -> Grade.
        name: The grader's name, recorded with the grades.
        advance: Told (parts done, parts in all).
        force: Grade again even if the grades are up to date.

    Raises:
        CannotJudge: There are no samples.
    """
    parts = run.part_paths(run.samples)
    if not parts:
        raise CannotJudge(f"{run.path}: nothing to grade (samples/ is empty); run `odeval sample` first")
    made_from = {"samples": run.fingerprint(run.samples), "grader": name}
    if not force and run.grades.exists():
        old = part_provenance(run.grades)
        if all(old.get(key) == value for key, value in made_from.items()):
            advance(len(parts), len(parts))
            return
    prompts = {prompt.prompt_id: prompt for prompt in run.prompts()}
    known: dict[tuple[str, str], Grade] = {}
    tables = []
    columns = ["prompt_id", "sample_id", "completion", "finish_reason"]
    for number, table in enumerate(run.iterate(run.samples, columns)):
        grades = []
        for prompt_id, text, reason in zip(
            table["prompt_id"].to_pylist(), table["completion"].to_pylist(), table["finish_reason"].to_pylist(), strict=True
        ):
            if reason == "error" or text is None:
                grades.append(Grade(None, why="the engine returned no completion"))
                continue
            key = (prompt_id, text)
            if key not in known:
                known[key] = grader(prompts[prompt_id], text)
            grades.append(known[key])
        tables.append(
            pa.table(
                [
                    table["prompt_id"],
                    table["sample_id"],
                    pa.array([g.correct for g in grades], pa.bool_()),
                    pa.array([g.answer for g in grades], pa.string()),
                    pa.array([g.why for g in grades], pa.string()),
                ],
                schema=GRADES,
            )
        )
        known.clear()  # a prompt's samples stand in one part, or in a few after an extension
        advance(number + 1, len(parts))
    write_table(run.grades, pa.concat_tables(tables), made_from)


def check_grades(run: RunFolder) -> None:
    """Make sure the grades belong to the samples that are there.

    Raises:
        CannotJudge: They are missing or stale.
    """
    if not run.grades.exists():
        raise CannotJudge(f"{run.path}: not graded yet; run `odeval grade {run.path}`")
    if part_provenance(run.grades).get("samples") != run.fingerprint(run.samples):
        raise CannotJudge(f"{run.grades}: made from other samples than are there now; run `odeval grade {run.path}`")


def summary(run: RunFolder) -> str:
    """Say in one line how a run was graded."""
    correct = pq.read_table(run.grades, columns=["correct"])["correct"]
    graded = len(correct) - correct.null_count
    right = int(pc.sum(correct).as_py() or 0)
    share = f" ({right / graded:.1%})" if graded else ""
    return f"{run.label}: {right} of {graded} graded completions right{share}, {correct.null_count} not graded"
