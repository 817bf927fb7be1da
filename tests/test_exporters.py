"""Other tools' formats: that those tools can read them, and that no text from a model or a log breaks out of one."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from report_data import Audit, audited
from schema_check import problems
from synthetic import write_run

from odeval.cli import run
from odeval.errors import OdevalError
from odeval.exporters.cases import cases
from odeval.exporters.every_eval_ever import Described, write_every_eval_ever
from odeval.exporters.flat import bencher, nested, rows
from odeval.exporters.junit import junit, junit_error
from odeval.exporters.markdown import escaped
from odeval.exporters.model_card import END, START, model_card
from odeval.exporters.openmetrics import openmetrics

SCHEMAS = Path(__file__).parent / "fixtures" / "every_eval_ever"
HOSTILE = "<!-- odeval:end --> ]]></failure>\"'&\\ \n\r\n::error::x\n# EOF\nodeval_x 1\x1b[31m\x00\u202e\ud800 |`$x$ [a](http://b)\n---\n"


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("audit")
    return audited(folder, {"rkl": "collapsed", "fkl": "faithful"}, prompts=120, n=16)


@pytest.fixture(scope="module")
def hostile(audit: Audit) -> Audit:
    """Every name and sentence that an outsider may have written."""
    comparison, verdict = copy.deepcopy(audit[0]), copy.deepcopy(audit[1])
    names = {run["label"]: f"{run['label']} {HOSTILE}" for run in comparison["runs"]}
    comparison["task"] = HOSTILE
    for row in comparison["runs"]:
        row["label"] = names[row["label"]]
    for pair in comparison["pairs"]:
        pair["candidate"], pair["baseline"] = names[pair["candidate"]], names[pair["baseline"]]
    for row in verdict["candidates"]:
        row |= {"candidate": names[row["candidate"]], "benchmark": HOSTILE, "headline": HOSTILE}
        for check in row["checks"]:
            check |= {"detail": HOSTILE, "why": HOSTILE, "against": names.get(check["against"], "")}
    return comparison, verdict


def test_a_case_fails_exactly_where_the_exit_code_is_not_zero(audit: Audit) -> None:
    verdict = copy.deepcopy(audit[1])
    assert verdict["verdict"] == "FAIL"
    found = cases(verdict)
    assert any(case.outcome == "failed" for case in found)
    assert len({case.name for case in found}) == len(found) == sum(len(row["checks"]) for row in verdict["candidates"])
    for row in verdict["candidates"]:  # as an audit leaves a failure that it could not confirm
        row["verdict"] = "INCONCLUSIVE"
    assert not any(case.outcome == "failed" for case in cases(verdict))
    assert any(case.outcome == "failed" for case in cases(verdict, strict=True))
    for row in verdict["candidates"]:
        for check in row["checks"]:
            check |= {"severity": "warn", "verdict": "FAIL"}
    assert {case.outcome for case in cases(verdict, strict=True)} == {"warning"}


def test_names_tell_only_what_is_needed(audit: Audit) -> None:
    verdict = copy.deepcopy(audit[1])
    verdict["candidates"] = verdict["candidates"][:1]
    (row,) = verdict["candidates"]
    row["checks"] = [row["checks"][0]] * 2 + [{**row["checks"][0], "against": "a::b"}, row["checks"][-1]]
    rule = row["checks"][0]["rule"]
    assert [case.name for case in cases(verdict)] == [
        f"{rule} [vs start]", f"{rule} [vs start] #2", f"{rule} [vs a:b]", row["checks"][-1]["rule"],
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["audit", "hostile"])
def test_junit_adds_up_and_survives_any_text(kind: str, request: pytest.FixtureRequest) -> None:
    """What GitLab, Jenkins and GitHub reporters read: counts, one outcome a case, texts, times, properties."""
    verdict = request.getfixturevalue(kind)[1]
    root = ElementTree.fromstring(junit(verdict).encode())  # well formed, hence no text broke out
    suites = root.findall("testsuite")
    assert root.tag == "testsuites"
    assert len(suites) == len(verdict["candidates"])
    for element in (root, *suites):
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped"), ("errors", "error")):
            assert int(element.get(name, "")) == len(element.findall(f".//{tag}"))
        assert element.get("time") == "0"
    for suite, row in zip(suites, verdict["candidates"], strict=True):
        told = {item.get("name"): item.get("value") for item in suite.findall("properties/property")}
        assert told.keys() == {"benchmark", "candidate", "diagnosis", "verdict", "alpha"}
        items = suite.findall("testcase")
        assert [bool(item.findall("failure")) for item in items] == [
            check["verdict"] == "FAIL" and check["severity"] == "fail" for check in row["checks"]
        ]
        for item in items:
            assert item.get("time") == "0"
            assert item.get("classname", "").startswith("odeval.")
            assert sum(len(item.findall(tag)) for tag in ("failure", "skipped", "error")) <= 1
            assert all(other.get("message") for tag in ("failure", "skipped") for other in item.findall(tag))
    assert root.get("errors") == "0"
    assert ElementTree.fromstring(junit_error(HOSTILE)).get("errors") == "1"


@pytest.mark.parametrize("kind", ["audit", "hostile"])
def test_openmetrics_is_what_prometheus_and_gitlab_read(kind: str, request: pytest.FixtureRequest) -> None:
    comparison, verdict = request.getfixturevalue(kind)
    verdict = copy.deepcopy(verdict)
    verdict["candidates"][0]["checks"][0]["low"] = None
    text = openmetrics([comparison], verdict)
    assert text.endswith("\n# EOF\n")
    assert text.count("# EOF") == 1
    sample = re.compile(r'odeval_[a-z_]+\{([a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+\} (NaN|-?[0-9.e-]+)')
    lines = [line for line in text.splitlines() if not line.startswith("# ")]
    for line in lines:
        assert sample.fullmatch(line), line
        assert len(shlex.split(line.partition("#")[0])) == 2, line  # GitLab drops comments, then splits like a shell
    assert len({line.rpartition(" ")[0] for line in lines}) == len(lines)
    assert sum(line.endswith(" NaN") for line in lines) >= 1
    curve = comparison["runs"][0]["pass_at_k"]
    assert any(line.startswith("odeval_pass_at_k{") and line.endswith(f" {curve['value'][0]!r}") for line in lines)


def test_openmetrics_is_read_by_prometheus_client(hostile: Audit) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser", reason="not among the tests' dependencies")
    families = list(parser.text_string_to_metric_families(openmetrics([hostile[0]], hostile[1])))
    assert {family.type for family in families} == {"gauge", "stateset"}


def test_flat_formats_hold_the_numbers_of_the_comparison(audit: Audit) -> None:
    comparison = audit[0]
    lines = list(rows([comparison]))
    assert json.dumps(lines, allow_nan=False)
    (found,) = [row for row in lines if (row["run"], row["metric"]) == ("rkl", "pass@16")]
    (own,) = [run for run in comparison["runs"] if run["label"] == "rkl"]
    assert found["value"] == own["pass_at_k"]["value"][-1]
    assert {row["against"] for row in lines if row["metric"] == "pass@1.delta"} == {"start", "teacher"}
    tree = nested([comparison])["synthetic"]["rkl"]
    assert tree["pass@16"] == found["value"]
    assert all(isinstance(value, float | int) for value in tree.values())
    measure = bencher([comparison])["synthetic / rkl"]["pass-at-16"]
    assert measure == {"value": found["value"], "lower_value": found["low"], "upper_value": found["high"]}


CARD = """---
# kept as it is
license: mit
model-index:
- name: acme/new
  results:
  - task: {type: text-generation}
    dataset: {name: IFEval, type: ifeval}
    metrics:
    - {type: accuracy, value: 0.5, name: strict}
# of the tags
tags: [a, b]
---
# New

My own words.
"""


@pytest.mark.parametrize("readme", ["", "# Plain\n", CARD, CARD.replace("\n", "\r\n")])
@pytest.mark.parametrize("kind", ["audit", "hostile"])
def test_a_model_card_is_read_back_by_the_hub_library(readme: str, kind: str, request: Any, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    comparison, verdict = request.getfixturevalue(kind)
    label = verdict["candidates"][0]["candidate"]
    text = model_card(readme, [comparison], verdict, label, "acme/new")
    assert model_card(text, [comparison], verdict, label) == text, "a second time changes nothing"
    body = text.replace("\r\n", "\n").split("\n---\n", 1)[1]  # the metadata may quote anything
    assert body.count(START) == body.count(END) == 1
    (tmp_path / "README.md").write_bytes(text.encode())
    card = hub.ModelCard.load(tmp_path / "README.md")
    results = [item for item in card.data.eval_results if item.metric_type == "pass@k"]
    (own,) = [run for run in comparison["runs"] if run["label"] == label]
    assert card.data.model_name == "acme/new"
    assert [item.metric_args["k"] for item in results] == own["pass_at_k"]["k"]
    assert results[-1].metric_name == "pass@16 (unbiased, n=16, T=1.0)"
    assert results[-1].metric_value == pytest.approx(own["pass_at_k"]["value"][-1], abs=1e-6)
    if readme.startswith("---"):
        assert card.data.license == "mit"
        assert [item.metric_value for item in card.data.eval_results if item.metric_type == "accuracy"] == [0.5]
        for line in ("# kept as it is", "# of the tags", "tags: [a, b]", "My own words."):
            assert line in text
    assert ("\r\n" in text) == ("\r\n" in readme)
    stale = re.sub(rf"(?<=\n){START}(?=\r?\n)", f"{START}\nold words", text)
    assert stale != text
    assert model_card(stale, [comparison], verdict, label).replace("\r\n", "\n") == text.replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("readme", "message"),
    [
        ("---\na: [\n---\n", "is no YAML"),
        ("---\n- a\n---\n", "is no mapping"),
        ("---\ndate: 2026-13-01\n---\n", "is no YAML"),
        ("---\nmodel-index: nothing\n---\n", "not laid out"),
        ("---\n'model-index': []\n---\n", "cannot be edited safely"),
        (f"{END}\n{START}\n", "exactly one"),
        (f"{START}\n{START}\n{END}\n", "exactly one"),
        (START, "exactly one"),
    ],
)
def test_a_card_that_cannot_be_edited_safely_is_left_alone(readme: str, message: str, audit: Audit) -> None:
    with pytest.raises(OdevalError, match=message):
        model_card(readme, [audit[0]], audit[1], "rkl")


def test_markdown_reads_text_as_text() -> None:
    assert escaped("a|b\n`c` <b> &amp; $x$") == r"a\|b \`c\` \<b> \&amp; \$x\$"
    for mark in ("|", "`", "<", "[", "$"):
        assert not re.search(rf"(?<!\\)\{mark}", escaped(HOSTILE))


def test_every_eval_ever_fits_its_schemas(tmp_path: Path) -> None:
    """Checked by schema_check against the vendored schemas; by jsonschema too, where it is installed."""
    graded = write_run(tmp_path / "new", [[True, False, None, True]] * 30 + [[False] * 4] * 30, block=20)
    counts = tmp_path / "counts.jsonl"
    counts.write_text("".join(json.dumps({"id": f"p{i}", "n": 4, "c": i % 4}) + "\n" for i in range(60)))
    from odeval.importers import open_run

    described = Described("acme/new", "Acme", "first_party", benchmark="a / b")
    paths = [write_every_eval_ever(source, tmp_path, described) for source in (graded, open_run(counts))]
    for path in paths:
        aggregate = json.loads(path.read_text(encoding="utf-8"))
        check(aggregate, "eval")
        assert path.parent == tmp_path / "data" / "a_b" / "acme" / "new"
    assert "detailed_evaluation_results" not in aggregate  # counts hold no completions
    aggregate = json.loads(paths[0].read_text(encoding="utf-8"))
    assert [item["metric_config"]["metric_parameters"]["k"] for item in aggregate["evaluation_results"]] == [1, 2, 4]
    assert aggregate["evaluation_results"][0]["score_details"]["score"] == pytest.approx(20 / 60)
    listed = aggregate["detailed_evaluation_results"]
    data = (tmp_path / listed["file_path"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == listed["checksum"]
    lines = [json.loads(line) for line in data.splitlines()]
    assert len(lines) == listed["total_rows"] == 210
    assert listed["additional_details"] == {"ungraded_completions_left_out": "30"}
    for line in lines:
        check(line, "instance_level_eval")
        assert line["evaluation_id"] == aggregate["evaluation_id"]
    assert sum(line["evaluation"]["is_correct"] for line in lines) == 60
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.json*")}
    write_every_eval_ever(graded, tmp_path, described)
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.json*")} == before


def check(value: Any, name: str) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    assert not list(problems(value, schema))
    try:
        from jsonschema import Draft7Validator
    except ImportError:
        return
    assert not list(Draft7Validator(schema).iter_errors(value))


def test_the_schema_check_finds_what_is_wrong() -> None:
    schema = json.loads((SCHEMAS / "eval.schema.json").read_text(encoding="utf-8"))
    found = "\n".join(problems({"schema_version": 3, "extra": 1, "detailed_evaluation_results": {
        "format": "csv", "file_path": "x"}}, schema))  # fmt: skip
    for text in ("evaluation_id is missing", "3 is no string", "extra is not allowed", "'csv' is not", "not match"):
        assert text in found


def test_the_export_verb(audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in zip(("comparison", "verdict"), audit, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    out = str(tmp_path / "out")
    for what in ("jsonl", "dvc", "bencher"):
        assert run(["export", what, str(tmp_path), "--out", out, "--benchmark", "sums"]) == 0
        assert "sums" in Path(out).read_text(encoding="utf-8")
    assert run(["export", "model-card", str(tmp_path), "--out", out]) == 2
    assert "name it with --candidate" in capsys.readouterr().err
    card = tmp_path / "README.md"
    assert run(["export", "model-card", str(tmp_path), "--out", str(card), "--candidate", "rkl"]) == 0
    assert yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])["model-index"][0]["name"] == "rkl"
    assert run(["export", "nothing", str(tmp_path), "--out", out]) == 2
    assert "unknown export 'nothing': expected one of bencher" in capsys.readouterr().err
    assert run(["export", "every-eval-ever", str(tmp_path), "--out", out]) == 2
    assert "expected developer/name" in capsys.readouterr().err
    (tmp_path / "verdict.json").unlink()
    assert run(["export", "model-card", str(tmp_path), "--out", out]) == 4
    assert "no verdict to export" in capsys.readouterr().err
