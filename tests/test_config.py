from __future__ import annotations

from pathlib import Path

import pytest

from odeval.audit import AuditConfig
from odeval.config import GateConfig, load_yaml, resolve
from odeval.errors import OdevalError

FLAGS = {"students": [Path("s")], "teacher": Path("t"), "task": "countdown", "out": Path("o")}


def test_defaults_then_file_then_environment_then_flags(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text("n: 8\nseed: 1\ntop_p: 0.9\nlimit: 5\n")
    found, sources = resolve(
        AuditConfig, {**FLAGS, "n": 32}, path, {"ODEVAL_N": "16", "ODEVAL_SEED": "2", "OTHER": "x"}
    )
    assert (found.n, found.seed, found.top_p, found.temperature) == (32, 2, 0.9, 1.0)
    assert (sources["n"], sources["seed"], sources["top_p"]) == ("--n", "ODEVAL_SEED", str(path))
    assert sources["temperature"] == "default"


@pytest.mark.parametrize(
    ("flags", "text", "environment", "message"),
    [
        ({}, "temprature: 1\n", {}, r"audit.yaml: unknown key 'temprature'.*did you mean 'temperature'"),
        ({}, "n: many\n", {}, r"audit.yaml: n is 'many'"),
        ({}, "", {"ODEVAL_N": "many"}, "ODEVAL_N: n is 'many'"),
        ({"threshold": -1.0}, "", {}, "--threshold: threshold is -1.0"),
        ({"teacher": None}, "", {}, "command line: key 'teacher' is missing"),
    ],
)
def test_errors_name_their_source(
    tmp_path: Path, flags: dict, text: str, environment: dict[str, str], message: str
) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(text or "n: 4\n")
    with pytest.raises(OdevalError, match=message) as caught:
        resolve(AuditConfig, {**FLAGS, **flags}, path, environment)
    assert "\n" not in str(caught.value)


def test_the_configuration_an_audit_writes_can_be_read_back(tmp_path: Path) -> None:
    import yaml

    config = AuditConfig(**{**FLAGS, "students": (Path("a"), Path("b")), "ks": (1, 4)})
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    assert resolve(AuditConfig, {}, path, {})[0] == config


def test_a_misspelt_key_is_named_rather_than_the_one_it_hides(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text('rules:\n- rul: "pass@1.delta >= 0"\n')
    with pytest.raises(OdevalError, match=r"unknown key 'rul': expected one of .* \(did you mean 'rule'\?\)"):
        load_yaml(tmp_path / "gate.yaml", GateConfig)
