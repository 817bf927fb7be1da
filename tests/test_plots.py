"""Figures: they draw what stands in the comparison, the same bytes each time, and survive whatever they are given."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from branch_data import with_branch_points
from page_reader import contrast
from report_data import Audit, audited, changed, without_numbers

from odeval import plots
from odeval.plots import canvas, style
from odeval.plots.curves import draw_passk

KINDS = list(plots.FIGURES)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return audited(
        tmp_path_factory.mktemp("audit"), {"collapsed": "collapsed", "faithful": "faithful"}, prompts=60, n=8
    )


@pytest.fixture
def comparison(audit: Audit) -> dict[str, Any]:
    return with_branch_points(changed(audit)[0])


def texts(drawn: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(drawn).iter() if node.tag.endswith("text")]


@pytest.mark.parametrize("kind", KINDS)
def test_svg_can_stand_in_a_page(kind: str, comparison: dict[str, Any]) -> None:
    drawn = plots.svg(kind, comparison, "a title", "a <description>")
    assert drawn == plots.svg(kind, comparison, "a title", "a <description>")
    root = ElementTree.fromstring(drawn)
    assert root.get("role") == "img"
    assert [(node.get("id"), node.text) for node in list(root)[:2]] == [
        (f"{kind}-title", "a title"), (f"{kind}-desc", "a <description>"),
    ]  # fmt: skip
    ids = [own for node in root.iter() if (own := node.get("id"))]
    assert len(set(ids)) == len(ids)
    assert all(own.startswith(f"{kind}-") for own in ids)
    for place in re.findall(r'(?:href="|url\()#([^")]+)', drawn):
        assert place in ids
    for absent in ("<metadata", "<style", "<script", "<!DOCTYPE", "font-family:", "xlink"):
        assert absent not in drawn
    assert len(drawn) < 60_000


def test_runs_differ_without_colour(comparison: dict[str, Any]) -> None:
    run = comparison["runs"][-1]
    comparison["runs"] += [{**run, "label": f"more {i}"} for i in range(9)]
    looks = list(style.looks(comparison).values())
    assert len(looks) == 2 + style.MOST_CANDIDATES
    assert len({look.marker for look in looks}) == len({look.color for look in looks}) == len(looks)
    alone = style.looks({**comparison, "runs": comparison["runs"][:6]}, ["more 1"])["more 1"]
    assert alone == style.looks({**comparison, "runs": comparison["runs"][:6]})["more 1"]
    dashes = [str(look.dash) for look in looks if look.marker not in ("o", "D")]
    assert len(set(dashes)) == len(dashes)


def test_curves_end_in_names_and_go_dashed_beyond_half_of_n(comparison: dict[str, Any]) -> None:
    limit = plots.Limit(-0.03, (1, 2, 4), "start")
    with canvas.styled():
        drawing = draw_passk(comparison, limits=[limit])
        top, bottom = drawing.axes
        values = [100 * value for value in comparison["runs"][-1]["pass_at_k"]["value"]]
        found = {tuple(np.round(line.get_ydata(), 9)): line for line in top.lines}
        solid, dashed = (found[tuple(np.round(part, 9))] for part in (values[:3], values[2:]))
        assert solid.get_markerfacecolor() != "white" == dashed.get_markerfacecolor()
        assert list(solid.get_xdata()) == [1, 2, 4]
        rule = [line for line in bottom.lines if list(line.get_ydata()) == [-3, -3]]
        assert [list(line.get_xdata()) for line in rule] == [[1, 4]]
    names = texts(plots.svg("passk", comparison, "", "", limits=[limit]))
    for name in ("teacher", "start", "collapsed", "faithful", "= start", "rule: at least −3"):
        assert name in names


def test_a_rule_against_another_run_is_not_drawn(comparison: dict[str, Any]) -> None:
    drawn = plots.svg("passk", comparison, "", "", limits=[plots.Limit(-0.03, (1, 2), "teacher")])
    assert "rule: at least −3" not in texts(drawn)


@pytest.mark.parametrize(
    "heights", [[10.0, 10.0, 10.0], [0, 1, 2, 50, 99, 100], [5.0], [-30, 200], list(range(0, 60, 2))]
)
def test_labels_never_overlap(heights: list[float]) -> None:
    placed = style._spread(sorted(heights), 16.0, 0.0, 500.0)
    assert all(b - a >= 16.0 - 1e-9 for a, b in pairwise(placed))
    assert min(placed) >= 0
    assert max(placed) <= 500
    if len(heights) == 1:
        assert placed == heights


def test_a_label_moves_only_when_a_neighbour_needs_the_room() -> None:
    assert style._spread([10.0, 200.0, 498.0, 499.0], 16.0, 0.0, 500.0) == [10.0, 200.0, 484.0, 500.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "case", ["no teacher", "no baseline", "no pairs", "not scored", "older", "one k", "null", "many", "names"]
)
def test_degenerate_inputs_still_draw(kind: str, case: str, comparison: dict[str, Any]) -> None:
    runs, pairs = comparison["runs"], comparison["pairs"]
    if case.startswith("no ") and case != "no pairs":
        role = case.removeprefix("no ")
        comparison["runs"] = [run for run in runs if run["role"] != role]
        comparison["pairs"] = [pair for pair in pairs if pair["role"] != role]
    elif case == "no pairs":
        comparison["pairs"] = []
    elif case == "not scored":
        for run in runs:
            run["survival"] = {}
    elif case == "older":
        del comparison["tradeoff"]
        for item in (*runs, *pairs):
            for key in ("families", "coverage", "diversity", "branches", "completion"):
                item.pop(key, None)
    elif case == "one k":
        comparison["tradeoff"]["points"] = []
        comparison["settings"]["ks"] = [4]
        for item in (*runs, *pairs):
            curve = item["pass_at_k"]
            item["pass_at_k"] = {key: value[2:3] if isinstance(value, list) else value for key, value in curve.items()}
            for scope in ("population", "benchmark"):
                if scope in curve:
                    band = {side: curve[scope][side][2:3] for side in ("low", "high")}
                    item["pass_at_k"][scope] = {**curve[scope], **band, "judged": {**curve[scope]["judged"], "k": [4]}}
    elif case == "null":
        comparison = without_numbers(comparison)
        for run in comparison["runs"]:
            run["counts"] = None
    elif case == "many":
        comparison["runs"] = runs + [{**runs[-1], "label": f"more {i}"} for i in range(28)]
        comparison["pairs"] = pairs + [{**pairs[0], "candidate": f"more {i}"} for i in range(28)]
    else:
        for old, new in (("collapsed", "_$x^2$\x1b[31m\n\u202e<b>" + "字" * 80), ("start", "x" * 300)):
            for item in (*runs, *pairs, *comparison["tradeoff"]["points"], *comparison["tradeoff"]["anchors"]):
                for key in ("label", "against", "candidate", "baseline"):
                    item[key] = new if item.get(key) == old else item.get(key)
        with_branch_points(comparison, "\x1b[31m$x^2$\x00\u202e字<b>\n")
    drawn = plots.svg(kind, comparison, "t", "d")
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", drawn)
    assert ElementTree.fromstring(drawn).get("viewBox")
    assert "nan" not in re.findall(r' d="([^"]*)"', drawn)


def test_lost_prompts_are_crosses_and_ten_thousand_prompts_are_pixels(comparison: dict[str, Any]) -> None:
    with canvas.styled():
        first = plots.FIGURES["lost"].draw(comparison).axes[0]
        crosses = sum(len(line.get_xdata()) for line in first.lines if line.get_marker() == "x")
    teacher, own = comparison["runs"][0]["counts"]["c"], comparison["runs"][2]["counts"]["c"]
    assert crosses == len({c for c, d in zip(teacher, own, strict=True) if c and not d}) > 0
    generator = np.random.default_rng(0)
    for run in comparison["runs"]:
        run["counts"] = {"n": [256] * 10_000, "c": generator.integers(0, 257, 10_000).tolist()}
    large = plots.svg("lost", comparison, "", "")
    assert "data:image/png" in large
    assert len(large) < 200_000


def test_drawing_leaves_the_users_matplotlib_alone(comparison: dict[str, Any]) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.svg("entropy", comparison, "", "")
    assert dict(matplotlib.rcParams) == before
    code = "import odeval.plots, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False).returncode == 0


def test_inks_can_be_read_on_white() -> None:
    for look in (style._TEACHER, style._BASELINE, *style._CANDIDATES):
        assert contrast(look[1], "#ffffff") >= 4.5
        assert contrast(look[0], "#ffffff") >= 2
    assert all(contrast(ink, "#ffffff") >= 4.5 for ink in (canvas.INK, canvas.MUTED, canvas.LOST))
    assert len({a[2] + b[2] for a, b in combinations(style._CANDIDATES, 2)}) == 15
