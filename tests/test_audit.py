"""The whole chain on real (tiny) models: two folders and a task in, a verdict and a report out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as distributions

from odeval.audit import AuditConfig, _after, audit
from odeval.cli import run
from odeval.errors import OdevalError
from odeval.looks import spending
from odeval.terminal import stages
from odeval.types import Check, Judgement


def config(teacher: Path, student: Path, out: Path, **options: object) -> AuditConfig:
    settings = {"students": (student,), "teacher": teacher, "task": "graph_paths", "out": out, "n": 8, "limit": 60}
    return AuditConfig(**{**settings, **options})


def ran(own: AuditConfig):
    with stages(quiet=True) as stage:
        return audit(own, stage)


def test_an_audit_writes_everything_it_says(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    comparison, judgements, page = ran(config(teacher_folder, student_folder, tmp_path / "out"))
    for name in ("audit.yaml", "comparison.json", "verdict.json", "report.html", "report.md"):
        assert (tmp_path / "out" / name).stat().st_size > 100, name
    assert page == tmp_path / "out" / "report.html"
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["verdict"] == judgements[0].verdict
    student = comparison["runs"][1]
    assert student["metrics"]["retention@teacher"]["value"] is not None
    assert student["counts"]["n"] == [8] * 60
    assert comparison["trust"]


def test_a_second_run_does_nothing_again(
    teacher_folder: Path, student_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    own = config(teacher_folder, student_folder, tmp_path / "out")
    before = ran(own)[0]
    monkeypatch.setattr("odeval.engines.hf.HfEngine.sample", None)
    monkeypatch.setattr("odeval.scoring.score_sequences", None)
    after = ran(own)[0]
    for comparison in (before, after):
        comparison.pop("provenance")
    assert before == after


def test_two_students_and_a_baseline(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    from tiny_models import save_tiny

    other = save_tiny(tmp_path / "other", seed=5)
    own = config(teacher_folder, student_folder, tmp_path / "out", baseline=other)
    comparison = ran(own)[0]
    assert [run["role"] for run in comparison["runs"]] == ["teacher", "baseline", "candidate"]
    assert [pair["role"] for pair in comparison["pairs"]] == ["baseline", "teacher"]


def test_a_bad_rule_or_a_bad_k_stops_before_a_model_is_loaded(tmp_path: Path) -> None:
    rules = tmp_path / "gate.yaml"
    rules.write_text("rules:\n- rule: retension >= 0.8\n")
    with pytest.raises(OdevalError, match=r"gate.yaml: rule 'retension >= 0.8'.*did you mean 'retention'"):
        ran(config(tmp_path / "none", tmp_path / "nothing", tmp_path / "out", rules=rules))
    with pytest.raises(OdevalError, match="k 16 exceeds n 8"):
        ran(config(tmp_path / "none", tmp_path / "nothing", tmp_path / "out", ks=(1, 16)))


def test_a_prompts_file_with_a_grader(teacher_folder: Path, student_folder: Path, tmp_path: Path, capsys) -> None:
    from odeval.testbed import world

    prompts = world().prompts("heldout", 55)
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": p.text, "answer": world().solutions(p)[0], "id": f"mine-{i}"} for i, p in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        "audit",
        str(student_folder),
        "--teacher",
        str(teacher_folder),
        "--task",
        str(path),
        "--grader",
        "exact",
    ]
    code = run([*arguments, "-n", "4", "--max-tokens", "8", "--out", str(tmp_path / "out"), "--quiet"])
    assert code in (0, 1)
    assert "report:" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["prompt_ids"][0] == "mine-0"
    assert found["sampling"]["max_tokens"] == 8


def test_clear_failures_stop_at_the_first_look(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    """A rule that no model can keep: the audit must not pay for the remaining samples."""
    rules = tmp_path / "gate.yaml"
    rules.write_text("rules:\n- rule: pass@k.delta >= 0.5\n")
    own = config(teacher_folder, student_folder, tmp_path / "out", rules=rules, n=32, looks=(8, 16, 32), confirm=True)
    comparison, judgements, _ = ran(own)
    assert comparison["runs"][1]["samples"] < 32
    assert judgements[0].verdict == "FAIL"
    assert "confirmed with fresh samples" in judgements[0].headline


def judged(**verdicts: str) -> Judgement:
    checks = tuple(
        Check(name, word, "fail", against="", value=0.0, low=0.0, high=0.0, unit="share", detail="d", why="")
        for name, word in verdicts.items()
    )
    verdict = "FAIL" if "FAIL" in verdicts.values() else "PASS"
    return Judgement(candidate="c", verdict=verdict, headline="worse", diagnosis="COLLAPSE", checks=checks)


def test_a_failure_that_does_not_come_again_is_not_a_failure() -> None:
    once = _after(judged(curve="FAIL", retention="PASS"), judged(curve="PASS", retention="FAIL"))
    assert (once.verdict, once.diagnosis) == ("INCONCLUSIVE", "")
    assert [check.verdict for check in once.checks] == ["INCONCLUSIVE", "PASS"]
    assert once.headline == "failed once, but not again with fresh samples: worse"
    partly = _after(judged(curve="FAIL", retention="FAIL"), judged(curve="FAIL", retention="PASS"))
    assert (partly.verdict, partly.diagnosis) == ("FAIL", "COLLAPSE")
    assert [check.verdict for check in partly.checks] == ["FAIL", "INCONCLUSIVE"]


def test_looks_that_do_not_end_with_n(tmp_path: Path) -> None:
    with pytest.raises(OdevalError, match="looks end at 16, but n is 8"):
        ran(config(tmp_path / "a", tmp_path / "b", tmp_path / "out", looks=(8, 16)))
    with pytest.raises(OdevalError, match="looks 8, 8: must increase"):
        spending(0.05, [8, 8])


def test_spending_sums_to_alpha_and_is_slow_for_failures() -> None:
    levels = spending(0.05, [8, 16, 32, 64])
    assert sum(level.fail for level in levels) == pytest.approx(0.05)
    assert sum(level.hold for level in levels) == pytest.approx(0.05)
    assert levels[0].fail < 1e-6 < levels[-1].fail
    # O'Brien-Fleming by its own formula, at half of the information
    half = 2 - 2 * distributions.norm.cdf(distributions.norm.ppf(1 - 0.025) / np.sqrt(0.5))
    assert levels[0].fail + levels[1].fail + levels[2].fail == pytest.approx(half)
