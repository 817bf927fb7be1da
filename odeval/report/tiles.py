"""The four numbers of a candidate: pass@1, pass@k at the largest k, prompts lost, branch points kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from odeval.lookup import band_of, judged_ks, pair_of, run_of, scope_of
from odeval.report.numbers import UNKNOWN, Shown, at, count, shown
from odeval.report.view import Mark, mark_of, name, parsed, percent
from odeval.rules import Rule
from odeval.visible import visible

Checks = Sequence[tuple[dict[str, Any], Rule]]


@dataclass(frozen=True, slots=True)
class Tile:
    """One of the four numbers of a candidate.

    Attributes:
        title: What it is.
        number: The value.
        explained: The interval's name, or what the value counts.
        context: The two values behind a difference, or a sentence.
        mark: Where a rule covers it.
        rule: That rule.
        reach: How far along the curve the rule reaches, where that is short of this number.
    """

    title: str
    number: Shown
    explained: str
    context: str
    mark: Mark | None = None
    rule: str = ""
    reach: str = ""


def tiles(comparison: dict[str, Any], verdict: dict[str, Any], judgement: dict[str, Any]) -> list[Tile]:
    """The four numbers of one candidate."""
    label = judgement["candidate"]
    checks = [(check, rule) for check in judgement["checks"] if (rule := parsed(check)) is not None]
    pair = pair_of(comparison, label, "baseline", "teacher")
    ks = comparison["settings"]["ks"]
    ends = [0] if len(ks) == 1 else [0, len(ks) - 1]
    found = [_difference(comparison, pair, j, checks, scope_of(verdict)) for j in ends]
    if len(ends) == 1:
        found.append(Tile("larger k", Shown(UNKNOWN, note="only one k was evaluated"), "", ""))
    return [*found, _lost(comparison, label), _retention(comparison, label, checks)]


def across(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same number of every candidate side by side, one column a candidate."""
    found = []
    for own in zip(*(row["tiles"] for row in rows), strict=True):
        told = next((tile for tile in own if tile.explained), own[0])
        found.append({"title": told.title, "explained": told.explained, "tiles": own})
    return found


def _difference(comparison: dict[str, Any], pair: dict[str, Any] | None, j: int, checks: Checks, scope: str) -> Tile:
    k = comparison["settings"]["ks"][j]
    if pair is None:
        return Tile(f"pass@{k}", Shown(UNKNOWN, note="nothing to compare with"), "", "")
    curve, band = pair["pass_at_k"], band_of(pair, scope)
    item = {"value": curve["difference"][j], "low": band["low"][j], "high": band["high"][j]}
    ends = [shown({"value": curve[side][j]}, "share", full=True).text for side in ("baseline", "candidate")]
    mark, rule, reach = _cover(checks, pair["baseline"], k, judged_ks(pair, scope))
    return Tile(
        f"pass@{k} against {name(pair['baseline'])}", shown(item, "share", signed=True, full=True),
        f"{percent(comparison['settings']['confidence'])} band",
        f"from {ends[0]} to {ends[1]}", mark, rule, reach,
    )  # fmt: skip


def _cover(checks: Checks, against: str, k: int, judged: Sequence[int]) -> tuple[Mark | None, str, str]:
    """The rule that covers a point of the curve, and how far it reaches.

    A rule over every k that passed holds at each judged k; one that failed says which k it failed at, and is shown
    with the far end of the curve.
    """
    for check, rule in checks:
        if rule.metric != "pass" or rule.form != "delta" or check["against"] != against:
            continue
        if rule.at == str(k):
            return mark_of(check), visible(rule.text), ""
        if rule.at == "k" and (k != 1 or check["verdict"] == "PASS"):
            last = judged[-1] if judged and k > judged[-1] else None
            decided = check.get("k")
            words = [] if decided in (None, k) else [f"decided at {at(decided)}"]
            words += [] if last is None else ["the last one judged" if decided == last else f"judged up to {at(last)}"]
            return mark_of(check), visible(rule.text), ", ".join(words)
    return None, "", ""


def _lost(comparison: dict[str, Any], label: str) -> Tile:
    pair = pair_of(comparison, label, "teacher", "baseline")
    if pair is None:
        return Tile("Prompts lost", Shown(UNKNOWN, note="nothing to compare with"), "", "")
    missed, solved = pair["solved"]["baseline_only"], run_of(comparison, pair["baseline"])["solved"]
    text = UNKNOWN if missed is None else f"{missed} of {count(solved)}"
    never = {(row["candidate"]["n"], row["upper"]) for row in pair["lost_prompts"]}
    context = "no such prompt"
    if len(never) == 1:
        n, upper = never.pop()
        context = (
            f"never is 0 of {count(n)}: the true rate may be up to {shown({'value': upper}, 'share', full=True).text}"
        )
    elif never:
        context = "each may still be solved rarely: see the table"
    return Tile("Prompts lost", Shown(text), f"solved by {name(pair['baseline'])}, never by the candidate", context)


def _retention(comparison: dict[str, Any], label: str, checks: Checks) -> Tile:
    item = run_of(comparison, label)["metrics"].get("retention@teacher")
    title = "Branch points kept"
    if item is None:
        return Tile(title, Shown(UNKNOWN, note="tokens are not scored; odeval score makes it known"), "", "")
    covering = (check for check, rule in checks if (rule.metric, rule.at, rule.form) == ("retention", "teacher", ""))
    check = next(covering, None)
    tau = f"{comparison['settings']['threshold']:g} nats"
    return Tile(
        title, shown(item, item["unit"], full=True), f"{percent(comparison['settings']['confidence'])} CI",
        f"of the teacher's tokens with entropy ≥ {tau}",
        None if check is None else mark_of(check), "" if check is None else visible(check["rule"]),
    )  # fmt: skip
