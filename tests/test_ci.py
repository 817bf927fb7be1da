"""The gate inside a pipeline: what a GitHub step shows, action.yml run for real, the hooks of pre-commit."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from report_data import Audit, audited
from test_exporters import HOSTILE

from odeval.cli import run
from odeval.integrations import github
from odeval.integrations.judging import judge_paths
from odeval.integrations.pre_commit import main

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return audited(tmp_path_factory.mktemp("audit"), {"rkl": "collapsed"}, prompts=120, n=16)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files and folders that a GitHub runner provides."""
    for name in ("output", "summary"):
        (tmp_path / name).touch()
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path / "temp"))
    return tmp_path


def outputs(folder: Path) -> dict[str, str]:
    """Read $GITHUB_OUTPUT as a runner does."""
    found, lines = {}, iter((folder / "output").read_text(encoding="utf-8").split("\n"))
    for line in lines:
        if "<<" in line:
            name, delimiter = line.split("<<")
            value = []
            while (text := next(lines)) != delimiter:
                value.append(text)
            found[name] = "\n".join(value)
        elif line:
            found |= [line.split("=", 1)]
    return found


def counts(path: Path, solved: float, prompts: int = 200, n: int = 32) -> Path:
    """Counts of a model that never solves some prompts and nearly always the others."""
    drawn = np.random.default_rng(0).binomial(n, np.where(np.arange(prompts) < solved * prompts, 0.9, 0.0))
    path.write_text("".join(json.dumps({"id": f"p{i}", "n": n, "c": int(c)}) + "\n" for i, c in enumerate(drawn)))
    return path


def test_a_step_tells_the_verdict_everywhere(runner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = counts(runner / "old.jsonl", 0.9), counts(runner / "new.jsonl", 0.6)
    out = runner / "out"
    files = ["--junit", str(runner / "j.xml"), "--metrics", str(runner / "m.txt"), "--out", str(out)]
    assert run(["gate", str(new), "--baseline", str(old), "--github", *files]) == 1
    lines = capsys.readouterr().out.splitlines()
    token = lines[0].removeprefix("::stop-commands::")
    told = lines[lines.index(f"::{token}::") + 1 :]
    assert len(token) >= 32
    assert [line.partition(" ")[0] for line in told] == ["::error"]
    assert "title=odeval%3A FAIL" in told[0]
    assert outputs(runner) == {
        "verdict": "FAIL", "diagnosis": "", "report-path": str(out / "report.html"),
        "verdict-path": str(out / "verdict.json"),
    }  # fmt: skip
    summary = (runner / "summary").read_text(encoding="utf-8")
    assert "### ✕ odeval: FAIL" in summary
    assert "| pass@k.delta >= -0.03 against old | ✕ FAIL |" in summary
    assert ElementTree.parse(runner / "j.xml").getroot().get("failures") == "1"
    assert 'odeval_verdict="FAIL"} 1\n' in (runner / "m.txt").read_text(encoding="utf-8")


def test_logs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is imported into a temporary folder, whose name would be another in every process."""
    monkeypatch.chdir(tmp_path)
    paths = []
    for name, solved in (("old", 0.9), ("new", 0.6)):
        Path(name).mkdir()
        paths.append(counts(Path(name) / "samples.jsonl", solved))
    judged = judge_paths(paths[1], paths[0])
    assert judged.verdict["candidates"][0]["candidate"] == "new/samples.jsonl"
    assert judged.verdict["candidates"][0]["checks"][0]["against"] == "old/samples.jsonl"


def test_json_stays_alone_on_stdout(runner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = counts(runner / "old.jsonl", 0.9), counts(runner / "new.jsonl", 0.6)
    assert run(["gate", str(new), "--baseline", str(old), "--github", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["verdict"] == "FAIL"
    assert captured.err.startswith("::error ")


def test_no_verdict_is_told_as_such(runner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = counts(runner / "old.jsonl", 0.9)
    junit = runner / "j.xml"
    junit.write_text("an old report")
    assert run(["gate", "nothing", "--baseline", str(old), "--github", "--junit", str(junit)]) == 4
    assert "::error title=odeval could not judge::nothing: no run here" in capsys.readouterr().out
    assert outputs(runner)["verdict"] == "CANNOT_JUDGE"
    assert "could not judge" in (runner / "summary").read_text(encoding="utf-8")
    assert ElementTree.parse(junit).getroot().get("errors") == "1"


def test_few_annotations_and_none_is_forged(audit: Audit) -> None:
    verdict = copy.deepcopy(audit[1])
    (row,) = verdict["candidates"]
    row["headline"], row["candidate"] = HOSTILE, f"100%: a,b {HOSTILE}"
    failed = next(check for check in row["checks"] if check["verdict"] == "FAIL")
    row["checks"] = [{**failed, "severity": kind, "detail": HOSTILE} for kind in ("fail", "warn") for _ in range(30)]
    lines = github.commands(verdict)
    assert [line.partition(" ")[0] for line in lines] == ["::error", *["::warning"] * 9]
    assert lines[-1].endswith("22 more rules warn or are inconclusive")
    for line in lines:
        assert not set(line) & {"\n", "\r", "\x1b", "\x00", "\u202e"}
        assert re.fullmatch(r"::(error|warning) title=[^:,\n]*::.*", line)
        assert re.search(r"%(?!25|0A|0D|3A|2C)", line) is None
    assert "100%25: a,b" in lines[0]


def test_outputs_hold_no_line_that_a_value_wrote(runner: Path) -> None:
    text = github.outputs({"one": "x\ntwo=2\nthree<<EOF", "four": "4"})
    (runner / "output").write_text(text, encoding="utf-8")
    found = outputs(runner)
    assert found.keys() == {"one", "four"}
    delimiters = re.findall(r"<<(.*)", text)
    assert len({name for name in delimiters if name.startswith("odeval_")}) == 2


def test_the_summary_is_capped_at_whole_lines(audit: Audit, runner: Path) -> None:
    comparison, verdict = copy.deepcopy(audit[0]), copy.deepcopy(audit[1])
    verdict["candidates"] *= 1200
    (runner / "summary").write_text("of an earlier command\n" * 1000)
    github.publish([comparison], verdict, None, False, io.StringIO())
    data = (runner / "summary").read_bytes()
    assert 890_000 < len(data) <= 900_000
    assert data.startswith(b"of an earlier command\n")
    assert re.search(r"\n\n\*The rest did not fit; see the report\.\*\n\Z", data.decode())
    github.publish([comparison], verdict, None, False, io.StringIO())
    assert len((runner / "summary").read_bytes()) <= 900_000


def test_a_hostile_summary_is_a_table_of_text(audit: Audit) -> None:
    comparison, verdict = copy.deepcopy(audit[0]), copy.deepcopy(audit[1])
    for check in verdict["candidates"][0]["checks"]:
        check |= {"detail": HOSTILE, "why": HOSTILE}
    verdict["candidates"][0]["headline"] = HOSTILE
    text = github.summary([comparison], verdict, Path(HOSTILE))
    for line in text.splitlines():
        assert not re.search(r"(?<!\\)<", line)
        if line.startswith("| pass@k.delta"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 6


def test_every_input_of_the_action_is_used_and_none_reaches_a_script_as_text() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    for name, about in ACTION["inputs"].items():
        assert about["description"]
        assert about.get("required") or isinstance(about["default"], str)
        assert f"inputs.{name}" in text
    for step in STEPS.values():
        assert "${{" not in step.get("run", "")
        for name in step.get("env", {}):
            assert re.search(rf"\b{name}\b", step["run"]), name
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        else:
            assert step["shell"] == "bash"
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)
    used = set(re.findall(r"steps\.gate\.outputs\.([a-z-]+)", text))
    assert used == {"verdict", "report-path", "code"}
    assert ACTION["outputs"].keys() == {"verdict", "report-path"}


def step(name: str, **variables: str) -> int:
    """Run one step's script as a runner does, with odeval where the install step puts it."""
    program = Path(os.environ["RUNNER_TEMP"]) / "odeval" / "bin" / "odeval"
    if not program.exists():
        program.parent.mkdir(parents=True)
        program.write_text(f"#!{sys.executable}\nimport sys\nfrom odeval.cli import main\nsys.exit(main())\n")
        program.chmod(0o755)
    environment = {**os.environ, **dict.fromkeys(STEPS[name]["env"], ""), **variables, "PYTHONPATH": str(ROOT)}
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", STEPS[name]["run"]]
    return subprocess.run(command, env=environment, cwd=os.environ["RUNNER_TEMP"], check=False).returncode


@pytest.mark.parametrize(
    ("solved", "strict", "verdict", "codes"),
    [
        (0.6, "false", "FAIL", {"false": 1, "true": 0}),
        (0.9, "false", "PASS", {"false": 0, "true": 0}),
        (0.85, "true", "INCONCLUSIVE", {"false": 3, "true": 0}),
        (None, "false", "CANNOT_JUDGE", {"false": 4, "true": 4}),
    ],
)
def test_the_steps_of_the_action_run(
    runner: Path, solved: float | None, strict: str, verdict: str, codes: dict[str, int]
) -> None:
    odd = runner / "a name; touch injected $(touch injected)"
    odd.mkdir()
    old = counts(odd / "old.jsonl", 0.9)
    new = odd / "none.jsonl" if solved is None else counts(odd / "new.jsonl", solved)
    (runner / "temp").mkdir()
    assert step("Judge", CANDIDATE=str(new), BASELINE=str(old), STRICT=strict) == 0
    found = outputs(runner)
    assert found["verdict"] == verdict
    assert bool(found["report-path"]) == (solved is not None)
    report = runner / "temp" / "odeval-report"
    assert (report / "report.html").exists() == (solved is not None)
    assert ElementTree.parse(report / "junit.xml").getroot().tag == "testsuites"
    assert not list(runner.rglob("injected"))
    for report_only, code in codes.items():
        assert step("Verdict", CODE=found["code"], REPORT_ONLY=report_only) == code
    assert step("Verdict", CODE="", REPORT_ONLY="true") == 4


def test_the_rules_hook_finds_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files: dict[str, Any] = {
        "gate.yaml": {"rules": [{"rule": "pass@k.delta >= -0.03"}]},
        "gate-bad.yaml": {"rules": [{"rule": "pass@k.dleta >= -0.03"}]},
        "gate-typo.yaml": {"rule": []},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(content))
    good, *bad = (str(tmp_path / name) for name in files)
    assert main([good]) == 0
    assert main([good, *bad]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "did you mean 'delta'?" in lines[0]
    assert "did you mean 'rules'?" in lines[1]


def test_pre_commit_accepts_both_files() -> None:
    program = Path(sys.executable).parent / "pre-commit"
    for verb, name in (("validate-manifest", ".pre-commit-hooks.yaml"), ("validate-config", ".pre-commit-config.yaml")):
        subprocess.run([program, verb, ROOT / name], check=True, cwd=ROOT)
    hooks = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    assert hooks["odeval-gate"]["stages"] == ["pre-push"]
    pattern = re.compile(hooks["odeval-rules"]["files"])
    assert [bool(pattern.search(name)) for name in ("gate.yaml", "ci/gate-x.yml", "mitigate.yaml", "gate.py")] == [
        True, True, False, False,
    ]  # fmt: skip
