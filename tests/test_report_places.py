"""Where the diversity went, as the page tells it: the trade, the dropped branches, one completion, the repertoire."""

from __future__ import annotations

import re

import pytest
from page_reader import Page
from report_data import Audit, audited, older, whole

from odeval.report import render_html

ORDER = re.compile(r'<section class="part" id="(\w+)"')


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Audit]:
    folder = tmp_path_factory.mktemp("audits")
    arms = {"rkl": "collapsed", "fkl": "faithful", "mix": "close"}
    several = audited(folder / "several", arms, prompts=60, n=8)
    return {"one, whole": whole(audited(folder / "one", {"collapsed": "collapsed"}, prompts=60, n=8)),
            "several, whole": whole(several), "older": older(several)}  # fmt: skip


def test_what_is_not_known_has_no_section(audits: dict[str, Audit]) -> None:
    found = ORDER.findall(render_html(*audits["older"]))
    assert not {"tradeoff", "branches", "coverage", "diversity"} & set(found)
    assert {"curves", "rules"} <= set(found)


def test_several_candidates_begin_with_what_was_traded(audits: dict[str, Audit]) -> None:
    comparison, verdict = audits["several, whole"]
    page = render_html(comparison, verdict)
    assert [part for part in ORDER.findall(page) if part != "trust"][:2] == ["tradeoff", "curves"]
    text = Page(page).text.replace("\u00a0", " ")
    for point in comparison["tradeoff"]["points"]:
        if point["baseline"] == "start":
            word = "behind" if point["population"]["high"][1] < 0 else "no clear difference"
            if point["population"]["low"][1] > 0:
                word = "ahead"
            assert re.search(rf"{point['candidate']}: [^.]*{word} at k = {point['k'][1]}\.", text)
    assert "all 3 boxes hold together with 95% confidence" in text


def test_branch_points_are_told_where_they_closed(audits: dict[str, Audit]) -> None:
    comparison, verdict = audits["one, whole"]
    page = render_html(comparison, verdict)
    found = next(pair["completion"] for pair in comparison["pairs"] if pair["completion"])
    tokens = re.findall(r'<span class="tok (t\d) (s\d)( closed)?"( tabindex="0" data-told="[^"]*")?>', page)
    heat = tokens[: len(found["pieces"])]
    assert [bool(closed) for *_, closed, _ in heat] == found["closed"]
    assert [bool(stop) for *_, stop in heat] == found["branch"]
    assert max(above for above, *_ in heat) == "t8"
    row = next(pair["branches"] for pair in comparison["pairs"] if pair["branches"])["listed"][0]
    told = page[page.index("Where most right completions are lost first") :]
    assert f"{row['taken']} of {row['visits']}" in told
    assert f"{row['correct']} of {row['graded']}" in told
    assert "in the same context of one of the teacher" in page


def test_coverage_and_diversity_say_what_they_measure(audits: dict[str, Audit]) -> None:
    comparison, verdict = audits["one, whole"]
    text = Page(render_html(comparison, verdict)).text
    pair = next(pair for pair in comparison["pairs"] if pair["role"] == "teacher")
    lost = pair["coverage"]["lost"]
    assert (
        f"{lost['count']} right answers on {lost['prompts']} prompts were never given by the student; "
        f"for {lost['beyond_chance']} of them chance does not explain it."
    ) in text
    assert (
        "Texts, which no rule ever judges: 4 right completions of each prompt on both sides; 51 of 60 prompts" in text
    )
    start = next(pair for pair in comparison["pairs"] if pair["role"] == "baseline")["diversity"]["split"]
    narrowing = f"{start['narrowing']['value']:+.3f}".replace("-", "−")
    assert f"collapsed: among equally many right completions {narrowing} answers" in text


def test_counts_alone_say_that_nothing_is_known_of_answers(audits: dict[str, Audit]) -> None:
    comparison, verdict = audits["one, whole"]
    told = "a run of counts holds no answers"
    for pair in comparison["pairs"]:
        pair["coverage"].update(views=[], distinct=None, lost=None, gained=None, note=told)
        pair["diversity"].update(matched=None, answers={}, among_right=None, split={}, text=None, note=told)
        pair.update(branches=None, completion=None)
    page = render_html(comparison, verdict)
    assert Page(page).text.count(told) == 2
    assert "coverage-title" not in page
