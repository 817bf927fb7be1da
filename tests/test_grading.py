"""Grading: errors are not wrong answers, grades know their samples, and nobody is asked twice."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odeval.errors import CannotJudge, OdevalError
from odeval.grading import check_grades, grade, stale, summary
from odeval.store import RunFolder, write_table
from odeval.types import GRADES, SAMPLES, Grade, Prompt

PROMPTS = [Prompt(text="2 + 2 =", answer="4", id="sum"), Prompt(text="capital", answer="Paris", id="city")]
ROWS = [
    ("sum", "4", "stop"), ("sum", "5", "stop"), ("sum", "4", "stop"), ("sum", None, "error"), ("sum", "4", "error"),
    ("city", "", "length"), ("city", "4", "stop"),
]  # fmt: skip


class Counting:
    """Equal is right; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, prompt: Prompt, completion: str) -> Grade:
        self.asked.append((prompt.id, completion))
        return Grade(completion == prompt.answer, completion, "compared")


def add_part(run: RunFolder, number: int, rows: list[tuple[str, str | None, str]]) -> None:
    columns = {
        "prompt_id": [r[0] for r in rows],
        "sample_id": list(range(100 * number, 100 * number + len(rows))),
        "completion": [r[1] for r in rows],
        "finish_reason": [r[2] for r in rows],
    }
    arrays = [pa.array(columns.get(field.name, [None] * len(rows)), field.type) for field in SAMPLES]
    write_table(run.samples / f"part-{number:05d}-00000.parquet", pa.table(arrays, schema=SAMPLES), {})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.open({"model": {"path": "m"}, "task": {"name": "t", "grader": "g"}, "sampling": {"n": 9}}, PROMPTS)
    add_part(folder, 0, ROWS[:5])
    add_part(folder, 1, ROWS[5:])
    return folder


def test_an_error_is_null_and_never_wrong(run: RunFolder) -> None:
    grader, told = Counting(), []
    grade(run, grader, "g", lambda done, total: told.append((done, total)))
    found = pq.read_table(run.grades)
    assert found.schema.remove_metadata() == GRADES
    assert found["correct"].to_pylist() == [True, False, True, None, None, False, False]
    assert found["answer"].to_pylist() == ["4", "5", "4", None, None, "", "4"]
    assert found["why"].to_pylist()[3:5] == ["the engine returned no completion"] * 2
    assert found["prompt_id"].to_pylist() == [r[0] for r in ROWS]
    assert found["sample_id"].to_pylist() == [0, 1, 2, 3, 4, 100, 101]
    assert grader.asked == [("sum", "4"), ("sum", "5"), ("city", ""), ("city", "4")], (
        "equal completions are graded once"
    )
    assert told == [(1, 2), (2, 2)]
    assert summary(run) == "run: 2 of 5 graded completions right (40.0%), 2 not graded"


def test_nothing_graded_has_no_share(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open({"sampling": {"n": 1}}, PROMPTS)
    add_part(folder, 0, [("sum", None, "error")])
    grade(folder, Counting(), "g")
    assert summary(folder) == "run: 0 of 0 graded completions right, 1 not graded"


def test_up_to_date_grades_stay_and_a_regrade_touches_no_samples(run: RunFolder) -> None:
    grade(run, Counting(), "g")
    before = run.grades.read_bytes()
    samples = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.part_paths(run.samples)}
    grader, told = Counting(), []
    grade(run, grader, "g", lambda done, total: told.append((done, total)))
    assert (grader.asked, told) == ([], [(2, 2)])
    grade(run, grader, "g", force=True)
    assert len(grader.asked) == 4
    assert run.grades.read_bytes() == before
    grade(run, lambda prompt, text: Grade(True), "lenient")
    assert run.grades.read_bytes() != before
    assert pq.read_table(run.grades)["correct"].to_pylist() == [True, True, True, None, None, True, True]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in samples} == samples


def test_stale_grades_are_found(run: RunFolder) -> None:
    with pytest.raises(CannotJudge, match=r"run: not graded yet; run `odeval grade .*run`"):
        check_grades(run)
    grade(run, Counting(), "g")
    check_grades(run)
    assert stale(run, "g") == ""
    assert stale(run, "h") == "made by the grader 'g', not 'h'"
    add_part(run, 2, [("sum", "7", "stop")])
    with pytest.raises(
        CannotJudge, match=r"grades.parquet: made from other samples than are there now; run `odeval grade"
    ):
        check_grades(run)
    grade(run, Counting(), "g")
    check_grades(run)
    text = (run.path / "prompts.jsonl").read_text()
    (run.path / "prompts.jsonl").write_text(text.replace("Paris", "Rome"))
    with pytest.raises(CannotJudge, match=r"grades.parquet: made from other prompts than are there now"):
        check_grades(run)
    grade(run, Counting(), "g")
    check_grades(run)


def test_what_cannot_be_graded_gets_one_line(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CannotJudge, match=r"empty: nothing to grade \(samples/ is empty\); run `odeval sample` first"):
        grade(RunFolder(tmp_path / "empty"), Counting(), "g")
    add_part(run, 2, [("stranger", "7", "stop")])
    with pytest.raises(CannotJudge, match=r"part-00002-00000.parquet: prompt stranger is not in prompts.jsonl"):
        grade(run, Counting(), "g")
    assert not run.grades.exists()
    (run.samples / "part-00002-00000.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(OdevalError, match=r"part-00002-00000.parquet: damaged \(.*\); delete it and rerun the stage"):
        grade(run, Counting(), "g")
    (run.samples / "part-00002-00000.parquet").unlink()
    grade(run, Counting(), "g")
    run.grades.write_bytes(run.grades.read_bytes()[:-9])
    with pytest.raises(OdevalError, match=r"grades.parquet: damaged \(.*\); delete it and rerun the stage"):
        check_grades(run)
    with pytest.raises(OdevalError, match=r"grades.parquet: damaged"):
        summary(run)


def test_a_run_that_is_being_written_is_not_graded(run: RunFolder) -> None:
    with run.lock(), pytest.raises(OdevalError, match="run: another odeval process is writing it"):
        grade(run, Counting(), "g")
