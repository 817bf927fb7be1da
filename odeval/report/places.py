"""Where the diversity went: the trade between one sample and many, the dropped branches, one completion."""

from __future__ import annotations

from typing import Any

from odeval.lookup import pair_of, run_of, scope_of
from odeval.report.numbers import Shown, at, count, shown, unit_name
from odeval.report.view import drawn, name, percent, say
from odeval.visible import visible

_BRANCHES = 12  # rows over all candidates, and at least a few of each
_COMPLETIONS = 2  # candidates whose completion is shown
_LEVELS = 8  # of the heat-map's colours
_CONTEXT, _PROMPT, _PIECE = 90, 200, 60  # characters
_LINE_FEED = "↵"
_TINY = 1e-4  # a probability below it is not told apart from 0


def tradeoff(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any] | None:
    """Both ends of the judged curve, one row a candidate; only where there are several to choose from."""
    found = comparison.get("tradeoff") or {}
    labels = [one["candidate"] for one in verdict["candidates"]]
    points = [item for item in found.get("points", ()) if item["candidate"] in labels]
    if len(labels) < 2 or not points:
        return None
    first = next((item for item in points if item["role"] == "baseline"), points[0])
    points = [item for item in points if all(item[key] == first[key] for key in ("baseline", "k"))]
    rows = [_ends(item, scope_of(verdict)) for item in points]
    return {
        "layout": "places", "kind": "tradeoff", "title": "What was traded for what?", "figure": "tradeoff",
        "rows": rows,
        "findings": [row["finding"] for row in rows if row["label"] in drawn(verdict)], "ks": first["k"],
        "other": name(first["baseline"]), "confidence": percent(found["confidence"]), "candidates": found["candidates"],
        "anchors": [name(item["label"]) for item in found["anchors"] if item["against"] == first["baseline"]],
    }  # fmt: skip


def _ends(item: dict[str, Any], scope: str) -> dict[str, Any]:
    cells: list[Shown] = []
    words = []
    for place, k in enumerate(item["k"]):
        low, high = (item[scope][side][place] for side in ("low", "high"))
        cells.append(shown({"value": item["difference"][place], "low": low, "high": high}, "share", signed=True))
        known = low is not None and high is not None
        word = "ahead" if known and low > 0 else "behind" if known and high < 0 else "no clear difference"
        words.append(f"{word} at {at(k)}" if known else f"not known at {at(k)}")
    finding = f"{name(item['candidate'])}: {', '.join(words)}."
    return {"label": item["candidate"], "name": name(item["candidate"]), "cells": cells, "finding": finding}


def branches(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any] | None:
    """Continuations that the teacher takes and the student all but cannot, worst first."""
    pairs = [pair for label in drawn(verdict) if (pair := pair_of(comparison, label, "teacher"))]
    pairs = [pair for pair in pairs if pair.get("branches")]
    if not pairs:
        return None
    most = max(_BRANCHES // len(pairs), 4)
    tables = [_dropped(comparison, pair, most) for pair in pairs]
    found = pairs[0]["branches"]
    return {
        "layout": "places", "kind": "branches", "title": "Which branches were dropped?", "tables": tables,
        "least": shown({"value": found["teacher_least"]}, "share", full=True).text,
        "below": shown({"value": found["student_most"]}, "share", full=True).text,
        "completions": _completions(pairs),
    }  # fmt: skip


def _dropped(comparison: dict[str, Any], pair: dict[str, Any], most: int) -> dict[str, Any]:
    found = pair["branches"]
    rate = run_of(comparison, pair["candidate"])["metrics"].get("dropped_branches@teacher")
    number = shown(rate)
    told = rate is not None and number.text != "n/a"
    return {
        "own": name(pair["candidate"]), "other": name(pair["baseline"]),
        "rate": f"{number.text} {number.interval} {unit_name(rate['unit'])}" if told else "",
        **{key: count(found[key]) for key in ("branches", "contexts", "prompts")},
        "rows": [_branch(row) for row in found["listed"][:most]],
        "tokens": [_token(row) for row in found["tokens"][:_BRANCHES]],
        "cut": len(found["listed"]) > most,
    }  # fmt: skip


def _branch(row: dict[str, Any]) -> dict[str, Any]:
    context = row["context"]
    tail = visible(context[-_CONTEXT:], lines=False).replace("␊", _LINE_FEED)
    return {
        "prompt": visible(row["prompt"], _PROMPT), "branch": _piece(row["branch"]),
        "context": f"…{tail}" if row["cut"] or len(context) > _CONTEXT else tail,
        "taken": f"{count(row['taken'])} of {count(row['visits'])}",
        "right": f"{count(row['correct'])} of {count(row['graded'])}" if row["graded"] else "none graded",
        "lost": shown({"value": row["lost"]}, "share", full=True).text, **_probabilities(row),
    }  # fmt: skip


def _token(row: dict[str, Any]) -> dict[str, Any]:
    counts = {key: count(row[key]) for key in ("contexts", "prompts")}
    right = f"{count(row['correct'])} of {count(row['graded'])}" if row["graded"] else "none graded"
    return {"branch": _piece(row["branch"]), "right": right, **counts, **_probabilities(row)}


def _probabilities(row: dict[str, Any]) -> dict[str, str]:
    return {side: _probability(row[f"{side}_prob"]) for side in ("teacher", "student")}


def _probability(value: float | None) -> str:
    if value is not None and value < _TINY:
        return f"< {100 * _TINY:g}%"
    return shown({"value": value}, "share", full=True).text


def _piece(text: str) -> str:
    """A token as a reader can tell it apart: no invisible or empty one."""
    return visible(text, _PIECE).replace("␊", _LINE_FEED).replace(" ", "␣") or "(empty)"


def _completions(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One of the teacher's completions for each of the first candidates, token by token."""
    told = [pair for pair in pairs if pair.get("completion")][:_COMPLETIONS]
    return [_completion(pair) for pair in told]


def _completion(pair: dict[str, Any]) -> dict[str, Any]:
    found = pair["completion"]
    ends = [*found["teacher_entropy"], *found["student_entropy"], found["threshold"]]
    top = max((value for value in ends if value is not None), default=1.0)
    dropped = {row["at"]: row for row in found["dropped"]}
    tokens = [_heat(found, at, top, dropped.get(at)) for at in range(len(found["pieces"]))]
    open_at = [token for token in tokens if token["branch"]]
    ended = {True: "right", False: "wrong", None: "not graded"}[found["correct"]]
    return {
        "own": name(pair["candidate"]), "other": name(pair["baseline"]), "rule": say(found["rule"]), "tokens": tokens,
        "prompt": visible(found["prompt"], 600, lines=True), "ended": ended, "points": open_at,
        "top": shown({"value": top}, "nats", full=True).text, "tau": f"{found['threshold']:g}",
        "cut": found["length"] > len(found["pieces"]), "length": count(found["length"]),
    }  # fmt: skip


def _heat(found: dict[str, Any], at: int, top: float, dropped: dict[str, Any] | None) -> dict[str, Any]:
    """One token: two shades, and in words what they say."""
    piece = found["pieces"][at]
    shades = [_level(found[f"{side}_entropy"][at], top) for side in ("teacher", "student")]
    values = {side: shown({"value": found[f"{side}_entropy"][at]}).text for side in ("teacher", "student")}
    text = visible(piece, _PIECE).replace("␊", _LINE_FEED)
    return {
        "text": text or "∅", "break": piece.endswith("\n"), "shades": shades, "at": at + 1,
        "piece": _piece(piece), "branch": found["branch"][at], "closed": found["closed"][at], **values,
        "dropped": "" if dropped is None else _piece(dropped["branch"]),
    }  # fmt: skip


def _level(value: float | None, top: float) -> int:
    return 0 if value is None else min(_LEVELS, round(_LEVELS * value / top))
