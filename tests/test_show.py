from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import random_tokens, write_tokens
from test_dropped import build

from odeval.atomic import write_json
from odeval.cli import run
from odeval.compare import compare
from odeval.exporters.markdown import blocks
from odeval.gate import as_json, judge

HOSTILE = "\x1b[31m\u202e<b>"


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    _, teacher, student = build(tmp_path, 4)
    write_tokens(student, "teacher", teacher, random_tokens(7, 12, 4, 0))
    found = compare([student], teacher)
    found["pairs"][0]["branches"]["listed"][0]["branch"] = HOSTILE
    found["pairs"][0]["lost_prompts"] = [
        {"prompt_id": HOSTILE, "baseline": {"n": 12, "c": 5}, "candidate": {"n": 12, "c": 0}, "upper": 0.22}
    ]
    write_json(tmp_path / "comparison.json", found)
    return tmp_path


def test_branches_and_lost_prompts_are_listed(audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(audit), "--branches", "--lost", "--most", "3"]) == 0
    out = capsys.readouterr().out
    pair = json.loads((audit / "comparison.json").read_text())["pairs"][0]
    assert f"{pair['branches']['branches']} dropped branches in {pair['branches']['contexts']} contexts" in out
    worst = pair["branches"]["listed"][1]
    assert f"{worst['taken']} of {worst['visits']}" in out
    assert f"{worst['lost']:.1%}" in out
    assert "1 prompts lost" in out
    assert "5/12" in out
    assert "< 22.0%" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "⟨U+202E⟩<b>" in out


def test_a_run_folder_stands_for_its_part_of_the_audit(audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(audit / "student"), "--lost", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["candidate"] for row in rows] == ["student"]
    assert rows[0].keys() == {"role", "baseline", "candidate", "lost_prompts"}


def test_what_cannot_be_shown_says_why(audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(audit), "--candidate", "studnet"]) == 2
    assert "unknown candidate 'studnet'" in capsys.readouterr().err
    comparison = json.loads((audit / "comparison.json").read_text())
    comparison["pairs"][0]["branches"] = None
    write_json(audit / "comparison.json", comparison)
    assert run(["show", str(audit), "--branches"]) == 2
    assert "knows no dropped branches; compare with --teacher after `odeval score`" in capsys.readouterr().err
    assert run(["show", str(audit / "nothing")]) == 4


def test_markdown_shows_the_costliest_branches_escaped(audit: Path) -> None:
    comparison = json.loads((audit / "comparison.json").read_text())
    verdict = as_json(judge(comparison))
    text = "\n".join(blocks([comparison], verdict))
    branches = comparison["pairs"][0]["branches"]
    assert f"Dropped branches: {branches['branches']}, of these most costly" in text
    worst = branches["listed"][1]
    assert f"{worst['correct']} of {worst['taken']}" in text
    assert "<b>" not in text.replace("\\<b>", "")
    assert "\u202e" not in text
    comparison["pairs"][0]["branches"] = None
    assert "Dropped branches" not in "\n".join(blocks([comparison], verdict))
