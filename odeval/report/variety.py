"""What of the teacher's repertoire is still reached, and how many different answers there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odeval.lookup import pair_of
from odeval.report.numbers import Shown, count, grid, shown, trend, unit_name
from odeval.report.view import drawn, name, percent, say
from odeval.visible import visible

_MODES = 8  # lost answers listed, over all candidates
_SIDES = ("baseline", "candidate", "difference")
_VIEWS = ("recall", "ceiling", "gap", "grounding")


def coverage(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any] | None:
    """Recall of the teacher's outputs, its ceiling, their gap, and grounding the other way round."""
    found = [
        pair for label in drawn(verdict) if (pair := pair_of(comparison, label, "teacher")) and pair.get("coverage")
    ]
    if not found:
        return None
    known = [pair for pair in found if pair["coverage"]["views"]]
    most = max(_MODES // max(len(known), 1), 3)
    return {
        "layout": "variety", "kind": "coverage", "title": "What of the teacher's repertoire is still reached?",
        "figure": "coverage" if known else "", "other": name(found[0]["baseline"]),
        "question": visible(found[0]["coverage"]["question"]),
        "confidence": percent(comparison["settings"]["confidence"]),
        "findings": [_last_gap(pair) for pair in known],
        "notes": list(dict.fromkeys(say(pair["coverage"]["note"]) for pair in found if pair["coverage"]["note"])),
        "tables": [{"name": name(pair["candidate"]), **_views(pair), **_modes(pair, most)} for pair in known],
    }  # fmt: skip


def _last_gap(pair: dict[str, Any]) -> str:
    """The gap at the largest k that at least half of the prompts can answer."""
    view = pair["coverage"]["views"][-1]
    counts = [n if value is not None else 0 for n, value in zip(view["gap"]["n"], view["gap"]["value"], strict=True)]
    last = max((j for j, n in enumerate(counts) if n and 2 * n >= max(counts)), default=0)
    recall, ceiling = (_point(view[key], last, full=True) for key in ("recall", "ceiling"))
    gap = _point(view["gap"], last)
    draws = visible(view["draws"]).removeprefix("k ")
    own, other = name(pair["candidate"]), name(pair["baseline"])
    return (
        f"{own}: {view['k'][last]} {draws} give {recall.text} of {other}'s right answers, where {other} itself gives "
        f"{ceiling.text}; the gap is {gap.text} points {gap.interval}".rstrip()
        + "."
    )


def _views(pair: dict[str, Any]) -> dict[str, Any]:
    """One table over k: the views, then how many different answers and solutions."""
    found = pair["coverage"]
    groups = []
    for view in found["views"]:
        title = f"by {visible(view['by'])}, {visible(view['draws'])}"
        groups.append(_group(title, view["k"], [(view[key], view[key]["label"]) for key in _VIEWS]))
    for item in (found["distinct"], found["solutions"]):
        if item is not None:
            own = {key: item[key] for key in ("unit", "direction")}
            sides = [({**item[side], **own}, _side(pair, side)) for side in _SIDES]
            groups.append(_group(visible(item["label"]), item["k"], sides))
    return {"groups": groups}


def _side(pair: dict[str, Any], side: str) -> str:
    names = {key: name(pair[key]) for key in ("baseline", "candidate")}
    return names.get(side, f"{names['candidate']} − {names['baseline']}")


def _group(title: str, ks: Sequence[int], rows: Sequence[tuple[dict[str, Any], str]]) -> dict[str, Any]:
    places = grid(ks)
    cells = [{"name": visible(label), "unit": unit_name(item["unit"]), "cells": [_point(item, j) for j in places]}
             for item, label in rows]  # fmt: skip
    return {"title": title, "ks": [ks[j] for j in places], "rows": cells}


def _point(columns: dict[str, Any], place: int, full: bool = False) -> Shown:
    item = {key: columns[key][place] for key in ("value", "low", "high", "caution")}
    return shown(item, columns.get("unit", "share"), full=full)


def _modes(pair: dict[str, Any], most: int) -> dict[str, Any]:
    """Answers that one side gives and the other never did, with how sure that is."""
    told = []
    for key, word in (("lost", "never given by the student"), ("gained", "never given by the teacher")):
        modes = pair["coverage"][key]
        if modes is not None:
            rows = [_mode(row) for row in modes["listed"][:most]] if key == "lost" else []
            numbers = {part: count(modes[part]) for part in ("count", "prompts", "beyond_chance")}
            told.append({"word": word, **numbers, "rows": rows})
    return {"modes": told}


def _mode(row: dict[str, Any]) -> dict[str, str]:
    upper = shown({"value": row["upper"]}, "share", full=True).text
    return {"answer": visible(str(row["name"]), 120), "teacher": f"{count(row['count'])}/{count(row['n'])}",
            "student": f"0/{count(row['candidate_n'])}", "upper": upper,
            "prompt_id": visible(str(row["prompt_id"]), 40)}  # fmt: skip


def diversity(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any] | None:
    """Different answers, where their change comes from, and the text measures that never gate."""
    pairs = [pair for label in drawn(verdict) if (pair := pair_of(comparison, label, "baseline", "teacher"))]
    found = [pair for pair in pairs if pair.get("diversity")]
    if not found:
        return None
    known = [pair for pair in found if pair["diversity"]["answers"]]
    split = [pair for pair in known if pair["diversity"]["split"]]
    return {
        "layout": "variety", "kind": "diversity", "title": "Did right answers become fewer in kind?",
        "figure": "diversity" if split else "", "confidence": percent(comparison["settings"]["confidence"]),
        "findings": [_narrowing(pair) for pair in split], "other": name(found[0]["baseline"]),
        "notes": list(dict.fromkeys(say(pair["diversity"]["note"]) for pair in found if pair["diversity"]["note"])),
        "tables": [_kinds(pair) for pair in known],
    }  # fmt: skip


def _narrowing(pair: dict[str, Any]) -> str:
    split = pair["diversity"]["split"]
    texts = {}
    for key in ("narrowing", "whole", "quality_control"):
        item = shown(split[key], split[key]["unit"], signed=True, full=True)
        texts[key] = f"{item.text} {item.interval}".rstrip()
    return (
        f"{name(pair['candidate'])}: among equally many right completions {texts['narrowing']}. All answers together "
        f"{texts['whole']}, of which {texts['quality_control']} from being right more or less often."
    )


def _kinds(pair: dict[str, Any]) -> dict[str, Any]:
    found = pair["diversity"]
    rows = [_row(item) for item in found["answers"].values()]
    split = [_change(item) for item in found["split"].values()]
    among = found["among_right"]
    if among is not None:
        own = {key: among[key] for key in ("unit", "direction")}
        sides = [({**among[side], **own}, _side(pair, side)) for side in _SIDES]
        curve = _group(visible(among["label"]), among["k"], sides)
    text = found["text"]
    return {
        "name": name(pair["candidate"]), "other": name(pair["baseline"]), "rows": rows, "split": split,
        "curve": None if among is None else curve,
        "matched": None if found["matched"] is None else _matched(found["matched"]),
        "text": [] if text is None else [_row(item) for item in text["metrics"].values()],
        "text_rule": "" if text is None else f"{_matched(text)}; read as {say(text['reads'])}",
    }  # fmt: skip


def _matched(item: dict[str, Any]) -> str:
    return f"{say(item['rule'])}; {count(item['prompts'])} of {count(item['of'])} prompts"


def _row(item: dict[str, Any]) -> dict[str, Any]:
    cells = [shown(item[side], item["unit"], signed=side == "difference") for side in _SIDES]
    return {"name": visible(item["label"]), "unit": unit_name(item["unit"]), "cells": cells,
            "trend": trend(item["difference"], item["direction"])}  # fmt: skip


def _change(item: dict[str, Any]) -> dict[str, Any]:
    return {"name": visible(item["label"]), "unit": unit_name(item["unit"]),
            "cell": shown(item, item["unit"], signed=True)}  # fmt: skip
