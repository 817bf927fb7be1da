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
from report_data import Audit, audited, changed

from odeval.report import write_report

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr", "--allow-file-access-from-files", "--virtual-time-budget=4000",
)  # fmt: skip
# The page runs no script, so a second page looks at it through a frame.
PROBE = """<!doctype html><title>probe</title><iframe id="f" src="report.html" style="border:0;width:%dpx;height:900px"></iframe>
<script>
document.getElementById("f").onload = function () {
  const page = this.contentDocument, box = (node) => { const r = node.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const told = (chosen) => [...page.querySelectorAll(chosen)].map((node) => [node.textContent, ...box(node)]);
  const found = { width: page.documentElement.scrollWidth, verdict: told(".verdict"), headline: told(".verdict h1"), tiles: told(".tile"),
    first: told(".candidates, .tiles"), drawings: [...page.querySelectorAll("svg")].map((svg) => [box(svg), [...svg.querySelectorAll("text")]
      .filter((node) => node.textContent.trim()).map((node) => [node.textContent, ...box(node)])]),
    sizes: [...page.querySelectorAll("svg text")].map((node) => parseFloat(getComputedStyle(node).fontSize)
      * node.ownerSVGElement.getBoundingClientRect().width / node.ownerSVGElement.viewBox.baseVal.width) };
  document.body.textContent = JSON.stringify(found);
};
</script>"""


def look(page: Path, width: int) -> dict[str, Any]:
    """Open a report in a frame of this width and measure what is drawn."""
    if BROWSER is None:
        if os.environ.get("ODEVAL_REQUIRE_ALL") == "1":
            pytest.fail("no Chromium found, and ODEVAL_REQUIRE_ALL=1 forbids skipping")
        pytest.skip("no Chromium found: the page was not looked at (apt-get install chromium)")
    probe = page.with_name("probe.html")
    probe.write_text(PROBE % width, encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width + 40},1000"]
    done = subprocess.run(
        [*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body is not None, done.stdout[:500]
    found: dict[str, Any] = json.loads(unescape(body[1]))
    return found


def overlapping(texts: list[list[Any]]) -> list[tuple[str, str]]:
    """Pairs of texts of which one covers a part of the other."""
    return [
        (a[0], b[0])
        for a, b in combinations(texts, 2)
        if min(a[3], b[3]) - max(a[1], b[1]) > 1 and min(a[4], b[4]) - max(a[2], b[2]) > 3
    ]


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Audit]:
    folder = tmp_path_factory.mktemp("audits")
    one = audited(folder / "one", {"collapsed": "collapsed"})
    arms = {"reverse_kl": "collapsed", "forward_kl": "faithful", "blend": "close", "gkd": "teacher"}
    several = audited(folder / "several", arms, prompts=60)
    named = changed(one)
    text = json.dumps(named).replace(
        '"collapsed"', '"a-very-long-name-of-a-checkpoint-' + "of-a-student-" * 6 + 'at-step-4000"'
    )
    return {"one": one, "several": several, "long names": tuple(json.loads(text))}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "several", "long names"])
@pytest.mark.parametrize("width", [1200, 500])
def test_page_in_a_browser(name: str, width: int, audits: dict[str, Audit], tmp_path: Path) -> None:
    found = look(write_report(*audits[name], tmp_path), width)
    assert found["width"] <= width, "the page scrolls sideways"
    assert "FAIL" in found["headline"][0][0]
    for drawing, texts in found["drawings"]:
        assert not overlapping(texts)
        outside = [text for text, left, top, right, low in texts if left < drawing[0] - 1 or right > drawing[2] + 1 or top < drawing[1] - 1 or low > drawing[3] + 1]  # fmt: skip
        assert not outside
    assert min(found["sizes"]) >= 9, "a text of a figure is too small to read"
    if width == 1200:
        assert found["verdict"][0][4] < 600, "the verdict fills more than the first screen should give it"
        assert found["first"][0][4] < 900, "the numbers are not on the first screen"
