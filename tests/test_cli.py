"""Exit codes, streams and error lines, as a shell sees them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from synthetic import draws, write_run

from odeval.cli import VERBS, run
from odeval.compare import compare


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    rates = np.random.default_rng(3).beta(0.7, 1.0, 80)
    odds = (rates / (1 - rates)) ** 4
    old = write_run(tmp_path / "old", draws(rates, 16, 1), block=40)
    new = write_run(tmp_path / "new", draws(odds / (1 + odds), 16, 2), block=40)
    return old.path, new.path


def test_compare_then_gate_then_report(runs: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert run(["compare", *map(str, runs), "--out", str(out)]) == 0
    assert "simultaneous band" in capsys.readouterr().out
    assert run(["gate", str(out), "--out", str(out)]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert run(["report", str(out)]) == 0
    assert Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_is_alone_on_stdout(runs: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    assert run(["compare", *map(str, runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    curve = found["pairs"][0]["pass_at_k"]
    assert {"k", "baseline", "candidate", "difference"} <= curve.keys()
    (tmp_path / "comparison.json").write_text(json.dumps(found))
    assert run(["gate", str(tmp_path / "comparison.json"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "FAIL"


def test_strict_turns_inconclusive_into_three(tmp_path: Path, capsys) -> None:
    rates = np.random.default_rng(3).beta(0.7, 1.0, 60)
    old, new = (write_run(tmp_path / name, draws(rates, 8, seed)) for seed, name in enumerate(("old", "new")))
    (tmp_path / "comparison.json").write_text(json.dumps(compare([new], baseline=old)))
    assert run(["gate", str(tmp_path)]) == 0
    assert run(["gate", str(tmp_path), "--strict"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["audt"], 2, 'Unknown command "audt". Did you mean "audit"?'),
        (["audit", "s", "--techer", "t"], 2, "Unknown option: --techer. Did you mean --teacher?"),
        (["audit", "s", "-n", "many"], 2, 'unable to convert "many" into int'),
        (["audit", "s", "--teacher", "t"], 2, "key 'task' is missing"),
        (["audit", "s", "--teacher", "t", "--task", "countdwn", "--out", "o"], 2, "did you mean 'countdown'?"),
        (["audit", "s", "--teacher", "t", "--task", "x.jsonl", "--out", "o"], 2, "needs a grader"),
        (
            ["audit", "s", "--teacher", "t", "--task", "x.jsonl", "--grader", "exat", "--out", "o"],
            2,
            "did you mean 'exact'?",
        ),
        (["audit", "s", "--teacher", "t", "--task", "countdown", "--out", "o"], 2, "t: no such folder"),
        (["audit", "s", "--teacher", "t", "--task", "countdown", "--out", "o", "--ks", "1,99"], 2, "k 99 exceeds n 64"),
        (["audit", "s", "--teacher", "t", "--task", "countdown", "--out", "o", "--ks", "1,x"], 2, "--ks 1,x: expected"),
        (
            ["audit", "s", "--teacher", "t", "--task", "countdown", "--out", "o", "--temperature", "0"],
            2,
            "copies of one",
        ),
        (["audit", "s", "--teacher", "s", "--task", "countdown", "--out", "o"], 2, "s: is named twice"),
        (["sample", "none", "--task", "countdown", "--out", "o"], 2, "none: no such folder"),
        (["grade", "none"], 4, "none: no run here"),
        (["compare", "none"], 2, "compare needs two runs"),
        (["compare", "none", "other"], 4, "none: no run here"),
        (["gate", "none"], 4, "no comparison here"),
        (["report", "none"], 4, "no verdict to report"),
        (["demo", "--world", "mars"], 2, "unknown world 'mars'"),
    ],
)
def test_a_mistake_is_one_clear_line(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("odeval: ")
    assert message in line


def test_a_damaged_comparison_is_one_clear_line(tmp_path: Path, capsys) -> None:
    for content, message in (
        ("{", "cannot be read as JSON"),
        ("[]", "is no comparison"),
        ('{"schema": "x"}', "is no comparison"),
    ):
        (tmp_path / "comparison.json").write_text(content)
        assert run(["gate", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


def test_an_unexpected_error_is_four_and_never_a_verdict(tmp_path: Path, monkeypatch, capsys) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("odeval.gate.judge", broken)
    monkeypatch.setattr("odeval.gate.read_comparison", lambda path: {})
    assert run(["gate", str(tmp_path)]) == 4
    assert "a bug in odeval, not a verdict" in capsys.readouterr().err


def test_the_list_of_verbs_is_frozen() -> None:
    """Scripts of users depend on these names."""
    assert set(VERBS) == {
        "demo", "audit", "sample", "grade", "score", "compare", "gate", "plan", "report", "plot", "show", "import",
        "export", "doctor", "tasks", "env",
    }  # fmt: skip


def test_idle_threads_do_not_spin_unless_asked(monkeypatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    run(["tasks"])
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    run(["tasks"])
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_tasks_and_env(capsys) -> None:
    assert run(["tasks"]) == 0
    listing = capsys.readouterr().out
    assert "graph_paths" in listing
    assert "numeric" in listing
    assert run(["env"]) == 0
    assert "numpy" in capsys.readouterr().out
