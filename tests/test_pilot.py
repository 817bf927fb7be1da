"""The pilot: what it shows, that nothing it draws is wasted, and when it warns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from odeval.audit import AuditConfig, audit
from odeval.cli import run
from odeval.completions import load_completions
from odeval.pilot import Answered, lines_of, warning
from odeval.store import RunFolder
from odeval.terminal import stages
from odeval.types import Grade, Prompt


def audited(teacher: Path, student: Path, out: Path, **options: object) -> list[tuple[str, bool]]:
    lines: list[tuple[str, bool]] = []
    own = {"students": (student,), "teacher": teacher, "task": "graph_paths", "out": out, "n": 4, "limit": 20}
    with stages(quiet=True) as stage:
        audit(AuditConfig(**{**own, **options}), stage, lambda line, warns: lines.append((line, warns)))
    return lines


def drawn(run: RunFolder) -> list[tuple[object, ...]]:
    frame = load_completions(run).whole()
    return list(frame[["prompt_id", "sample_id", "seed", "digest", "correct"]].itertuples(index=False, name=None))


def test_what_the_pilot_drew_are_the_first_samples_of_the_audit(
    teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    lines = audited(teacher_folder, student_folder, tmp_path / "with")
    assert [line.split(":")[0] for line, warns in lines if line.startswith("pilot") and not warns] == [
        f"pilot {folder.name}" for folder in (teacher_folder, student_folder)
    ]
    assert sum("completion " in line for line, warns in lines if not warns) == 6  # three a model
    audited(teacher_folder, student_folder, tmp_path / "without", pilot=0)
    for folder in (teacher_folder, student_folder):
        with_pilot, without = (RunFolder(tmp_path / name / folder.name) for name in ("with", "without"))
        assert len(with_pilot.keys(with_pilot.samples)) == 80
        assert drawn(with_pilot) == drawn(without)


def test_a_run_that_goes_on_has_no_second_pilot(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    assert audited(teacher_folder, student_folder, tmp_path / "out")
    assert audited(teacher_folder, student_folder, tmp_path / "out", n=6) == []


def test_with_looks_the_pilot_does_not_deepen_the_first(
    teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    audited(teacher_folder, student_folder, tmp_path / "out", looks=(2, 4), limit=60)
    meta = RunFolder(tmp_path / "out" / student_folder.name).meta()
    assert meta["sampling"]["n"] in (2, 4)


def test_embedded_models_need_no_pilot(tmp_path: Path) -> None:
    models = (Path("embedded:graph_paths/teacher"), Path("embedded:graph_paths/blend"))
    assert audited(*models, tmp_path / "out") == []


def test_the_command_warns_once_where_the_grader_cannot_read_the_answers(
    teacher_folder: Path, student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"a{i:02d} c0{i} :", "answer": str(i), "id": f"q{i}"} for i in range(1, 10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = ["--task", str(path), "--grader", "numeric", "--max-tokens", "3", "-n", "2", "--out", str(tmp_path / "out")]
    assert run(["audit", str(student_folder), "--teacher", str(teacher_folder), *task]) in (0, 1, 4)
    shown = capsys.readouterr()
    warned = [line for line in shown.err.splitlines() if "warning: pilot" in line]
    assert len(warned) == 2  # one a model
    assert "none of 8 completions holds an answer" in warned[0]
    assert "look at prompts, chat template, grader and max_tokens before the whole budget is spent" in warned[0]
    assert "pilot" not in shown.out


def test_hostile_texts_are_made_visible() -> None:
    one = Answered(
        Prompt(text="x" * 500 + "\x1b[31m?"),
        "\u202eevil\x1b]0;title\x07" + "y" * 500,
        "length",
        Grade(False, "\x1b[2J", "because\n\x00"),
    )
    text = "\n".join(lines_of("name\x1b[0m", [one]))
    assert not any(ord(c) < 32 and c != "\n" for c in text)
    assert "\u202e" not in text
    assert len(text.splitlines()) == 4
    assert max(map(len, text.splitlines())) < 420
    assert "(cut at max_tokens)" in text


def test_it_warns_where_nothing_is_right_and_says_what() -> None:
    def asked(correct: bool | None, answer: str | None, reason: str = "stop") -> Answered:
        return Answered(Prompt(text="?"), "!", reason, Grade(correct, answer))

    assert warning("s", [asked(False, "1"), asked(True, "2")], 9) == ""
    assert warning("s", [], 9) == ""
    assert warning("s", [asked(False, "1")] * 8, 9).startswith("pilot s: none of 8 completions is right; look at")
    assert warning("s", [asked(False, None)] * 8, 9).startswith("pilot s: none of 8 completions holds an answer; ")
    assert "could be graded" in warning("s", [asked(None, "x")] * 8, 9)
    assert "all were cut at max_tokens 9" in warning("s", [asked(False, "1", "length")] * 8, 9)
