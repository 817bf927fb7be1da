"""How a candidate was trained: read from odkd's own log, put into the comparison, drawn in the report."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page
from report_data import audited, make_run, write_training

from odeval.commands.options import parse_named
from odeval.compare import compare
from odeval.errors import OdevalError
from odeval.plots.canvas import styled
from odeval.plots.training import draw_training
from odeval.report import render_html
from odeval.store import RunFolder
from odeval.training import training_of


def test_a_log_is_read_thinned_and_summed(tmp_path: Path) -> None:
    found = training_of(write_training(tmp_path / "model"))
    assert found is not None
    rows = [json.loads(line) for line in (tmp_path / "model" / "log.jsonl").read_text().splitlines()]
    steps = found["history"]["step"]
    assert (steps[0], steps[-1], len(steps)) == (0, 299, 60)
    assert {b - a for a, b in pairwise(steps)} == {5, 6}
    assert found["history"]["forward_kl"] == [rows[step]["forward_kl"] for step in steps]
    assert found["history"]["retention"][0] is None
    assert found["curves"]["retention"] == {
        "label": "high-entropy tokens kept", "unit": "share", "first": rows[1]["retention"],
        "last": rows[-1]["retention"],
    }  # fmt: skip
    assert found["ledger"] == {
        "updates": 300, "tokens_sampled": 300_000, "tokens_scored_by_teacher": 307_200, "flops": 1.11e9
    }  # fmt: skip
    assert [column["k"] for column in found["probes"]["pass_at_k"]] == [1, 16]
    assert found["probes"]["step"] == list(range(0, 301, 50))
    assert training_of(write_training(tmp_path / "plain", steps=3, probed=False))["probes"] is None  # type: ignore[index]


def test_what_cannot_be_read_is_passed_over_unless_it_was_asked_for(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "broken")
    (folder / "log.jsonl").write_text('{"step": 0}\n{"st')
    (tmp_path / "empty").mkdir()
    for place, reason in ((folder, "cannot be read (JSONDecodeError)"), (tmp_path / "empty", "no such file")):
        assert training_of(place) is None
        with pytest.raises(OdevalError) as caught:
            training_of(place, asked=True)
        assert str(caught.value) == (
            f"training {place}: {reason}; name the output_dir of a finished odkd run, which holds log.jsonl and "
            "training.json"
        )


def test_a_model_that_lies_in_its_own_run_needs_no_flag(tmp_path: Path) -> None:
    model = write_training(tmp_path / "model")
    run = make_run(tmp_path / "new", "faithful", 20, 4, 1)
    start = make_run(tmp_path / "start", "start", 20, 4, 2)
    found = compare([run], None, start)
    assert [row["training"] for row in found["runs"]] == [None, None]
    meta = json.loads((run.path / "run.json").read_text())
    meta["model"]["path"] = str(model)
    (run.path / "run.json").write_text(json.dumps(meta))
    by_role = {row["role"]: row["training"] for row in compare([RunFolder(run.path)], None, start)["runs"]}
    assert by_role["baseline"] is None
    assert by_role["candidate"]["objective"] == "reverse_kl"
    with pytest.raises(OdevalError, match=r"^training: unknown candidate 'nwe': expected one of .*\(did you mean"):
        compare([run], None, start, training={"nwe": model})


def test_the_report_says_how_it_was_trained(tmp_path: Path) -> None:
    comparison, verdict = audited(tmp_path, {"first": "faithful", "second": "collapsed"}, prompts=40, n=4)
    text = Page(render_html(comparison, verdict)).text
    assert "How was it trained?" in text
    assert "No log is known of second." in text
    for number in ("300000", "307200", "1.11e+09", "reverse_kl"):
        assert number in text
    with styled():
        panels = draw_training(comparison).axes
        assert len(panels) == 6
        titles = [axes.get_title(loc="left") for axes in panels]
        assert titles[-2:] == ["pass@1 of probes, %", "pass@16 of probes, %"]
        history = comparison["runs"][-2]["training"]["history"]
        kept = [value for value in history["retention"] if value is not None]
        assert list(panels[3].lines[0].get_ydata())[1:] == [100 * value for value in kept]
        assert list(panels[2].lines[1].get_ydata()) == history["teacher_entropy"]
    for run in comparison["runs"]:
        run["training"] = None
    assert "How was it trained?" not in render_html(comparison, verdict)


def test_hostile_names_in_a_log_stay_text(tmp_path: Path) -> None:
    comparison, verdict = audited(tmp_path, {"first": "faithful"}, prompts=40, n=4)
    told: dict[str, Any] = comparison["runs"][-1]["training"]
    told["objective"] = "<script>alert(1)</script>"
    page = render_html(comparison, verdict)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_named_folders_are_read_from_flags() -> None:
    assert parse_named(["new=runs/new", "b=c=d"], "--training") == {"new": Path("runs/new"), "b": Path("c=d")}
    with pytest.raises(OdevalError, match=r"^--training new: expected NAME=FOLDER, such as new=runs/new$"):
        parse_named(["new"], "--training")
