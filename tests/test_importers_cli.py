"""`odeval import`, `odeval export counts`, and comparisons straight on logs, as a shell sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from logs import FIXTURES, LOGS, Log

from odeval.cli import run

PAIRS = list(zip(LOGS[::2], LOGS[1::2], strict=True))


def test_the_pairs_are_pairs() -> None:
    assert all(one.tool == other.tool and one.flags == other.flags for one, other in PAIRS)
    assert all("teacher" in one.path and "student" in other.path for one, other in PAIRS)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if not pair[0].flags], ids=lambda pair: pair[0].name)
def test_logs_are_compared_as_they_are(pair: tuple[Log, Log], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", *(str(log.file) for log in pair), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompts"] == len(pair[0].n)
    for log, side in zip(pair, found["runs"], strict=True):
        assert sorted(zip(side["counts"]["n"], side["counts"]["c"], strict=True)) == sorted(
            zip(log.n, log.c, strict=True)
        )


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].name)
def test_imported_runs_are_compared(pair: tuple[Log, Log], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for log, name in zip(pair, ("teacher", "student"), strict=True):
        capsys.readouterr()
        assert run(["import", log.tool.replace("_", "-"), str(log.file), "-o", str(tmp_path / name), *log.flags]) == 0
        printed = capsys.readouterr()
        (line,) = printed.out.splitlines()
        assert f"{sum(log.c)} of {sum(log.n)} right" in line
        assert [note.split(": ", 1)[1] for note in printed.err.splitlines()] == log.notes
        assert run(["export", "counts", str(tmp_path / name), "-o", str(tmp_path / f"{name}.jsonl")]) == 0
    capsys.readouterr()
    assert run(["compare", str(tmp_path / "teacher"), str(tmp_path / "student"), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["pairs"][0]["pass_at_k"]
    # Counts exported from the same runs give the same curve, and a baseline of counts is paired with a sampled run.
    for one, other in (("teacher.jsonl", "student.jsonl"), ("teacher.jsonl", "student")):
        assert run(["compare", str(tmp_path / one), str(tmp_path / other), "--json"]) == 0
        small = json.loads(capsys.readouterr().out)["pairs"][0]["pass_at_k"]
        assert small["difference"] == whole["difference"]
        assert small["population"]["low"] == whole["population"]["low"]


def test_an_exported_baseline_carries_the_questions_fingerprint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = tmp_path / "base.jsonl"
    log = FIXTURES / "tinker/teacher/trajectories.jsonl"
    assert run(["export", "counts", str(log), "-o", str(counts)]) == 0
    rows = [json.loads(line) for line in counts.read_text().splitlines()]
    assert all(row.keys() == {"id", "n", "c", "content"} for row in rows)
    assert run(["compare", str(counts), str(log)]) == 0
    assert run(["export", "counts", str(counts), "-o", str(tmp_path / "again.jsonl")]) == 0
    assert (tmp_path / "again.jsonl").read_text() == counts.read_text()
    changed = tmp_path / "changed.jsonl"
    changed.write_text(log.read_text().replace("What is 0 + 5?", "What is 0 + 6?"))
    capsys.readouterr()
    assert run(["compare", str(counts), str(changed)]) == 2
    assert "reads differently" in capsys.readouterr().err


def test_a_mean_is_no_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mean.json").write_text('{"pass@1": 0.4, "n": 64}')
    assert run(["compare", str(tmp_path / "mean.json"), str(FIXTURES / "verl/teacher/100.jsonl")]) == 2
    assert "is no run folder and no log that odeval knows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "inspct", "LOG", "-o", "RUN"], "unknown format 'inspct'"),
        (["import", "verl", "none.jsonl", "-o", "RUN"], "none.jsonl: no such file"),
        (["import", "verl", "LOG", "-o", "RUN", "--grader", "exat"], "unknown grader 'exat'"),
        (["import", "table", "LOG", "-o", "RUN", "--map", "prompt"], "--map prompt: expected ours=theirs"),
        (["import", "table", "LOG", "-o", "RUN", "--map", "promt=input"], "unknown column in --map 'promt'"),
        (["import", "table", "LOG", "-o", "RUN", "--map", "prompt=imput"], "unknown column 'imput': expected one of"),
        (["import", "table", "LOG", "-o", "RUN", "--map", "prompt=input"], "has no column 'correct', only"),
        (["import", "verl", "LOG"], "requires an argument"),
        (["export", "means", "LOG", "-o", "FILE"], "unknown export 'means': expected one of bencher, counts"),
    ],
)
def test_a_mistake_is_one_clear_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(FIXTURES / "verl/teacher/100.jsonl", tmp_path / "LOG")
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert message in line


def test_importing_twice_is_the_same_and_another_log_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, other = FIXTURES / "verl/teacher/100.jsonl", FIXTURES / "tinker/teacher/trajectories.jsonl"
    for _ in range(2):
        assert run(["import", "auto", str(log), "-o", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert run(["import", "auto", str(other), "-o", str(tmp_path / "run")]) == 2
    assert "holds another run" in capsys.readouterr().err
