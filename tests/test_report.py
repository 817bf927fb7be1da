"""The report as a stranger reads it: what it says, that each number is true, and that no text can harm it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_data import Audit, audited, changed, without_numbers

from odeval.report import render_html, render_markdown, write_report

ROOT = Path(__file__).parent.parent
VOID = {"meta", "link", "br", "hr", "img", "input", "use", "path", "image"}
HOSTILE = "<script>alert(1)</script></style>\x1b[31m\x00\u202eevil\u200b'\"`|$x$ ]] &amp; \ud800 {{ 7*7 }} ⟨👩\u200d🚀"


class Page(HTMLParser):
    """Reads a page strictly: elements nest, and texts are told apart from axis ticks."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self.open]
        ticks = any("tick_" in (attributes.get("id") or "") for _, attributes in self.open)
        if "style" not in inside and not ticks and data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Audit]:
    folder = tmp_path_factory.mktemp("audits")
    return {
        "one": audited(folder / "one", {"collapsed": "collapsed"}),
        "several": audited(folder / "several", {"rkl": "collapsed", "fkl": "faithful", "mix": "close"}, prompts=60, n=8),
        "teacher only": audited(folder / "teacher", {"close": "close"}, baseline=False, prompts=60, n=8),
        "baseline only": audited(folder / "start", {"faithful": "faithful"}, teacher=False, prompts=60, n=8),
        "not scored": audited(folder / "plain", {"close": "close"}, tokens=False, prompts=60, n=8),
        "one k": audited(folder / "k", {"close": "close"}, prompts=40, n=4, ks=(1,)),
    }


@pytest.fixture(params=["one", "several", "teacher only", "baseline only", "not scored", "one k"])
def audit(request: pytest.FixtureRequest, audits: dict[str, Audit]) -> Audit:
    return audits[request.param]


def numbers_in(text: str) -> Iterator[tuple[float, int]]:
    """Each number of a text with its decimals; parts of words, versions and hashes are no numbers."""
    for found in re.finditer(r"(?<![\w@.:-])[+−-]?(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w@]|\.\d)", text):
        shown = found[1]
        yield float(shown), len(shown.partition(".")[2]) if "e" not in shown else 9


def stored(value: Any) -> Iterator[float]:
    """Every number of the inputs that a page may show, those inside texts included; not what only figures draw."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in ("survival", "covariance", "counts", "trials", "scale", "degrees"):
                yield from stored(key)
                yield from stored(item)
    elif isinstance(value, list):
        for item in value:
            yield from stored(item)
    elif isinstance(value, str):
        yield from (number for number, _ in numbers_in(value))
        yield from (float(number) for number in re.findall(r"\d+", value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield abs(float(value))


def invented(page: str, audit: Audit) -> list[str]:
    """Numbers of the page that stand in neither input, up to rounding and percent."""
    known = np.unique([scale * number for part in audit for number in stored(part) for scale in (1, 100)])
    return [
        f"{number:g}"
        for number, places in numbers_in(Page(page).text)
        if np.abs(known - number).min() > 0.5 * 10**-places + 1e-9
    ]


def test_every_number_on_the_page_stands_in_the_inputs(audit: Audit) -> None:
    page = render_html(*audit)
    assert not invented(page, audit)
    assert invented(page.replace("<dt>Next</dt>", "<dt>Next</dt><dd>12345.6</dd>"), audit) == ["12345.6"]


def test_page_is_whole_safe_and_accessible(audit: Audit) -> None:
    page = render_html(*audit)
    assert page.startswith("<!doctype html>")
    elements = Page(page).elements
    tags = [tag for tag, _ in elements]
    assert not {"script", "img", "iframe", "object", "form"} & set(tags)
    policy = [a["content"] for tag, a in elements if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:"))
            assert not target.startswith("#") or target in ("#", *(f"#{own}" for own in ids))
        for place in re.findall(r"url\(([^)]*)\)", " ".join(filter(None, attributes.values()))):
            assert place.strip("#'\"") in ids
        if tag == "svg":
            assert attributes["role"] == "img"
            assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
    assert tags.count("h1") == 1
    assert "@import" not in page
    assert "url(http" not in page


def test_the_first_screen_says_what_happened(audits: dict[str, Audit]) -> None:
    comparison, verdict = audits["one"]
    text = Page(render_html(comparison, verdict)).text
    for sentence in (
        "FAIL COLLAPSE collapsed",
        "Lost coverage while pass@1 held",
        "Decided by pass@k.delta >= -0.03 no user may lose more than 3 points at any number of samples",
        "beyond −0.03",
        "Warning retention@teacher >= 0.8",
        "odeval audit NEW_STUDENT",
        "pass@1 against start",
        "pass@16 against start",
        "judged up to k = 8",
        "solved by teacher, never by the candidate",
        "never is 0 of 16: the true rate may be up to 17.1%",
        "Branch points kept",
        "The curves cross near k = ",
    ):
        assert sentence in text.replace("\u00a0", " "), sentence
    lost, solved = comparison["pairs"][1]["solved"]["baseline_only"], comparison["runs"][0]["solved"]
    assert f"{lost} of {solved}" in text


def test_several_candidates_are_one_verdict_and_a_row_each(audits: dict[str, Audit]) -> None:
    page = render_html(*audits["several"])
    rows = re.findall(r'<tr><th scope="row">(\w+)</th><td><span class="mark (\w+)">', page)
    verdicts = [(one["candidate"], one["verdict"]) for one in audits["several"][1]["candidates"]]
    assert [name for name, _ in rows] == [name for name, _ in verdicts] == ["rkl", "fkl", "mix"]
    assert [kind for _, kind in rows] == [{"PASS": "pass", "FAIL": "fail"}.get(word, "open") for _, word in verdicts]
    assert 'class="tile' not in page


def test_trust_comes_first_when_anything_is_not_ok(audits: dict[str, Audit]) -> None:
    comparison, verdict = changed(audits["one"])
    order = re.compile(r'<section class="part" id="(\w+)"')
    for row in comparison["trust"]:
        row["status"] = "ok"
    assert order.findall(render_html(comparison, verdict)) == [
        "curves", "lost", "entropy", "metrics", "rules", "trust", "reproduce",
    ]  # fmt: skip
    comparison["trust"][0].update(status="warn", detail="only a few prompts")
    page = render_html(comparison, verdict)
    assert order.findall(page)[0] == "trust"
    assert page.index("only a few prompts") < page.index('class="tiles"')


def test_hostile_texts_change_nothing(audits: dict[str, Audit]) -> None:
    comparison, verdict = audits["one"]
    text = json.dumps([comparison, verdict]).replace('"collapsed"', json.dumps(HOSTILE)).replace('"toy"', json.dumps(HOSTILE))
    comparison, verdict = json.loads(text)
    for pair in comparison["pairs"]:
        for row in pair["lost_prompts"]:
            row.update(prompt=HOSTILE * 100, baseline_answer="word" * 250_000, candidate_answer=HOSTILE)
    comparison["provenance"]["command"] = HOSTILE
    verdict["candidates"][0]["headline"] = HOSTILE
    page = render_html(comparison, verdict)
    elements = Page(page).elements
    assert not {"script", "x"} & {tag for tag, _ in elements}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    for made_visible in ("␛[31m", "␀", "⟨U+202E⟩", "⟨U+200B⟩", "⟨U+D800⟩", "⟨U+200D⟩", "&lt;script&gt;", "{{ 7*7 }}"):
        assert made_visible in page, made_visible
    assert len(page.encode()) < 250_000
    assert "wordword…" in page
    markdown = render_markdown(comparison, verdict)
    assert "<" not in re.sub(r"(`+) .*? \1|\\<", "", markdown)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", markdown)


def test_unknown_numbers_are_never_zero(audits: dict[str, Audit]) -> None:
    comparison, verdict = audits["one"]
    verdict = without_numbers(verdict, ("alpha",))
    page = render_html(without_numbers(comparison), verdict)
    assert page.count("n/a") > 50
    assert not re.search(r">[+−]?0(\.0+)?%?<", page)
    assert "collapsed against start: not known." in Page(page).text


def test_a_caution_stands_beside_its_number(audits: dict[str, Audit]) -> None:
    comparison, verdict = changed(audits["one"])
    entry = comparison["runs"][-1]["metrics"]["distinct_correct"]
    entry.update(value=None, low=None, high=None, caution="nobody counted them")
    assert "* nobody counted them" in Page(render_html(comparison, verdict)).text


def test_same_input_same_bytes(audits: dict[str, Audit], tmp_path: Path) -> None:
    written = write_report(*audits["several"], tmp_path)
    assert written == tmp_path / "report.html"
    (tmp_path / "inputs.json").write_text(json.dumps(audits["several"]))
    code = (
        "import json, pathlib, sys; from odeval.report import write_report; "
        "write_report(*json.loads(pathlib.Path('inputs.json').read_text()), pathlib.Path('again'))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)
    for name in ("report.html", "report.md"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_thirty_candidates_and_long_names_stay_small(audits: dict[str, Audit]) -> None:
    comparison, verdict = changed(audits["one"])
    run, pairs, judged = comparison["runs"].pop(), comparison["pairs"], verdict["candidates"][0]
    comparison["pairs"], verdict["candidates"] = [], []
    for i in range(30):
        label = f"a-long-name-of-a-checkpoint-that-nobody-would-read-to-its-end-{i:02d}"
        comparison["runs"].append({**run, "label": label})
        comparison["pairs"] += [{**pair, "candidate": label} for pair in pairs]
        verdict["candidates"].append({**judged, "candidate": label})
    page = render_html(comparison, verdict)
    assert not invented(page, (comparison, verdict))
    assert len(page.encode()) < 1_000_000
    assert "The figures show the worst candidates; the tables hold all." in page
    assert len(render_html(*audits["one"]).encode()) < 250_000


def test_markdown_twin_holds_verdict_numbers_rules_and_command(audit: Audit) -> None:
    text = render_markdown(*audit)
    assert text.startswith(f"# {'✓✕?'[('PASS', 'FAIL', 'INCONCLUSIVE').index(audit[1]['verdict'])]} {audit[1]['verdict']}")
    for check in audit[1]["candidates"][0]["checks"]:
        assert f"`{check['rule']}`" in text
    assert audit[0]["provenance"]["command"] in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Numbers", "## Rules", "## Reproduce"]
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert all(len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1 for table in tables)


def test_reading_a_report_module_draws_nothing() -> None:
    code = "import odeval.report, sys; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_colours_of_texts_can_be_read() -> None:
    css = (ROOT / "odeval" / "templates" / "report.css").read_text(encoding="utf-8")
    inks = re.findall(r"--(?:ink|quiet|pass|fail|open): (#\w{6})", css)
    assert len(inks) == 5
    for paper in ("#ffffff", *re.findall(r"background: (#\w{6})", css), *re.findall(r"--wash: (#\w{6})", css)):
        assert min(contrast(ink, paper) for ink in inks) >= 4.5, paper


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast of two colours."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
