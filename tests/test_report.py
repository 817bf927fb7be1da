"""The report as a stranger reads it: what it says, that each number is true, and that no text can harm it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from branch_data import with_branch_points
from page_reader import Page, contrast, invented
from report_data import Audit, audited, changed, older, whole, without_numbers

from odeval.report import render_html, render_markdown, write_report
from odeval.report.view import next_step

ROOT = Path(__file__).parent.parent
HOSTILE = "<script>alert(1)</script></style>\x1b[31m\x00\u202eevil\u200b'\"`|$x$ ]] &amp; \ud800 {{ 7*7 }} ⟨👩\u200d🚀"


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Audit]:
    folder = tmp_path_factory.mktemp("audits")
    arms = {"rkl": "collapsed", "fkl": "faithful", "mix": "close"}
    one = audited(folder / "one", {"collapsed": "collapsed"})
    several = audited(folder / "several", arms, prompts=60, n=8)
    return {
        "one": one,
        "several": several,
        "teacher only": audited(folder / "teacher", {"close": "close"}, baseline=False, prompts=60, n=8),
        "baseline only": audited(folder / "start", {"faithful": "faithful"}, teacher=False, prompts=60, n=8),
        "not scored": audited(folder / "plain", {"close": "close"}, tokens=False, prompts=60, n=8),
        "one k": audited(folder / "k", {"close": "close"}, prompts=40, n=4, ks=(1,)),
        "older": older(several),
        **{f"{name}, whole": whole(made) for name, made in (("one", one), ("several", several))},
    }


@pytest.fixture(
    params=[
        "one", "several", "teacher only", "baseline only", "not scored", "one k", "older", "one, whole",
        "several, whole",
    ]
)  # fmt: skip
def audit(request: pytest.FixtureRequest, audits: dict[str, Audit]) -> Audit:
    return audits[request.param]


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
    assert tags.count("h1") == tags.count("main") == tags.count("nav") == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(below - above <= 1 for above, below in pairwise(levels)), "a level of headings is skipped"
    assert tags.count("caption") == tags.count("table")
    assert all(attributes.get("scope") for tag, attributes in elements if tag == "th")
    assert elements[tags.index("body") + 1] == ("a", {"class": "skip", "href": "#content"})
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
        "decided at k = 8, the last one judged",
        "solved by teacher, never by the candidate",
        "never is 0 of 16: the true rate may be up to 17.1%",
        "Branch points kept",
        "The curves cross near k = ",
    ):
        assert sentence in text.replace("\u00a0", " "), sentence
    lost, solved = comparison["pairs"][1]["solved"]["baseline_only"], comparison["runs"][0]["solved"]
    assert f"{lost} of {solved}" in text


@pytest.mark.parametrize(
    ("verdict", "detail", "command", "expected"),
    [
        ("PASS", "", "odeval audit s", "odeval gate COMPARISON --strict"),
        (
            "INCONCLUSIVE",
            "about 900 prompts would settle it",
            "odeval audit s --out o",
            "odeval audit s --out o --limit MORE_PROMPTS",
        ),
        ("INCONCLUSIVE", "cannot be judged with 8 samples a prompt", "odeval demo", "odeval demo -n MORE_SAMPLES"),
        ("INCONCLUSIVE", "", "odeval compare a b", "odeval gate COMPARISON"),
        (
            "FAIL",
            "",
            "odeval audit m/s --teacher 'm/a t' --out o",
            "odeval audit NEW_STUDENT --teacher 'm/a t' --out o",
        ),
        ("FAIL", "", "odeval compare a b", "odeval audit NEW_STUDENT --teacher 'm/a t' --task maze"),
    ],
)
def test_the_next_command_follows_from_the_verdict(verdict: str, detail: str, command: str, expected: str) -> None:
    runs = [{"role": "teacher", "model": {"path": "m/a t"}}, {"role": "candidate", "model": {"path": "m/s"}}]
    comparison = {"runs": runs, "task": "maze", "provenance": {"command": command}}
    assert next_step(comparison, verdict, {"detail": detail})[1] == expected


def test_the_band_is_of_the_scope_that_was_judged(audits: dict[str, Audit]) -> None:
    comparison, verdict = changed(audits["one"])
    for scope in ("population", "benchmark"):
        verdict["scope"] = scope
        question = comparison["pairs"][0]["pass_at_k"][scope]["question"]
        text = Page(render_html(comparison, verdict)).text
        assert f"at once and answers: {question} A CI" in text
        assert f"at once and answers: {question} A difference" in text


def test_several_candidates_are_one_verdict_and_a_column_each(audits: dict[str, Audit]) -> None:
    page = render_html(*audits["several"])
    table = page[page.index('class="candidates"') :].partition("</table>")[0]
    names = re.findall(r'<th scope="col" class="\w+">(\w+)</th>', table)
    marks = re.findall(r'<td><span class="mark (\w+)">', table.partition("pass@1")[0])
    rows = list(zip(names, marks, strict=True))
    order = ("FAIL", "INCONCLUSIVE", "PASS")
    judged = sorted(audits["several"][1]["candidates"], key=lambda one: order.index(one["verdict"]))
    verdicts = [(one["candidate"], one["verdict"]) for one in judged]
    assert [name for name, _ in rows] == [name for name, _ in verdicts]
    assert [kind for _, kind in rows] == [{"PASS": "pass", "FAIL": "fail"}.get(word, "open") for _, word in verdicts]
    assert 'class="tile' not in page


ORDER = re.compile(r'<section class="part" id="(\w+)"')


def test_trust_comes_first_when_anything_is_not_ok(audits: dict[str, Audit]) -> None:
    comparison, verdict = changed(audits["one, whole"])
    for row in comparison["trust"]:
        row["status"] = "ok"
    parts = ["curves", "lost", "entropy", "branches", "coverage", "diversity", "metrics", "training", "rules"]
    assert ORDER.findall(render_html(comparison, verdict)) == [*parts, "trust", "reproduce"]
    comparison["trust"][0].update(status="warn", detail="only a few prompts")
    page = render_html(comparison, verdict)
    assert ORDER.findall(page) == ["trust", *parts, "reproduce"]
    assert page.index("only a few prompts") < page.index('class="tiles"')
    contents = re.search(r'<nav class="contents".*?</nav>', page, re.DOTALL)
    assert contents is not None
    assert re.findall(r'href="#(\w+)"', contents[0]) == ORDER.findall(page)


def test_hostile_texts_change_nothing(audits: dict[str, Audit]) -> None:
    comparison, verdict = audits["one"]
    text = (
        json.dumps([comparison, verdict])
        .replace('"collapsed"', json.dumps(HOSTILE))
        .replace('"toy"', json.dumps(HOSTILE))
    )
    comparison, verdict = json.loads(text)
    for pair in comparison["pairs"]:
        for row in pair["lost_prompts"]:
            row.update(prompt=HOSTILE * 100, baseline_answer="word" * 250_000, candidate_answer=HOSTILE)
    comparison["provenance"]["command"] = HOSTILE
    verdict["candidates"][0]["headline"] = HOSTILE
    with_branch_points(comparison, HOSTILE)
    for pair in comparison["pairs"]:
        if pair["completion"]:
            pair["completion"]["pieces"][7] = "token" * 200_000
            pair["branches"]["listed"][0].update(context="long" * 250_000, branch="\u202e" * 300)
    page = render_html(comparison, verdict)
    elements = Page(page).elements
    assert not {"script", "x"} & {tag for tag, _ in elements}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    for made_visible in ("␛[31m", "␀", "⟨U+202E⟩", "⟨U+200B⟩", "⟨U+D800⟩", "⟨U+200D⟩", "&lt;script&gt;", "{{ 7*7 }}"):
        assert made_visible in page, made_visible
    assert len(page.encode()) < 350_000
    assert "wordword…" in page
    assert "tokentoken…" in page
    assert "⟨U+202E⟩…" in page
    markdown = render_markdown(comparison, verdict)
    assert "<" not in re.sub(r"(`+).*?\1|\\<", "", markdown)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", markdown)


def test_unknown_numbers_are_never_zero(audits: dict[str, Audit]) -> None:
    comparison, verdict = audits["one, whole"]
    page = render_html(without_numbers(comparison), without_numbers(verdict, ("alpha",)))
    texts = Page(page).texts
    assert sum("n/a" in text for text in texts) > 100
    assert not [text for text in texts if re.fullmatch(r"[+−]?0(\.0+)?%?|0 of \d+|.*None.*|.*nan.*", text)]
    assert "collapsed against start: not known." in texts


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
    page = render_html(with_branch_points(comparison), verdict)
    assert not invented(page, (comparison, verdict))
    assert len(page.encode()) < 1_000_000
    assert "The figures show the worst candidates; the tables hold all." in page
    assert len(render_html(*audits["one"]).encode()) < 250_000


def test_markdown_twin_holds_verdict_numbers_rules_and_command(audit: Audit) -> None:
    text = render_markdown(*audit)
    assert text.startswith(
        f"# {'✓✕?'[('PASS', 'FAIL', 'INCONCLUSIVE').index(audit[1]['verdict'])]} {audit[1]['verdict']}"
    )
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
