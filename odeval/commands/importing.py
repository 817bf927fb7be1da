"""Verbs that bring logs of other tools in, and counts out: import, export. They load no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from odeval.errors import OdevalError, unknown

if TYPE_CHECKING:
    from odeval.store import RunFolder

Out = Annotated[Path, Parameter(name=["-o", "--out"])]


def import_(
    format: str, file: Path, /, *, out: Out, columns: Annotated[str | None, Parameter(name="--map")] = None,
    grader: str = "", threshold: float | None = None, metric: str = "", model: str = "", partial: bool = False,
) -> int:  # fmt: skip
    """Read a log of another tool into a run folder. Says what it dropped and why; never guesses what is right.

    Args:
        format: auto, or counts, lm_eval, inspect, evalplus, human_eval, bigcode, lighteval, reasoning_gym, verl, trl,
            tinker, table.
        file: The log.
        out: The run folder.
        columns: For a table: ours=theirs,… of prompt, completion, correct, id, answer, sample_id, finish_reason, seed,
            reward.
        grader: Grade the completions with this instead of taking the log's word.
        threshold: A score of at least this is right; needed where scores are not 0 or 1.
        metric: Which of several recorded scores, scorers or rewards to use.
        model: Name of the model, where the log does not say.
        partial: Take an Inspect log whose evaluation did not succeed.
    """
    from odeval.importers import import_file
    from odeval.importers.base import ImportOptions, write_imported
    from odeval.store import RunFolder
    from odeval.tasks.graders import grader_named

    function = grader_named(grader) if grader else None
    options = ImportOptions(_columns(columns), function, grader, threshold, metric, model, partial)
    found = import_file(file, None if format == "auto" else format, options)
    run = RunFolder(out)
    write_imported(found, run, file)
    for note in found.notes:
        print(f"{file}: {note}", file=sys.stderr)
    print(_summary(run, len(found.prompts), found.grader))
    return 0


def export(what: str, run: Path, /, *, out: Out) -> int:
    """Write a run's counts, one line {id, n, c, content} a prompt: a small baseline that stays paired.

    Args:
        what: counts.
        run: A graded run folder, or a log.
        out: The file (.jsonl).
    """
    from odeval.atomic import write_text
    from odeval.importers import open_run

    if what != "counts":
        raise OdevalError(unknown("export", what, ["counts"]))
    rows = _counts(open_run(run))
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    n, c = (sum(row[key] for row in rows) for key in ("n", "c"))
    print(f"{out}: {len(rows)} prompts, {c} of {n} completions right")
    return 0


def _counts(run: RunFolder) -> list[dict[str, Any]]:
    """Count every prompt, with the hash of the question so that another question is never paired with it."""
    if (run.path / "counts.jsonl").exists():
        lines = (run.path / "counts.jsonl").read_text(encoding="utf-8").splitlines()
        return sorted((json.loads(line) for line in lines), key=lambda row: str(row["id"]))
    import pyarrow as pa
    import pyarrow.parquet as pq

    from odeval.grading import check_grades
    from odeval.metrics.passk import counts

    check_grades(run)
    grades = pq.read_table(run.grades, columns=["prompt_id", "correct"])
    table = counts(grades.set_column(1, "correct", grades["correct"].cast(pa.float64())).to_pandas())
    contents = {prompt.prompt_id: prompt.content for prompt in run.prompts()}
    return [
        {"id": str(key), "n": int(row.n), "c": int(row.c), "content": contents[str(key)]}
        for key, row in zip(table.index, table.itertuples(), strict=True)
    ]


def _columns(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    pairs = [part.partition("=") for part in text.split(",")]
    for ours, equals, theirs in pairs:
        if not (ours and equals and theirs):
            raise OdevalError(f"--map {text}: expected ours=theirs,… such as prompt=question,correct=passed")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def _summary(run: RunFolder, prompts: int, grader: str) -> str:
    rows = _counts(run)
    n, c = (sum(row[key] for row in rows) for key in ("n", "c"))
    sizes = sorted({row["n"] for row in rows})
    depth = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    share = f" ({c / n:.1%})" if n else ""
    by = f", {grader}" if grader else ""
    return f"{run.path}: {prompts} prompts × {depth} graded completions, {c} of {n} right{share}{by}"
