"""Figures as files: every format, the numbers of the comparison, and what the command says when it cannot."""

from __future__ import annotations

import csv
import json
import re
import struct
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from branch_data import with_branch_points
from page_reader import luminance, stored
from report_data import Audit, audited, changed

from odeval import plots
from odeval.cli import run
from odeval.errors import OdevalError
from odeval.plots import canvas, style

KINDS = list(plots.FIGURES)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("audit")
    made = audited(folder, {"collapsed": "collapsed", "faithful": "faithful"}, prompts=50, n=8)
    return with_branch_points(made[0]), made[1]


@pytest.fixture
def comparison(audit: Audit) -> dict[str, Any]:
    return changed(audit)[0]


@pytest.fixture(scope="module")
def folder(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("written")
    for name, value in zip(("comparison", "verdict"), audit, strict=True):
        (made / f"{name}.json").write_text(json.dumps(value))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_written_for_paper(kind: str, comparison: dict[str, Any], tmp_path: Path) -> None:
    inches = 6.75 if plots.FIGURES[kind].wide else 3.25
    for place in ("a.svg", "a.pdf", "a.png"):
        path = tmp_path / place
        assert plots.save(kind, comparison, path, "paper") == [path, tmp_path / "a.csv"]
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert root.get("width") == f"{inches:g}in"
    assert not [node for node in root.iter() if node.tag.endswith("}text")], "text needs a font that may be missing"
    pdf = (tmp_path / "a.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", pdf)
    assert box is not None
    assert float(box[1]) == pytest.approx(72 * inches, abs=0.01)
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    width = struct.unpack(">I", (tmp_path / "a.png").read_bytes()[16:20])[0]
    assert width == pytest.approx(300 * inches, abs=1)
    first = pdf
    plots.save(kind, comparison, tmp_path / "a.pdf", "paper")
    assert (tmp_path / "a.pdf").read_bytes() == first


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_holds_numbers_of_the_comparison_and_nothing_else(
    kind: str, comparison: dict[str, Any], tmp_path: Path
) -> None:
    for item in comparison["pairs"]:
        if item["completion"]:
            item["completion"]["pieces"][3] = "=HYPERLINK(\x1b[31m\u202e)"
    assert plots.save(kind, comparison, tmp_path / "a.csv") == [tmp_path / "a.csv"]
    text = (tmp_path / "a.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    known = {round(value, 12) for value in stored({**comparison, "counts": None})}
    known |= {float(value) for one in comparison["runs"] for column in one["counts"].values() for value in column}
    for one in comparison["runs"]:
        known |= {round(value, 12) for curve in one["survival"].values() for value in flat(curve)}
        for column in (one["training"] or {"history": {}})["history"].values():
            known |= {round(abs(value), 12) for value in column if value is not None}
    places = {float(place) for place in range(200)}  # of tokens
    cells = [cell for row in rows for cell in row.values()]
    numbers = [float(cell) for cell in cells if re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell)]
    assert numbers
    assert [value for value in numbers if round(abs(value), 12) not in known | places] == []
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)
    assert "\n=" not in text
    assert ",=" not in text


def flat(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in flat(item)]
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [abs(float(value))]


def test_curves_of_the_table_are_those_drawn(comparison: dict[str, Any], tmp_path: Path) -> None:
    plots.save("passk", comparison, tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    own = [float(row["value"]) for row in rows if (row["quantity"], row["run"]) == ("pass@k", "faithful")]
    with canvas.styled():
        top = plots.FIGURES["passk"].draw(comparison).axes[0]
        lines = [list(np.round(line.get_ydata() / 100, 12)) for line in top.lines]
    assert list(np.round(own[:3], 12)) in lines  # as judged, up to n/2


def test_grey_paper_tells_runs_apart() -> None:
    looks = [style._TEACHER, style._BASELINE, *style._CANDIDATES]
    assert len({(look[2], str(look[3])) for look in looks}) == len(looks)  # marker and line style
    strips = [[luminance(f"#{''.join(f'{round(255 * part):02x}' for part in shade[:3])}") for shade in shades]
              for shades in (heat_shades("_BLUE"), heat_shades("_ORANGE"))]  # fmt: skip
    assert all(first > second for own in strips for first, second in pairwise(own))


def heat_shades(name: str) -> list[tuple[float, ...]]:
    from odeval.plots import tokens

    return [getattr(tokens, name)(step / 8) for step in range(9)]


def test_what_cannot_be_written_says_why(comparison: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OdevalError, match=r"unknown figure 'pask'.*did you mean 'passk'"):
        plots.save("pask", comparison, tmp_path / "a.svg")
    with pytest.raises(OdevalError, match=r"unknown style 'papr'.*did you mean 'paper'"):
        plots.save("passk", comparison, tmp_path / "a.svg", "papr")
    with pytest.raises(OdevalError, match=r"a\.gif: a figure is written as \.svg, \.png, \.pdf, its numbers as \.csv"):
        plots.save("passk", comparison, tmp_path / "a.gif")
    for pair in comparison["pairs"]:
        pair["branches"] = None
    with pytest.raises(
        OdevalError, match="figure branches: this comparison holds nothing to draw; it needs scored runs"
    ):
        plots.save("branches", comparison, tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []


def test_plot_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.svg", tmp_path / "a.png"]
    assert run(["plot", "tradeoff", str(folder), "-o", str(paths[0]), "-o", str(paths[1])]) == 0
    assert capsys.readouterr().out.split() == [str(paths[0]), str(tmp_path / "a.csv"), str(paths[1])]
    drawn = paths[0].read_text(encoding="utf-8")
    assert "accepted by the rules" in drawn
    assert zlib.crc32(paths[1].read_bytes())
    assert run(["plot", "passk", str(folder / "comparison.json"), "--candidate", "faithful", "-o", str(paths[0])]) == 0
    assert "faithful" in paths[0].read_text(encoding="utf-8")
    assert "collapsed" not in paths[0].read_text(encoding="utf-8")
    capsys.readouterr()
    assert run(["plot", "--list"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == KINDS


def test_plot_command_compares_runs_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for name in ("old", "new"):
        rows = [{"id": str(i), "n": 8, "c": int(generator.integers(9))} for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [str(tmp_path / f"{name}.jsonl") for name in ("old", "new")]
    assert run(["plot", "passk", *sources, "--ks", "1,2,8", "-o", str(tmp_path / "a.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [(row["run"], row["k"]) for row in rows if row["quantity"] == "difference"] == [
        ("new", "1"), ("new", "2"), ("new", "8"),
    ]  # fmt: skip
    capsys.readouterr()
    assert run(["plot", "entropy", *sources]) == 2
    assert "figure entropy: this comparison holds nothing to draw; it needs scored runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pask", "x"], "unknown figure 'pask'"),
        ([], "which figure? one of passk"),
        (["passk"], "plot passk: name a comparison.json, or runs to compare: BASELINE CANDIDATE"),
        (["passk", "{folder}", "--candidate", "fathful"], "did you mean 'faithful'?"),
        (["passk", "{empty}"], "holds no comparison.json; name two runs, BASELINE CANDIDATE, or add --teacher RUN"),
        (["passk", "{folder}", "-o", "{empty}/a.gif"], "a.gif: a figure is written as .svg, .png, .pdf"),
    ],
)
def test_plot_command_refuses_in_one_line(
    arguments: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plot", *(part.format(folder=folder, empty=tmp_path) for part in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
