from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import draws, write_run

from odeval.compare import compare
from odeval.config import GateConfig, RuleConfig
from odeval.errors import CannotJudge
from odeval.gate import as_json, exit_code, judge, overall
from odeval.rules import DEFAULT_RULES


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


def test_default_rules_apply_to_a_comparison_without_scores(tmp_path: Path) -> None:
    """retention is a warning; unmeasured it must neither pass nor decide."""
    judgement = judge(comparison(tmp_path, prompts=400, n=64))[0]
    assert judgement.verdict == "PASS"
    assert {check.rule: check.verdict for check in judgement.checks}["retention@teacher >= 0.8"] == "INCONCLUSIVE"


def test_verdict_file_and_exit_code_come_from_one_object(tmp_path: Path) -> None:
    judgements = judge(comparison(tmp_path, power=3.0))
    assert as_json(judgements, DEFAULT_RULES)["verdict"] == overall(judgements) == "FAIL"
    assert exit_code("FAIL") == exit_code("FAIL", strict=True) == 1
    assert (exit_code("PASS"), exit_code("INCONCLUSIVE"), exit_code("INCONCLUSIVE", strict=True)) == (0, 0, 3)


@pytest.mark.slow
def test_no_change_rarely_fails(tmp_path: Path) -> None:
    """Size of the strictest gate (margin 0): at most α plus 3 standard errors over 200 no-change pairs."""
    repetitions, alpha, failed = 200, 0.05, 0
    for seed in range(repetitions):
        found = comparison(tmp_path, prompts=60, n=8, seed=seed)
        failed += gate(found, "pass@k.delta >= 0").verdict == "FAIL"
    assert failed / repetitions <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / repetitions)
