"""The report in a real browser, offline: what a reader sees first, and that nothing overlaps or sticks out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from branch_data import with_branch_points
from report_data import Audit, audited, whole

from odeval import plots
from odeval.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
HOSTILE = "<script>alert(1)</script></style>\x1b[31m\x00\u202eevil\u200b'\"`|$x$ ]] &amp; <img src=x onerror=alert(1)>"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr",
    "--allow-file-access-from-files", "--virtual-time-budget=4000",
)  # fmt: skip
# The page runs no script, so a second page looks at it through a frame and says what it measured.
PROBE = """<!doctype html><title>probe</title>
<iframe src="report.html" style="border: 0; width: WIDTHpx; height: 900px"></iframe>
<script>
document.querySelector("iframe").onload = function () {
  const page = this.contentDocument;
  const told = (node) => {
    const box = node.getBoundingClientRect();
    return { text: node.textContent.trim(), left: box.left, top: box.top, right: box.right, bottom: box.bottom };
  };
  const all = (chosen, root = page) => [...root.querySelectorAll(chosen)];
  const size = (node) => {
    const drawing = node.ownerSVGElement, box = told(drawing);
    return parseFloat(getComputedStyle(node).fontSize) * (box.right - box.left) / drawing.viewBox.baseVal.width;
  };
  document.body.textContent = JSON.stringify({
    width: page.documentElement.scrollWidth,
    headline: told(page.querySelector(".verdict h1")),
    verdict: told(page.querySelector(".verdict")),
    numbers: told(page.querySelector(".candidates, .tiles")),
    drawings: all("svg").map((drawing) => [told(drawing), all("text", drawing).map(told).filter((t) => t.text)]),
    running: all("script, iframe, img, object").length,
    title: page.title,
    heat: all(".heat").map((node) => [told(node), all(".tok.closed", node).map(told)]),
    stops: all(".tok[tabindex]").length,
    smallest: Math.min(...all("svg text").map(size)),
  });
};
</script>"""


def look(page: Path, width: int) -> dict[str, Any]:
    """Open a report in a frame of this width and measure what is drawn."""
    if BROWSER is None:
        if os.environ.get("ODEVAL_REQUIRE_ALL") == "1":
            pytest.fail("no Chromium found, and ODEVAL_REQUIRE_ALL=1 forbids skipping")
        pytest.skip("no Chromium found: the page was not looked at (apt-get install chromium)")
    probe = page.with_name("probe.html")
    probe.write_text(PROBE.replace("WIDTH", str(width)), encoding="utf-8")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, *FLAGS, profile, f"--window-size={width + 40},1000", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body is not None, done.stdout[:500]
    found: dict[str, Any] = json.loads(unescape(body[1]))
    return found


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    wide = min(one["right"], other["right"]) - max(one["left"], other["left"])
    high = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return bool(wide > 1 and high > 3)  # line boxes of labels that just touch overlap by their leading


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Audit]:
    folder = tmp_path_factory.mktemp("audits")
    one = audited(folder / "one", {"collapsed": "collapsed"})
    arms = {"reverse_kl": "collapsed", "forward_kl": "faithful", "blend": "close", "gkd": "teacher"}
    several = audited(folder / "several", arms, prompts=60)
    text = json.dumps(one)
    for name, long in (
        ("collapsed", "a-very-long-name-" * 9 + "at-step-4000"),
        ("start", "another-long-name-of-a-baseline"),
    ):
        text = text.replace(json.dumps(name), json.dumps(long))
    hostile = json.loads(json.dumps(one).replace('"collapsed"', json.dumps(HOSTILE)))
    with_branch_points(hostile[0], HOSTILE)
    for pair in hostile[0]["pairs"]:
        for row in pair["lost_prompts"]:
            row.update(prompt=HOSTILE * 50, baseline_answer="word" * 250_000, candidate_answer=HOSTILE)
        if pair["completion"]:
            pair["completion"]["pieces"][6] = "token" * 200_000
    found = {"one": one, "several": several, "long names": tuple(json.loads(text)), "hostile": tuple(hostile)}
    return found | {f"{name}, whole": whole(found[name]) for name in ("one", "several")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "several", "long names", "hostile", "one, whole", "several, whole"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (500, 900)])
def test_page_in_a_browser(name: str, width: int, height: int, audits: dict[str, Audit], tmp_path: Path) -> None:
    page = write_report(*audits[name], tmp_path)
    found = look(page, width)
    assert found["width"] <= width, "the page scrolls sideways"
    verdict = audits[name][1]["verdict"]
    sign = {"FAIL": "✕", "PASS": "✓"}.get(verdict, "?")
    assert found["headline"]["text"].startswith(f"{sign} {verdict}")
    assert found["title"].startswith(f"{sign} {verdict}")
    assert found["running"] == 0
    assert len(found["drawings"]) == page.read_text(encoding="utf-8").count('<div class="figure">') >= 3
    for drawing, texts in found["drawings"]:
        assert [(a["text"], b["text"]) for a, b in combinations(texts, 2) if overlap(a, b)] == []
        assert min(text["left"] for text in texts) >= drawing["left"] - 1
        assert max(text["right"] for text in texts) <= drawing["right"] + 1
        assert max(text["bottom"] for text in texts) <= drawing["bottom"] + 1
    assert found["smallest"] >= 9, "a text of a figure is too small to read"
    for heat, closed in found["heat"]:
        assert closed
        assert all(heat["left"] <= box["left"] and box["bottom"] <= heat["bottom"] for box in closed)
    assert bool(found["stops"]) == bool(found["heat"])
    if name != "long names":
        assert found["headline"]["bottom"] < 250
        assert found["verdict"]["bottom"] < height, "the verdict is not on the first screen"
    if width == 1280:
        assert found["numbers"]["bottom"] < height + 100 * (name == "long names"), "nor are its numbers"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["several, whole", "one, whole"])
def test_no_figure_writes_over_itself(name: str, audits: dict[str, Audit], tmp_path: Path) -> None:
    drawn = [plots.svg(kind, audits[name][0], kind, "") for kind in plots.FIGURES]
    shell = '<!doctype html><title>t</title><div class="verdict"><h1>t</h1></div><div class="tiles"></div>'
    (tmp_path / "report.html").write_text(shell + "".join(f"<div>{one}</div>" for one in drawn), encoding="utf-8")
    found = look(tmp_path / "report.html", 600)
    assert len(found["drawings"]) == len(plots.FIGURES)
    for kind, (drawing, texts) in zip(plots.FIGURES, found["drawings"], strict=True):
        assert (kind, [(a["text"], b["text"]) for a, b in combinations(texts, 2) if overlap(a, b)]) == (kind, [])
        assert min(text["left"] for text in texts) >= drawing["left"] - 1, kind
        assert max(text["right"] for text in texts) <= drawing["right"] + 1, kind
        assert max(text["bottom"] for text in texts) <= drawing["bottom"] + 1, kind
