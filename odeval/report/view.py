"""Comparison + verdict → what the first screen says: the verdict in words, four numbers a candidate, what comes next.

Pure and without markup: templates only lay out what is prepared here and in `report_sections`.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from odeval.config import RuleConfig
from odeval.errors import OdevalError
from odeval.report.numbers import count
from odeval.rules import Rule, parse_rule
from odeval.visible import shortened, visible

DRAWN = 6  # candidates that figures and sentences can hold; tables hold all
_NAME = 40  # characters of a run's name in a sentence
_LINES = 6  # candidates that get a sentence of their own on the first screen
_NAMES = 12  # candidates that are named there
_DETAILS = 4  # checks of one rule that are told there
_ORDER = ("FAIL", "INCONCLUSIVE", "PASS")


@dataclass(frozen=True, slots=True)
class Mark:
    """A verdict that needs no colour to be read."""

    sign: str
    word: str
    kind: str  # of the style sheet: pass, fail, open


MARKS = {
    "PASS": Mark("✓", "PASS", "pass"),
    "FAIL": Mark("✕", "FAIL", "fail"),
    "INCONCLUSIVE": Mark("?", "INCONCLUSIVE", "open"),
}
_WARNING = Mark("!", "WARNING", "open")
_TRUST = {
    "ok": Mark("✓", "ok", "pass"),
    "warn": Mark("!", "attention", "open"),
    "block": Mark("✕", "blocks the verdict", "fail"),
}
_UNSURE = Mark("?", "not known", "open")


def name(label: str) -> str:
    return shortened(label, _NAME)


def say(text: str) -> str:
    """A sentence of the verdict, safe and with typographic minus signs."""
    return re.sub(r"(?<![\w.-])-(?=[\d.])", "−", visible(text, 600))


def mark_of(check: dict[str, Any]) -> Mark:
    """The mark of a check; a failed rule that only warns is a warning."""
    return _WARNING if check["severity"] == "warn" and check["verdict"] == "FAIL" else MARKS[check["verdict"]]


def parsed(check: dict[str, Any]) -> Rule | None:
    """The rule of a check; None when this version does not know its metric."""
    with contextlib.suppress(OdevalError):
        return parse_rule(RuleConfig(rule=check["rule"]))
    return None


def percent(confidence: float) -> str:
    return f"{100 * confidence:g}%"


def ranked(verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """Candidates of a verdict, the worst first, otherwise in their order."""
    return sorted(verdict["candidates"], key=lambda candidate: _ORDER.index(candidate["verdict"]))


def drawn(verdict: dict[str, Any]) -> list[str]:
    """Candidates that the figures show, the worst first."""
    return [candidate["candidate"] for candidate in ranked(verdict)][:DRAWN]


def header(comparison: dict[str, Any]) -> list[tuple[str, str]]:
    """The strip at the top: who was asked what, how, when."""
    sampling, made = comparison["sampling"], comparison["provenance"]
    models = [
        (run["role"], "@".join(filter(None, (name(run["label"]), visible(run["model"].get("fingerprint", "")[:8])))))
        for run in comparison["runs"]
    ]
    several = sum(role == "candidate" for role, _ in models) > 1
    models = [(role, text) for role, text in models if not (several and role == "candidate")]
    kept = {key: sampling.get(key) for key in ("temperature", "top_p", "top_k", "max_tokens")}
    drawn = " ".join(f"{key}={'off' if key == 'top_k' and not value else value}" for key, value in kept.items())
    return [
        *models,
        ("task", visible(str(comparison["task"]), 60)),
        ("", f"{count(comparison['prompts'])} prompts × {count(sampling.get('n'))} samples"),
        ("", drawn),
        ("", visible(str(made.get("time", ""))[:10])),
    ]


def banner(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """The verdict in words."""
    worst = ranked(verdict)
    alone = len(worst) == 1
    deciding = _deciding(worst[0])
    term = {"FAIL": "Decided by", "PASS": "Holds"}.get(worst[0]["verdict"], "Undecided")
    facts = _facts(term, [(worst[0], deciding)] if deciding else [], alone)
    warnings = [(one, check) for one in worst for check in one["checks"] if mark_of(check) is _WARNING]
    told = [one for one in worst if one["verdict"] == worst[0]["verdict"]]
    text, command = next_step(comparison, verdict["verdict"], deciding)
    return {
        "mark": MARKS[verdict["verdict"]],
        "title": name(worst[0]["candidate"]) if alone else "",
        "alone": alone,
        "diagnosis": visible(worst[0]["diagnosis"]) if alone else "",
        "collapse": any(one["diagnosis"] == "COLLAPSE" for one in worst),
        "lines": [
            {"name": name(one["candidate"]), "text": say(one["headline"]), "diagnosis": visible(one["diagnosis"])}
            for one in told[:_LINES]
        ],
        "more": len(told) > _LINES,
        "others": [
            {"mark": MARKS[word], "names": _names([one for one in worst if one["verdict"] == word])}
            for word in _ORDER
            if word != worst[0]["verdict"] and any(one["verdict"] == word for one in worst)
        ],
        "facts": facts + _facts("Warning", warnings, alone),
        "next": text,
        "command": command,
    }


def _names(candidates: Sequence[dict[str, Any]]) -> str:
    listed = ", ".join(name(one["candidate"]) for one in candidates[:_NAMES])
    return f"{listed} and more" if len(candidates) > _NAMES else listed


def _facts(term: str, checks: Sequence[tuple[dict[str, Any], dict[str, Any]]], alone: bool) -> list[dict[str, Any]]:
    """Checks in words, those of one rule together."""
    found = []
    for rule in dict.fromkeys(check["rule"] for _, check in checks):
        own = [(one, check) for one, check in checks if check["rule"] == rule]
        texts = [{"who": "" if alone else name(one["candidate"]), "text": say(check["detail"])} for one, check in own]
        found.append({"term": term, "rule": visible(rule), "why": say(own[0][1]["why"]), "texts": texts[:_DETAILS],
                      "more": len(texts) > _DETAILS})  # fmt: skip
    return found


def _deciding(candidate: dict[str, Any]) -> dict[str, Any] | None:
    """The binding check that gives the verdict; of a PASS, the first one."""
    binding = [check for check in candidate["checks"] if check["severity"] == "fail"] or candidate["checks"]
    return next((check for check in binding if check["verdict"] == candidate["verdict"]), None)


def next_step(comparison: dict[str, Any], verdict: str, deciding: dict[str, Any] | None) -> tuple[str, str]:
    """What to do now, and the command for it."""
    command = str(comparison["provenance"].get("command", ""))
    audited = command.startswith(("odeval audit", "odeval demo"))
    if verdict == "INCONCLUSIVE" and audited:
        detail = "" if deciding is None else deciding["detail"]
        more = "-n MORE_SAMPLES" if "samples" in detail else "--limit MORE_PROMPTS"
        return "draw more and judge again; what was sampled is kept", visible(f"{command} {more}", 400)
    if verdict == "INCONCLUSIVE":
        return "sample more prompts or more completions, then compare and judge again", "odeval gate COMPARISON"
    if verdict == "PASS":
        return "hold every later checkpoint to the same rules", "odeval gate COMPARISON --strict"
    text = "read the lost prompts below, then audit another objective with the same settings"
    return text, _audit(comparison, command)


def _audit(comparison: dict[str, Any], command: str) -> str:
    """The same audit with another student: the recorded command where it names the students, else one put together."""
    paths = {str(run["model"].get("path")) for run in comparison["runs"] if run["role"] == "candidate"}
    with contextlib.suppress(ValueError):
        words = shlex.split(command)
        if words[:2] == ["odeval", "audit"] and paths & set(words):
            kept = [word for word in words[2:] if word not in paths]
            return visible(" ".join(["odeval audit NEW_STUDENT", *map(shlex.quote, kept)]), 400)
    models = {run["role"]: str(run["model"].get("path")) for run in comparison["runs"]}
    named = [f"--{role} {shlex.quote(models[role])}" for role in ("teacher", "baseline") if role in models]
    named.append(f"--task {shlex.quote(str(comparison['task']))}")
    return visible(" ".join(["odeval audit NEW_STUDENT", *named]), 400)


def trust(comparison: dict[str, Any]) -> dict[str, Any]:
    """The trust panel, and in one line what is not ok."""
    rows = [
        {"check": visible(row["check"], 200), "mark": _TRUST.get(row["status"], _UNSURE), "detail": say(row["detail"])}
        for row in comparison["trust"]
    ]
    worst = (_TRUST["block"], _TRUST["warn"], _UNSURE)
    doubts = [row for mark in worst for row in rows if row["mark"] is mark]
    return {"rows": rows, "doubts": doubts, "ok": not doubts}
