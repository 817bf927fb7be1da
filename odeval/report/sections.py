"""Comparison + verdict → the sections under the first screen: curves, lost prompts, branch points, metrics, rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from odeval.lookup import band_of, judged_ks, pair_of, reference_pairs, scope_of
from odeval.report import places, variety
from odeval.report.metric_tables import entropy, metrics
from odeval.report.numbers import Shown, at, count, fixed, grid, shown, spans, suffix
from odeval.report.training import training
from odeval.report.view import DRAWN, drawn, mark_of, name, parsed, percent, say, trust
from odeval.visible import visible

_BANDS = 3  # candidates whose own intervals can be drawn over each other
_ROWS = 12  # lost prompts shown with their texts, over all candidates
_SCOPES = ("population", "benchmark")
_MORE = 200  # lost prompts named without text
_SOLVED = ("both", "baseline_only", "candidate_only", "neither")
_IDENTITY = ("path", "fingerprint", "vocabulary", "template")
_PROMPT, _ANSWER = 400, 240  # characters


def sections(comparison: dict[str, Any], verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """Every section in its order; the trust panel comes first when anything in it is not ok."""
    checks = {"kind": "trust", "title": "Can you trust this run?", **trust(comparison)}
    wanted = [
        places.tradeoff(comparison, verdict),
        curves(comparison, verdict),
        lost(comparison, verdict),
        entropy(comparison, verdict),
        places.branches(comparison, verdict),
        variety.coverage(comparison, verdict),
        variety.diversity(comparison, verdict),
        metrics(comparison, verdict),
        training(comparison, verdict),
        rules(verdict),
        checks,
        reproduce(comparison, verdict),
    ]
    found = [section for section in wanted if section is not None]
    if not checks["ok"]:
        found.remove(checks)
        found.insert(0, checks)
    return found


def limits(comparison: dict[str, Any], verdict: dict[str, Any]) -> list[tuple[float, tuple[int, ...], str]]:
    """Rules over the pass@k difference that can be drawn: limit, where it is judged, against whom."""
    found = []
    for candidate in verdict["candidates"]:
        for check in candidate["checks"]:
            rule = parsed(check)
            pairs = [pair for pair in comparison["pairs"] if pair["baseline"] == check["against"]]
            if rule is None or (rule.metric, rule.form, rule.at_least) != ("pass", "delta", True) or not pairs:
                continue
            ks = judged_ks(pairs[0], scope_of(verdict))
            found.append((rule.limit, tuple(k for k in ks if rule.at in ("k", str(k))), check["against"]))
    return list(dict.fromkeys(found))


def curves(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """pass@k and its paired difference."""
    ks, scope = comparison["settings"]["ks"], scope_of(verdict)
    points = grid(ks)
    rows = [
        {"name": name(run["label"]), "role": run["role"], "cells": _points(curve, "value", curve, points)}
        for run in comparison["runs"]
        if (curve := run["pass_at_k"])
    ]
    if floor := comparison.get("chance"):
        cells = [shown({"value": floor["value"][j]}, "share") for j in points]
        rows.append({"name": "chance", "role": visible(floor["question"]), "cells": cells})
    rows += [
        {
            "name": f"{name(pair['candidate'])} − {name(pair['baseline'])}",
            "role": visible(band_of(pair, each)["question"]),
            "cells": _points(pair["pass_at_k"], "difference", band_of(pair, each), points, signed=True),
        }
        for pair in comparison["pairs"]
        for each in _SCOPES
        if each in pair["pass_at_k"]
    ]
    pairs = reference_pairs(comparison, drawn(verdict))
    pairs += [pair for own in pairs if (pair := pair_of(comparison, own["candidate"], "teacher")) and pair is not own]
    figure = "passk" if len(verdict["candidates"]) == 1 else "objectives"
    return {
        "kind": "curves", "title": "Can it still reach the answer?", "figure": figure if pairs else "",
        "findings": [_leads(pair, scope) for pair in pairs], "question": question(comparison, verdict),
        "confidence": percent(comparison["settings"]["confidence"]), "ks": [ks[j] for j in points], "rows": rows,
        "tests": [text for pair in comparison["pairs"] if (text := _test(pair))],
        "chance": bool(floor),
        "undrawn": len(verdict["candidates"]) > DRAWN, "bands": len(verdict["candidates"]) <= _BANDS,
    }  # fmt: skip


def question(comparison: dict[str, Any], verdict: dict[str, Any]) -> str:
    """What the band of the difference answers."""
    return visible(next((band_of(pair, scope_of(verdict))["question"] for pair in comparison["pairs"]), ""))


def _test(pair: dict[str, Any]) -> str:
    p_value = (pair["pass_at_k"].get("permutation") or {}).get("p")
    return "" if p_value is None else f"{name(pair['candidate'])} and {name(pair['baseline'])}: p = {p_value:.2g}"


def _points(
    curve: dict[str, Any], key: str, band: dict[str, Any], points: Sequence[int], signed: bool = False
) -> list[Shown]:
    return [
        shown({"value": curve[key][j], "low": band["low"][j], "high": band["high"][j]}, "share", signed) for j in points
    ]


def _leads(pair: dict[str, Any], scope: str) -> str:
    """Where the band leaves no doubt about the sign of the difference, in words."""
    curve, band = pair["pass_at_k"], band_of(pair, scope)
    own, other = name(pair["candidate"]), name(pair["baseline"])
    above = [low is not None and low > 0 for low in band["low"]]
    below = [high is not None and high < 0 for high in band["high"]]
    parts = [
        f"{word} {spans(curve['k'], where)}"
        for word, where in (("ahead at", above), ("behind at", below))
        if any(where)
    ]
    known = [value is not None for value in curve["difference"]]
    open_at = [k and not a and not b for k, a, b in zip(known, above, below, strict=True)]
    if not parts:
        return f"{own} against {other}: " + ("no clear difference at any k." if any(known) else "not known.")
    if any(open_at):
        parts.append(f"no clear difference at {spans(curve['k'], open_at)}")
    return f"{own} against {other}: {'; '.join(parts)}.{_crossing(curve['crossover'], band)}"


def _crossing(turn: float | None, band: dict[str, Any]) -> str:
    if turn is None:
        return ""
    loss = band.get("first_loss") or {}
    first, last = loss.get("earliest"), loss.get("established")
    within = f"; its first loss lies between {at(first)} and {at(last)}" if first and last and first < last else ""
    return f" The curves cross near {at(fixed(turn, 1 if turn < 10 else 0))}{within}."


def lost(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """Prompts that the reference solves and the candidate never did."""
    solved = [
        {
            "own": name(pair["candidate"]),
            "other": name(pair["baseline"]),
            **{key: count(pair["solved"][key]) for key in _SOLVED},
        }
        for pair in comparison["pairs"]
    ]
    pairs = [pair for label in drawn(verdict) if (pair := pair_of(comparison, label, "teacher", "baseline"))]
    share = max(_ROWS // max(len(pairs), 1), 3)
    tables = []
    for pair in pairs:
        told = [row for row in pair["lost_prompts"] if "prompt" in row][:share]
        rest = [row for row in pair["lost_prompts"] if row not in told]
        tables.append({
            "own": name(pair["candidate"]), "other": name(pair["baseline"]),
            "rows": [_example(row) for row in told],
            "rest": [f"{visible(str(row['prompt_id']), 40)} {_count(row['baseline'])}" for row in rest[:_MORE]],
            "cut": len(rest) > _MORE,
        })  # fmt: skip
    known = all(run.get("counts") for run in comparison["runs"])
    return {
        "kind": "lost", "title": "Which prompts were lost?", "figure": "lost" if pairs and known else "",
        "solved": solved, "tables": tables, "other": name(pairs[0]["baseline"]) if pairs else "",
    }  # fmt: skip


def _count(counts: dict[str, Any]) -> str:
    return f"{count(counts['c'])}/{count(counts['n'])}"


def _example(row: dict[str, Any]) -> dict[str, str]:
    upper = shown({"value": row["upper"]}, "share", full=True).text
    texts = {key: visible(str(row.get(key) or ""), most, lines=True) for key, most in
             (("prompt", _PROMPT), ("baseline_answer", _ANSWER), ("candidate_answer", _ANSWER))}  # fmt: skip
    return {"reference": _count(row["baseline"]), "candidate": _count(row["candidate"]), "upper": upper, **texts}


def rules(verdict: dict[str, Any]) -> dict[str, Any]:
    """Every check, in the rule's own units."""
    rows = []
    for candidate in verdict["candidates"]:
        for check in candidate["checks"]:
            signed = ".delta" in check["rule"]
            scaled = ".ratio" in check["rule"] or ".inherited" in check["rule"]
            unit = "" if scaled or check["unit"] == "share" else check["unit"]
            value = shown(check, unit, signed)
            rows.append({
                "candidate": name(candidate["candidate"]),
                "rule": visible(check["rule"]), "against": name(check["against"]),
                "severity": "binding" if check["severity"] == "fail" else "warns only", "mark": mark_of(check),
                "value": value.text + ("" if value.text == "n/a" else suffix(unit)), "interval": value.interval,
                "detail": say(check["detail"]), "why": say(check["why"]),
            })  # fmt: skip
    return {"kind": "rules", "title": "The rules", "rows": rows, "alpha": f"{verdict['alpha']:g}",
            "several": len(verdict["candidates"]) > 1}  # fmt: skip


def reproduce(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """What made this page."""
    made, settings = comparison["provenance"], comparison["settings"]
    models = [
        {
            "role": run["role"],
            "label": visible(run["label"], 200),
            "solved": count(run["solved"]),
            "completions": count(run["completions"]),
            **{key: visible(str(run["model"].get(key) or ""), 200) for key in _IDENTITY},
        }
        for run in comparison["runs"]
    ]
    facts = [
        ("Task", str(comparison["task"])),
        ("Sampling", _listed(comparison["sampling"])),
        ("Settings", _listed({**settings, "alpha": verdict["alpha"]})),
        ("Versions", _listed(made.get("versions") or {})),
        ("Git", str(made.get("git") or "not a checkout")),
        ("Graded inputs", _listed(made.get("inputs") or {})),
        ("Time", str(made.get("time", ""))),
        ("Formats", f"{comparison['schema']}, {verdict['schema']}"),
    ]
    return {
        "kind": "reproduce", "title": "Reproduce", "command": visible(str(made.get("command", "")), 2000),
        "models": models, "facts": [(term, visible(text, 4000)) for term, text in facts],
    }  # fmt: skip


def _listed(values: dict[str, Any]) -> str:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return " · ".join(f"{key} {text}" for key, text in texts.items())
