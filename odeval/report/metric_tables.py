"""Tables of metrics, one a candidate: rows are metrics, columns are runs and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from odeval.lookup import pair_of, run_of
from odeval.report.numbers import UNKNOWN, Shown, count, shown, trend, unit_name
from odeval.report.view import drawn, name, percent, ranked, say
from odeval.visible import visible

_ENDS = ("low", "high")
_FOOTNOTES = "*†‡§¶#"

Place = tuple[str, Callable[[str], Any], bool]  # heading, metric name → estimate or None, is it a difference?


def entropy(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """What became of the teacher's branch points: every metric over tokens, on both trajectories."""
    candidates = _worst_first(comparison, verdict)
    tables = []
    for run in candidates:
        names = list(dict.fromkeys(key.partition("@")[0] for key in run["metrics"] if "@" in key))
        groups = []
        for trajectory, heading in (("teacher", "in the teacher's completions"), ("student", "in each student's own")):
            if any(f"{base}@{trajectory}" in run["metrics"] for base in names):
                groups.append((heading, f"@{trajectory}", _places_of(comparison, run, ("baseline",))))
        if names:
            tables.append(_table(run, names, groups))
    scored = [run for run in comparison["runs"] if run["survival"].get("teacher")]
    tau = f"{comparison['settings']['threshold']:g}"
    return {
        "kind": "entropy", "title": "Did the branch points survive?", "figure": "entropy" if scored else "",
        "findings": [_kept(comparison, label) for label in drawn(verdict)] if tables else [],
        "tables": tables, "tau": tau,
        "thresholds": [table for run in candidates if (table := _by_threshold(run))],
        "bounds": [table for run in candidates if (table := _bounds(run))],
        "links": [link for run in candidates if (link := _link(comparison, run["label"]))],
        "confidence": percent(comparison["settings"]["confidence"]),
    }  # fmt: skip


def _worst_first(comparison: dict[str, Any], verdict: dict[str, Any]) -> list[dict[str, Any]]:
    return [run_of(comparison, one["candidate"]) for one in ranked(verdict)]


def _link(comparison: dict[str, Any], label: str) -> dict[str, Any] | None:
    """Whether entropy lost at branch points goes with pass@k lost, prompt by prompt."""
    pair = pair_of(comparison, label, "teacher")
    found = (pair or {}).get("link")
    if not found:
        return None
    cells = [shown(found[key]) for key in ("plain", "beyond length and accuracy")]
    return {"name": name(label), "question": say(found["question"]), "k": found["k"], "cells": cells,
            "n": count(found["plain"]["n"])}  # fmt: skip


_BY_THRESHOLD = {
    "teacher_high_by_threshold": "teacher's tokens at or above τ",
    "student_high_by_threshold": "student's tokens at or above τ",
    "retention_by_threshold": "of the teacher's, still at or above τ in the student",
}
_WHERE = {"teacher": "in the teacher's completions", "student": "in the student's own"}


def _by_threshold(run: dict[str, Any]) -> dict[str, Any] | None:
    """The 2 × 2 of scorer and trajectory, and retention, at every threshold: absolute ones and the teacher's own."""
    names = {value: text for text, value in (run.get("thresholds") or {}).items() if not text[:1].isdigit()}
    rows, grids = [], []
    for base, label in _BY_THRESHOLD.items():
        for where, text in _WHERE.items():
            family = (run.get("families") or {}).get(f"{base}@{where}")
            if family:
                grids.append(family["grid"])
                rows.append((label, text, {value: _cell(family, j) for j, value in enumerate(family["grid"])}))
    grid = sorted({value for own in grids for value in own})
    cells = [{"label": label, "where": where, "cells": [own.get(value, Shown(UNKNOWN)) for value in grid]}
             for label, where, own in rows]  # fmt: skip
    heads = [{"value": f"{value:g}", "name": visible(names.get(value, ""), 40)} for value in grid]
    return {"name": name(run["label"]), "thresholds": heads, "rows": cells} if cells else None


_BOUNDED = {
    "teacher_high_entropy": "teacher's tokens at or above τ",
    "student_high_entropy": "student's tokens at or above τ",
    "retention": "of the teacher's, still at or above τ in the student",
}


def _bounds(run: dict[str, Any]) -> dict[str, Any] | None:
    """What the likeliest tokens prove: the truth lies between two numbers, whatever the others were."""
    rows: list[dict[str, Any]] = []
    grid: list[float] = []
    for where, found in (run.get("bounds") or {}).items():
        for base, label in _BOUNDED.items():
            grid = found[base]["grid"]
            ends = [[_cell({**found[base][end], "unit": found["unit"]}, j) for j in range(len(grid))] for end in _ENDS]
            counted = found[base].get("undecidable_tokens")
            open_ = (
                [f"{count(n)} of {count(found['tokens'])} undecided" for n in counted] if counted else [""] * len(grid)
            )
            cells = [{"low": low, "high": high, "open": text} for low, high, text in zip(*ends, open_, strict=True)]
            rows.append({"label": label, "where": _WHERE[where], "cells": cells})
    return {"name": name(run["label"]), "thresholds": [f"{tau:g}" for tau in grid], "rows": rows} if rows else None


def _cell(family: dict[str, Any], place: int) -> Shown:
    return shown({key: family[key][place] for key in ("value", "low", "high", "caution")}, family["unit"])


def _kept(comparison: dict[str, Any], label: str) -> str:
    value = shown(run_of(comparison, label)["metrics"].get("retention@teacher"), "share", full=True)
    text = f"{name(label)} {value.text} {value.interval}".rstrip()
    pair = pair_of(comparison, label, "baseline")
    if pair is None or "retention@teacher" not in pair["metrics"]:
        return text
    change = shown(pair["metrics"]["retention@teacher"]["difference"], "share", signed=True, full=True)
    return f"{text}; {change.text} {change.interval} against {name(pair['baseline'])}"


def metrics(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """Every metric over completions, with paired differences."""
    tables = []
    for run in _worst_first(comparison, verdict):
        names = [key for key in run["metrics"] if "@" not in key]
        if names:
            tables.append(_table(run, names, [("", "", _places_of(comparison, run, ("teacher", "baseline")))]))
    return {"kind": "metrics", "title": "Everything else that changed", "tables": tables,
            "confidence": percent(comparison["settings"]["confidence"])}  # fmt: skip


def _places_of(comparison: dict[str, Any], run: dict[str, Any], roles: Iterable[str]) -> list[Place]:
    """The columns of a metric table: each run's own value, then the candidate's paired differences."""
    others = [other for role in roles for other in comparison["runs"] if other["role"] == role]
    values: list[Place] = [(name(other["label"]), other["metrics"].get, False) for other in (*others, run)]
    pairs = [pair for role in roles if (pair := pair_of(comparison, run["label"], role))]
    own = name(run["label"])
    return values + [(f"{own} − {name(pair['baseline'])}", _difference_in(pair), True) for pair in reversed(pairs)]


def _difference_in(pair: dict[str, Any]) -> Callable[[str], Any]:
    return lambda key: pair["metrics"][key]["difference"] if key in pair["metrics"] else None


def _table(run: dict[str, Any], names: Sequence[str], groups: Sequence[tuple[str, str, list[Place]]]) -> dict[str, Any]:
    """Rows are metrics, columns are runs and differences, once per trajectory; cautions become footnotes."""
    notes: dict[str, str] = {}
    rows = []
    for base in names:
        cells = []
        entry = next(run["metrics"][base + at] for _, at, _ in groups if base + at in run["metrics"])
        for _, at, places in groups:
            for place, (_, get, signed) in enumerate(places):
                item = get(base + at)
                cell = shown(item, entry["unit"], signed)
                sign = notes.setdefault(cell.note, _FOOTNOTES[len(notes) % len(_FOOTNOTES)]) if cell.note else ""
                told = trend(item, entry["direction"]) if signed else ""
                cells.append({"cell": cell, "sign": sign, "trend": told, "first": place == 0 and len(groups) > 1})
        better = {"higher": "higher is better", "lower": "lower is better"}.get(entry["direction"], "")
        rows.append(
            {"label": visible(entry["label"]), "unit": unit_name(entry["unit"]), "better": better, "cells": cells}
        )
    heads = [{"title": title, "columns": [heading for heading, _, _ in places]} for title, _, places in groups]
    footnotes = [(sign, say(note)) for note, sign in notes.items()]
    return {"name": name(run["label"]), "heads": heads, "rows": rows, "notes": footnotes}
