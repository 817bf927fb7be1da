from __future__ import annotations

from pathlib import Path

import pytest

from odeval.config import GateConfig, RuleConfig, load_yaml
from odeval.errors import OdevalError
from odeval.rules import default_rules, parse_rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pass@64.delta > -0.03", "is not of the form"),
        ("pass@64.delta >= ", "is not of the form"),
        ("__import__('os') >= 1", "is not of the form"),
        ("pass.delta >= 0", "write pass@8 for one k, or pass@k"),
        ("pass@0 >= 0", "write pass@8 for one k"),
        ("retension >= 0.8", "unknown metric 'retension'.*did you mean 'retention'"),
        ("retention@techer >= 0.8", "unknown trajectory 'techer'.*did you mean 'teacher'"),
        ("pass@8.detla >= 0", "unknown form 'detla'.*did you mean 'delta'"),
        ("truncated_fraction@teacher <= 0.1", "truncated_fraction takes no '@teacher'"),
    ],
)
def test_a_malformed_rule_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(OdevalError, match=message) as caught:
        parse_rule(RuleConfig(rule=text), "gate.yaml")
    assert str(caught.value).startswith("gate.yaml: rule '")
    assert "\n" not in str(caught.value)


def test_parsed_fields() -> None:
    rule = parse_rule(RuleConfig(rule=" forward_kl_on_branch@student.delta<=1e-1 "))
    assert (rule.metric, rule.at, rule.form, rule.at_least, rule.limit) == (
        "forward_kl_on_branch", "student", "delta", False, 0.1,
    )  # fmt: skip
    assert parse_rule(RuleConfig(rule="retention >= 0.8")).at == "teacher"


def test_default_rules_parse() -> None:
    metrics = dict.fromkeys(["retention@teacher", "truncated_fraction", "ungraded_fraction"])
    rules = default_rules({"runs": [{"role": "candidate", "metrics": metrics}]}).rules
    assert len([parse_rule(rule).text for rule in rules]) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rules:\n- rule: pass@k.delta >= 0\n  severty: warn\n", "unknown key 'severty'.*did you mean 'severity'"),
        ("ruls:\n- rule: x\n", "unknown key 'ruls'.*did you mean 'rules'"),
        ("alpha: 0.05\n", "key 'rules' is missing"),
        ("alpha: 2\nrules:\n- rule: pass@k.delta >= 0\n", "alpha is 2: .*less than 0.5"),
        ("rules: []\n", "rules is"),
        ("- a\n- b\n", "expected a mapping with the keys alpha, rules"),
        ("rules: [\n", "gate.yaml:2: is no YAML"),
        ("rules:\n- rule: x >= 0\n  against: nobody\n", "against is 'nobody'"),
    ],
)
def test_a_malformed_file_is_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(content)
    with pytest.raises(OdevalError, match=message) as caught:
        load_yaml(path, GateConfig)
    assert "gate.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(OdevalError, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml", GateConfig)
    (tmp_path / "gate.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OdevalError, match="is not UTF-8 text"):
        load_yaml(tmp_path / "gate.yaml", GateConfig)
