"""The pytest plugin in a process of its own, found through its entry point: silent unless asked, one test a rule."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parent.parent
RULES = """rules:
- {rule: pass@k.delta >= -0.03, why: "users draw 16"}
- {rule: pass@1 >= 0.99, severity: warn}
- {rule: pass@3 >= 0.1}
- {rule: ungraded_fraction <= 0.5, severity: warn}
"""
FOREIGN = """
import sys
import warnings
import pytest

def test_passes():
    assert {name for name in sys.modules if name.startswith("odeval.")} <= {
        "odeval.integrations", "odeval.integrations.pytest_plugin"
    }

def test_fails():
    assert 1 == 2

@pytest.mark.skip(reason="no")
def test_skipped():
    pass

def test_warns():
    warnings.warn("old")
"""


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with counts and rules, in an environment where the plugin is installed."""
    info = pytester.mkdir("site") / "odeval_for_tests-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odeval-for-tests\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[pytest11]\nodeval = odeval.integrations.pytest_plugin\n")
    path = os.pathsep.join([str(info.parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))
    monkeypatch.setenv("CI", "1")  # then pytest cuts no line
    drawn = np.random.default_rng(0)
    for name, solved in (("old", 0.9), ("same", 0.9), ("new", 0.6)):
        correct = drawn.binomial(32, np.where(np.arange(200) < 200 * solved, 0.9, 0.0))
        rows = [{"id": f"p{i}", "n": 32, "c": int(c)} for i, c in enumerate(correct)]
        (pytester.path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (pytester.path / "gate.yaml").write_text(RULES)
    return pytester


def gate(session: pytest.Pytester, *arguments: str, candidate: str = "new") -> pytest.RunResult:
    return session.runpytest_subprocess(
        *("-W", "error", "--strict-markers", "-p", "no:cacheprovider"),
        *(f"--odeval-candidate={candidate}.jsonl", "--odeval-baseline=old.jsonl"),
        *arguments,
    )


def test_the_entry_point_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"odeval": "odeval.integrations.pytest_plugin"}


def test_pytest_does_not_rewrite_the_packages() -> None:
    """Else every pytest in whose process odeval was imported before warns, whether it uses the plugin or not."""
    for package in ("odeval", "odkd"):
        assert "PYTEST_DONT_REWRITE" in (ROOT / package / "__init__.py").read_text(encoding="utf-8").split('"""')[1]


def test_the_options_load_only_the_standard_library() -> None:
    code = "import sys, odeval.integrations.pytest_plugin as p; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    # What a fresh interpreter loads by itself, such as the hooks of editable installs, is not the plugin's doing.
    bare = subprocess.run([sys.executable, "-I", "-c", "import sys; print(*{n.split('.')[0] for n in sys.modules})"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    extra = set(done.stdout.split()) - set(bare.stdout.split()) - sys.stdlib_module_names
    assert extra == {"odeval"}


@pytest.mark.parametrize("flags", [["-q"], [], ["-v", "-rA", "--strict-markers", "--strict-config"]])
def test_a_foreign_suite_is_left_alone(flags: list[str], session: pytest.Pytester) -> None:
    session.makepyfile(FOREIGN)
    with_it = session.runpytest_subprocess(*flags, "-p", "no:cacheprovider")
    without = session.runpytest_subprocess(*flags, "-p", "no:cacheprovider", "-p", "no:odeval")
    texts = [plain(result.stdout.str()) for result in (with_it, without)]
    # pytest itself lists what is installed, in a line of its header that -q leaves out.
    listed = re.compile(r"^plugins: .*\n", re.MULTILINE)
    if flags != ["-q"]:
        assert "odeval" in " ".join(listed.findall(texts[0]))
        texts = [listed.sub("", text) for text in texts]
    assert texts[0] == texts[1]
    assert with_it.stderr.str() == without.stderr.str()
    assert with_it.ret == without.ret == 1
    with_it.assert_outcomes(passed=2, failed=1, skipped=1, warnings=1)


def plain(text: str) -> str:
    return re.sub(r"in \d+\.\d+s", "in TIME", text)


def test_each_rule_is_a_test(session: pytest.Pytester) -> None:
    session.makepyfile("def test_own(): pass")
    result = gate(session, "--odeval-rules=gate.yaml", "--junitxml=j.xml", "-rA")
    result.assert_outcomes(passed=1, failed=1, xfailed=1, skipped=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (line,) = [line for line in result.outlines if line.startswith("FAILED ")]
    assert line.startswith("FAILED odeval::pass@k.delta >= -0.03 - measured -0.")
    assert line.endswith(": beyond -0.03 (against old; users draw 16)")
    result.stdout.fnmatch_lines([
        "odeval: candidate new.jsonl, baseline old.jsonl, rules gate.yaml",
        "*SKIPPED* inconclusive, pass@3 >= 0.1: *add it to --ks*",
        "XFAIL odeval::pass@1 >= 0.99 - warns only: measured *beyond 0.99*",
    ])  # fmt: skip
    assert "Traceback" not in result.stdout.str()
    suite = ElementTree.parse(session.path / "j.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "1", "3")
    (failed,) = [case for case in suite if case.find("failure") is not None]
    assert (failed.get("classname"), failed.get("name")) == ("odeval", "pass@k.delta >= -0.03")
    told = {item.get("name"): item.get("value") for item in failed.findall("properties/property")}
    assert told["candidate"] == "new"
    assert told["against"] == "old"


def test_inconclusive_fails_only_when_strict(session: pytest.Pytester) -> None:
    (session.path / "gate.yaml").write_text("rules: [{rule: pass@3 >= 0.1}, {rule: pass@5 >= 0.1, severity: warn}]")
    gate(session, "--odeval-rules=gate.yaml").assert_outcomes(skipped=2)
    gate(session, "--odeval-rules=gate.yaml", "--odeval-strict").assert_outcomes(failed=1, skipped=1)
    session.makeini("[pytest]\nodeval_strict = true\nodeval_rules = gate.yaml\n")
    gate(session).assert_outcomes(failed=1, skipped=1)


@pytest.mark.slow
def test_rules_are_selected_like_tests(session: pytest.Pytester) -> None:
    session.makepyfile("def test_own(): pass")
    found = gate(session, "--odeval-rules=gate.yaml", "-q", "--collect-only")
    assert [line for line in found.outlines if "::" in line] == [
        "test_rules_are_selected_like_tests.py::test_own",
        "odeval::pass@k.delta >= -0.03", "odeval::pass@1 >= 0.99", "odeval::pass@3 >= 0.1",
        "odeval::ungraded_fraction <= 0.5",
    ]  # fmt: skip
    gate(session, "--odeval-rules=gate.yaml", "-k", "delta").assert_outcomes(failed=1, deselected=4)
    gate(session, "--odeval-rules=gate.yaml", "-m", "not odeval").assert_outcomes(passed=1, deselected=4)
    gate(session, "--odeval-rules=gate.yaml", "--runxfail", "-k", "0.99").assert_outcomes(passed=1, deselected=4)


def test_a_rules_file_among_the_arguments_runs_the_gate_alone(session: pytest.Pytester) -> None:
    session.makepyfile("def test_own(): pass")
    result = gate(session, "gate.yaml", "--odeval-rules=gate.yaml", "-q")
    result.assert_outcomes(failed=1, xfailed=1, skipped=2)
    result.stdout.fnmatch_lines(["FAILED gate.yaml::pass@k.delta*"])


@pytest.mark.slow
def test_options_may_stand_in_the_configuration_file(session: pytest.Pytester) -> None:
    session.makepyfile("def test_own(): pass")
    below = session.mkdir("below")
    session.makepyprojecttoml(
        '[tool.pytest.ini_options]\nodeval_candidate = "same.jsonl"\nodeval_baseline = "old.jsonl"\naddopts = "-q"\n'
    )
    session.runpytest_subprocess("--strict-config").assert_outcomes(passed=2)
    result = session.runpytest_subprocess("--strict-config", "--odeval-candidate=new.jsonl")
    result.assert_outcomes(passed=1, failed=1)
    command = [sys.executable, "-m", "pytest", "-c", session.path / "pyproject.toml"]
    done = subprocess.run(command, cwd=below, capture_output=True, text=True)
    assert "1 passed" in done.stdout, done.stdout


def test_a_comparison_is_judged_as_it_stands(session: pytest.Pytester) -> None:
    from odeval.cli import run

    folder, paths = session.mkdir("compared"), [str(session.path / f"{name}.jsonl") for name in ("old", "new")]
    assert run(["compare", *paths, "--out", str(folder)]) == 0
    session.runpytest_subprocess("--odeval-comparison=compared").assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--odeval-candidate=none.jsonl"], 2, "could not judge: *no run here*"),
        (["--odeval-rules=none.yaml"], 2, "could not judge: *none.yaml: cannot be read*"),
        (["--odeval-comparison=x"], 4, "ERROR: --odeval-comparison stands alone*"),
    ],
)
def test_a_gate_that_cannot_judge_is_one_clear_line(
    arguments: list[str], code: int, message: str, session: pytest.Pytester
) -> None:
    result = gate(session, *arguments)
    assert result.ret == code
    lines = [line for line in (*result.outlines, *result.errlines) if line.startswith("ERROR")]
    assert len(lines) == 1
    assert re.search(message.replace("*", ".*"), lines[0])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_baseline_alone_is_a_usage_error(session: pytest.Pytester) -> None:
    result = session.runpytest_subprocess("--odeval-baseline=old.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --odeval-baseline needs --odeval-candidate, or --odeval-comparison"])


def test_workers_of_xdist_find_the_same_rules(session: pytest.Pytester) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not among the tests' dependencies")
    result = gate(session, "--odeval-rules=gate.yaml", "-n", "2")
    result.assert_outcomes(failed=1, xfailed=1, skipped=2)
