"""The verdict and the curves as Markdown tables, for step summaries and model cards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from odeval.lookup import band_of, pair_of, run_of, scope_of
from odeval.report.numbers import Shown, grid, shown
from odeval.report.sections import rules
from odeval.report.view import MARKS
from odeval.visible import visible

_LINE = 600  # characters
_CONTEXT, _BRANCHES = 60, 3  # characters before a dropped branch, and how many of those are shown
_MARKUP = re.compile(r"[\\`*_\[\]<|~&!$]|:(?=//)|(?<=www)\.")


def escaped(text: str, most: int = _LINE) -> str:
    r"""Make a text that Markdown reads as text inside a line: no link, image, formula, cell, comment or HTML.

    Example:
        >>> print(escaped("<!-- end --> [a](http://b) | `c`"))
        \<\!-- end --> \[a\](http\://b) \| \`c\`
    """
    return _MARKUP.sub(r"\\\g<0>", visible(" ".join(text.split()), most))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def headline(verdict: dict[str, Any]) -> str:
    """The verdict in one line."""
    mark = MARKS[verdict["verdict"]]
    diagnoses = sorted({row["diagnosis"] for row in verdict["candidates"]} - {""})
    return " · ".join([f"{mark.sign} odeval: {mark.word}", *map(escaped, diagnoses)])


def blocks(comparisons: Sequence[dict[str, Any]], verdict: dict[str, Any]) -> Iterator[str]:
    """One text a candidate and benchmark: what happened, its rules, its curve."""
    by_task = {comparison["task"]: comparison for comparison in comparisons}
    for row in verdict["candidates"]:
        yield block(by_task.get(row["benchmark"]), verdict, row)


def block(comparison: dict[str, Any] | None, verdict: dict[str, Any], row: dict[str, Any]) -> str:
    """What happened to one candidate on one benchmark.

    Args:
        comparison: Of this benchmark; None leaves out the curve.
        verdict: From `gate.as_json`.
        row: One of verdict["candidates"].
    """
    mark = MARKS[row["verdict"]]
    several = len({other["benchmark"] for other in verdict["candidates"]}) > 1
    name = escaped(f"{row['benchmark']}, {row['candidate']}" if several else row["candidate"])
    parts = [f"{mark.sign} **{mark.word}** {name}: {escaped(row['headline'])}\n", rules_table(verdict, row)]
    if comparison is not None:
        candidate = row["candidate"]
        parts += [curve_table(comparison, verdict, candidate), *_dropped(comparison, candidate), *_doubts(comparison)]
    return "\n".join(parts)


def rules_table(verdict: dict[str, Any], row: dict[str, Any]) -> str:
    """Every rule of one candidate."""
    lines = rules({**verdict, "candidates": [row]})["rows"]
    return table(
        ("rule", "verdict", "measured", "how it follows", "why"),
        [
            (escaped(line["rule"] + (f" against {line['against']}" if line["against"] else "")),
             f"{line['mark'].sign} {line['mark'].word}", _cell(Shown(line["value"], line["interval"])),
             escaped(line["detail"]), escaped(line["why"]))
            for line in lines
        ],
    )  # fmt: skip


def curve_table(comparison: dict[str, Any], verdict: dict[str, Any], candidate: str) -> str:
    """pass@k in percent of a candidate and its reference, and the difference with its simultaneous band."""
    pair = pair_of(comparison, candidate, "baseline", "teacher")
    if pair is None:
        return ""
    curve, band = pair["pass_at_k"], band_of(pair, scope_of(verdict))
    places = grid(curve["k"])
    rows = []
    for label in (pair["baseline"], candidate):
        own = run_of(comparison, label)["pass_at_k"]
        points = [{key: own[key][j] for key in ("value", "low", "high")} for j in places]
        rows.append([escaped(label), *(_cell(shown(point, "share")) for point in points)])
    points = [{"value": curve["difference"][j], "low": band["low"][j], "high": band["high"][j]} for j in places]
    rows.append(["difference, points", *(_cell(shown(point, "share", signed=True)) for point in points)])
    return table(("pass@k, %", *(f"k={curve['k'][j]}" for j in places)), rows)


def _cell(number: Shown) -> str:
    return escaped(f"{number.text} {number.interval}".strip())


def _dropped(comparison: dict[str, Any], candidate: str) -> list[str]:
    """The dropped branches that cost most right completions."""
    pair = pair_of(comparison, candidate, "teacher")
    branches = pair and pair.get("branches")
    if not branches or not branches["listed"]:
        return []
    rows = [
        (escaped(f"{row['prompt']}{row['context']}"[-_CONTEXT:]), escaped(row["branch"]), f"{row['teacher_prob']:.2f}",
         f"{row['student_prob']:.2g}", f"{row['correct']} of {row['taken']}")
        for row in branches["listed"][:_BRANCHES]
    ]  # fmt: skip
    head = ("the teacher goes on after", "with", "teacher", "student", "right when taken")
    return [f"Dropped branches: {branches['branches']}, of these most costly\n\n" + table(head, rows)]


def _doubts(comparison: dict[str, Any]) -> list[str]:
    found = [item for item in comparison["trust"] if item["status"] == "warn"]
    return ["".join(f"- ! {escaped(item['check'])}: {escaped(item['detail'])}\n" for item in found)] if found else []
