from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import draws, write_run

from odeval.cli import run
from odeval.compare import compare
from odeval.config import GateConfig, RuleConfig
from odeval.errors import CannotJudge
from odeval.gate import as_json, exit_code, judge, judge_all, overall
from odeval.types import Prompt


def comparison(
    tmp_path: Path, prompts: int = 200, n: int = 32, power: float = 1.0, seed: int = 0, **options: Any
) -> Any:
    rates = np.random.default_rng(7).beta(0.7, 1.0, prompts)
    odds = (rates / (1 - rates)) ** power
    old = write_run(tmp_path / f"old{seed}", draws(rates, n, 2 * seed), block=50, **options)
    new = write_run(tmp_path / f"new{seed}", draws(odds / (1 + odds), n, 2 * seed + 1), block=50, **options)
    return compare([new], baseline=old)


def gate(found: Any, *rules: str) -> Any:
    return judge(found, GateConfig(rules=tuple(RuleConfig(rule=rule) for rule in rules)))[0]


def test_a_sharpened_model_fails_and_is_called_collapse(tmp_path: Path) -> None:
    judgement = gate(comparison(tmp_path, power=3.0), "pass@k.delta >= -0.03")
    assert (judgement.verdict, judgement.diagnosis) == ("FAIL", "COLLAPSE")
    assert "lost coverage while pass@1 held" in judgement.headline
    (check,) = judgement.checks
    assert check.high < -0.03
    assert "beyond -0.03" in check.detail


def test_an_unchanged_model_passes(tmp_path: Path) -> None:
    judgement = gate(comparison(tmp_path, prompts=400, n=64), "pass@k.delta >= -0.03")
    assert (judgement.verdict, judgement.diagnosis) == ("PASS", "")
    assert judgement.checks[0].low >= -0.03


def test_too_little_evidence_is_inconclusive_and_says_what_would_settle_it(tmp_path: Path) -> None:
    judgement = gate(comparison(tmp_path, prompts=60, n=8), "pass@k.delta >= -0.03")
    assert judgement.verdict == "INCONCLUSIVE"
    assert "prompts would settle it" in judgement.checks[0].detail


def test_a_worse_model_fails_without_the_collapse_label(tmp_path: Path) -> None:
    rates = np.random.default_rng(7).beta(0.7, 1.0, 200)
    old = write_run(tmp_path / "old", draws(rates, 32, 0), block=50)
    new = write_run(tmp_path / "new", draws(rates * 0.6, 32, 1), block=50)
    judgement = gate(compare([new], baseline=old), "pass@k.delta >= -0.03")
    assert (judgement.verdict, judgement.diagnosis) == ("FAIL", "")


def test_fifty_prompts_are_needed_for_a_pass(tmp_path: Path) -> None:
    same = [[True] * 32] * 40
    old, new = (write_run(tmp_path / name, same) for name in ("old", "new"))
    judgement = gate(compare([new], baseline=old), "pass@k.delta >= -0.2")
    assert judgement.verdict == "INCONCLUSIVE"
    assert "too few for a PASS" in judgement.checks[0].detail


def test_few_clusters_give_no_pass_however_many_prompts(tmp_path: Path) -> None:
    """Intervals over 10 clusters are too short (reports/calibration); for these very prompts clusters do not matter."""
    prompts = [Prompt(text=f"question {p}", answer="right", id=f"p{p:05d}", cluster=f"c{p % 10}") for p in range(400)]
    rates = np.full(400, 0.5)
    runs = [write_run(tmp_path / name, draws(rates, 32, i), prompts=prompts, block=50) for i, name in enumerate("ab")]
    found = compare([runs[1]], baseline=runs[0])
    assert found["clusters"] == 10
    (check,) = gate(found, "pass@k.delta >= -0.2").checks
    assert (check.verdict, check.detail) == (
        "INCONCLUSIVE", "10 clusters of 400 prompts are too few for a PASS; use at least 50",
    )  # fmt: skip
    rules = GateConfig(scope="benchmark", rules=(RuleConfig(rule="pass@k.delta >= -0.2"),))
    assert judge(found, rules)[0].verdict == "PASS"


def test_all_equal_is_no_certainty(tmp_path: Path) -> None:
    """80 prompts solved by both: the drop may still be met by 1 in 27 other prompts, so 3 points cannot be excluded."""
    same = [[True] * 32] * 80
    found = compare([write_run(tmp_path / "new", same)], baseline=write_run(tmp_path / "old", same))
    assert gate(found, "pass@k.delta >= -0.03").verdict == "INCONCLUSIVE"
    assert gate(found, "pass@k.delta >= -0.05").verdict == "PASS"


@pytest.mark.parametrize(
    ("rule", "verdict", "text"),
    [
        ("pass@32.delta >= -0.5", "INCONCLUSIVE", "needs n >= 2k"),
        ("retention@teacher >= 0.8", "INCONCLUSIVE", "was not measured; run `odeval score`"),
        ("truncated_fraction <= 0.02", "PASS", "at most 0.000"),
        ("truncated_fraction >= 0.02", "FAIL", "beyond 0.02"),
        ("distinct_correct.delta >= -1", "PASS", "inside -1"),
        ("pass@1 >= 0.99", "FAIL", "beyond 0.99"),
        ("pass@3 >= 0.1", "INCONCLUSIVE", "add it to --ks"),
    ],
)
def test_single_rules(tmp_path: Path, rule: str, verdict: str, text: str) -> None:
    (check,) = gate(comparison(tmp_path, prompts=100), rule).checks
    assert check.verdict == verdict, check
    assert text in check.detail


def test_warnings_do_not_decide(tmp_path: Path) -> None:
    found = comparison(tmp_path, prompts=400, n=64)
    rules = GateConfig(
        rules=(RuleConfig(rule="pass@1 >= 0.99", severity="warn"), RuleConfig(rule="pass@k.delta >= -0.03"))
    )
    judgement = judge(found, rules)[0]
    assert [check.verdict for check in judgement.checks] == ["FAIL", "PASS"]
    assert judgement.verdict == "PASS"


def test_a_missing_reference_is_not_judged(tmp_path: Path) -> None:
    found = comparison(tmp_path, prompts=60)
    with pytest.raises(CannotJudge, match="no teacher run was given"):
        judge(found, GateConfig(rules=(RuleConfig(rule="pass@k.delta >= -0.03", against="teacher"),)))


def test_distrusted_runs_are_not_judged(tmp_path: Path) -> None:
    found = comparison(tmp_path, prompts=60)
    found["trust"].append({"check": "Seeds", "status": "block", "detail": "two streams are copies"})
    with pytest.raises(CannotJudge, match="two streams are copies"):
        judge(found)


def test_default_rules_are_those_the_runs_can_answer(tmp_path: Path) -> None:
    """Without scores nothing is known of branch points; a rule the user wrote himself stays and is inconclusive."""
    found = comparison(tmp_path, prompts=400, n=64)
    judgement = judge(found)[0]
    assert judgement.verdict == "PASS"
    assert [check.rule.split()[0] for check in judgement.checks] == [
        "pass@k.delta", "truncated_fraction", "ungraded_fraction",
    ]  # fmt: skip
    assert gate(found, "pass@k.delta >= -0.03", "retention@teacher >= 0.8").verdict == "INCONCLUSIVE"


def test_verdict_file_and_exit_code_come_from_one_object(tmp_path: Path) -> None:
    judgements = judge(comparison(tmp_path, power=3.0))
    assert as_json(judgements)["verdict"] == overall(judgements) == "FAIL"
    assert exit_code("FAIL") == exit_code("FAIL", strict=True) == 1
    assert (exit_code("PASS"), exit_code("INCONCLUSIVE"), exit_code("INCONCLUSIVE", strict=True)) == (0, 0, 3)


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ("pass@k.ratio >= 0.5", "PASS"),
        ("pass@16.ratio >= 0.99", "FAIL"),
        ("distinct_correct.ratio >= 0.5", "PASS"),
        ("pass@16.inherited >= 0.9", "FAIL"),
        ("pass@k.inherited >= 0.2", "PASS"),
    ],
)
def test_ratios_and_inherited_gain(tmp_path: Path, rule: str, verdict: str) -> None:
    rates = np.random.default_rng(7).beta(0.7, 1.0, 200)
    odds = (rates / (1 - rates)) ** 3
    teacher = write_run(tmp_path / "teacher", draws(rates, 32, 0), block=50)
    student = write_run(tmp_path / "student", draws(odds / (1 + odds), 32, 1), block=50)
    (check,) = gate(compare([student], teacher=teacher), rule).checks
    assert check.verdict == verdict, check


def test_inherited_gain_is_the_ratio_of_what_sampling_adds(tmp_path: Path) -> None:
    teacher = write_run(tmp_path / "teacher", [[True] + [False] * 7, [True] * 8] * 40)
    student = write_run(tmp_path / "student", [[False] * 8, [True] * 8] * 20 + [[True] + [False] * 7, [True] * 8] * 20)
    curve = compare([student], teacher=teacher)["pairs"][0]["pass_at_k"]
    j = curve["shares_k"].index(8)
    assert curve["gain"]["baseline"][j] == pytest.approx(0.5 * 7 / 8)
    assert curve["inherited"][j]["value"] == pytest.approx(0.5)
    assert curve["inherited"][0]["value"] is None  # at k = 1 there is nothing to inherit


def test_a_ratio_to_nothing_is_unknown(tmp_path: Path) -> None:
    teacher = write_run(tmp_path / "teacher", [[False] * 8] * 60)
    student = write_run(tmp_path / "student", draws(np.full(60, 0.5), 8, 0))
    (check,) = gate(compare([student], teacher=teacher), "pass@k.ratio >= 0.9").checks
    assert check.verdict == "INCONCLUSIVE"
    assert "unknown" in check.detail


def test_p_value_is_where_the_verdict_turns(tmp_path: Path) -> None:
    """FAIL at a level just above p_fail, not just below: the bound and the p value are one thing."""
    found = comparison(tmp_path, prompts=120, n=16, power=1.3)
    rule = RuleConfig(rule="pass@k.delta >= -0.03")
    p_fail = judge(found, GateConfig(rules=(rule,)))[0].checks[0].p_fail
    assert 0.001 < p_fail < 0.4
    for factor, verdict in ((1.1, "FAIL"), (0.9, "INCONCLUSIVE")):
        assert judge(found, GateConfig(alpha=min(p_fail * factor, 0.49), rules=(rule,)))[0].verdict == verdict


def test_one_chance_failure_among_many_benchmarks_is_not_a_failure(tmp_path: Path) -> None:
    found = comparison(tmp_path, prompts=120, n=16, power=1.3)
    fine = comparison(tmp_path, prompts=150, n=16, seed=1)
    fine["runs"][-1]["label"] = fine["pairs"][0]["candidate"] = found["runs"][-1]["label"]
    rule = RuleConfig(rule="pass@k.delta >= -0.03")
    p_fail = judge(found, GateConfig(rules=(rule,)))[0].checks[0].p_fail
    rules = GateConfig(alpha=min(1.5 * p_fail, 0.49), rules=(rule,))
    assert judge_all([found], rules)[0].verdict == "FAIL"
    together = judge_all([found, fine], rules)
    assert together[0].verdict == "INCONCLUSIVE"
    assert "by chance (Holm" in together[0].checks[0].detail
    certain = comparison(tmp_path, power=3.0, seed=2)
    certain["runs"][-1]["label"] = certain["pairs"][0]["candidate"] = found["runs"][-1]["label"]
    assert judge_all([certain, fine, fine], rules)[0].verdict == "FAIL"


def test_a_log_alone_is_not_judged(tmp_path: Path, capsys) -> None:
    (tmp_path / "counts.jsonl").write_text('{"id": "q1", "n": 4, "c": 2}\n')
    assert run(["gate", str(tmp_path / "counts.jsonl")]) == 4
    assert capsys.readouterr().err == (
        f"odeval: {tmp_path / 'counts.jsonl'}: alone says nothing of a loss; name --baseline RUN or --teacher RUN\n"
    )
