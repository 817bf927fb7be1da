"""What the objective study says, in sentences that are chosen and filled in by the numbers."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean
from typing import Any

from testbed_report import crossing, interval, sign, verdict

REVERSE = ("reverse_kl", "pg_reverse_kl")


def findings(cases: dict[str, Any], drivers: list[dict[str, Any]]) -> list[str]:
    """One paragraph a question."""
    first = next(iter(cases))
    return [
        common_story(cases),
        at_every_rate(cases),
        at_one_rate(cases),
        by_verdict(cases),
        fronts(cases),
        few_and_many(first, cases[first]),
        driven_by(drivers),
        dearest(first, cases[first]),
    ]


def common_story(cases: dict[str, Any]) -> str:
    """Does reverse KL lower pass@k? Case by case."""
    told, holds, broken = [], [], []
    seen = set()  # an arm at its own rate may stand in a case of one rate for all as well
    for name, case in cases.items():
        for arm in case["arms"]:
            run = (case["world"], case["start"], case["steps"], arm, case["learning_rates"][arm])
            if arm.startswith(REVERSE) and not arm.endswith(("_off", "_mix")) and run not in seen:
                seen.add(run)
                change = case["arms"][arm]["to_start"]["all"]
                where = f"`{arm}` ({name})"
                (holds if sign(change["pass@64"]) < 0 else broken).append(where)
                told.append(
                    f"{where} {verdict(change['pass@1'], change['pass@64'])}, pass@1 {interval(change['pass@1'])}, "
                    f"pass@64 {interval(change['pass@64'])}{crossing(change)}"
                )
    head = (
        f"**The common story, that on-policy reverse KL lowers pass@64, holds in {len(holds)} of {len(told)} arms.** "
    )
    if broken:
        head += f"It does not hold for {', '.join(broken)}. "
    return head + "; ".join(told) + "."


def at_every_rate(cases: dict[str, Any]) -> str:
    """Is the loss of pass@64 one of the learning rate?"""
    told = []
    for name, case in cases.items():
        own = [row for row in case["selection"] if row["arm"] == "reverse_kl"]
        if len(own) > 1:
            before = case["selection_start"]
            moved = [
                f"{row['learning_rate']:g} gives pass@1 {row['pass@1'] - before['pass@1']:+.3f} and pass@64 "
                f"{row['pass@64'] - before['pass@64']:+.3f}".replace("-", "−")
                for row in sorted(own, key=lambda row: float(row["learning_rate"]))
            ]
            told.append(f"{name}: {', '.join(moved)}")
    return (
        "**How much of it is the learning rate.** Under `reverse_kl`, on the selection prompts and one training seed, "
        f"minus the start. {'; '.join(told)}."
    )


def at_one_rate(cases: dict[str, Any]) -> str:
    """All arms at the rate that reverse KL was given: the divergence without the choice of a rate."""
    told = []
    for name, case in cases.items():
        rate = case["learning_rates"].get("reverse_kl")
        rows = [row for row in case["selection"] if row["learning_rate"] == rate]
        if len(rows) > 1 and len(case["rates"]) > 1:
            before = case["selection_start"]["pass@64"]
            ranked = sorted(rows, key=lambda row: float(row["pass@64"]))
            moved = [f"`{row['arm']}` {row['pass@64'] - before:+.3f}".replace("-", "−") for row in ranked]
            shown = moved if len(moved) <= 8 else [*moved[:4], "…", *moved[-4:]]
            told.append(f"{name} at {rate:g}: {', '.join(shown)}")
    return (
        "**All arms at the rate of `reverse_kl`**, pass@64 minus the start on the selection prompts, one training "
        f"seed, lowest and highest. {'; '.join(told)}."
    )


def by_verdict(cases: dict[str, Any]) -> str:
    """What became of the two ends of the curve, arm by arm."""
    told = []
    for name, case in cases.items():
        groups: dict[str, list[str]] = {}
        for arm, row in case["arms"].items():
            change = row["to_start"]["all"]
            groups.setdefault(verdict(change["pass@1"], change["pass@64"]), []).append(f"`{arm}`")
        told.append(f"- {name}: " + "; ".join(f"{word}: {', '.join(arms)}" for word, arms in groups.items()) + ".")
    return "**Each arm against its start**, pass@1 and pass@64 by their intervals:\n\n" + "\n".join(told)


def fronts(cases: dict[str, Any]) -> str:
    """Which arms nothing else beats at both ends."""
    told = []
    for name, case in cases.items():
        means = {arm: row["mean"]["all"] for arm, row in case["arms"].items()}
        best = ", ".join(
            f"`{arm}`" for arm in pareto((arm, row["pass@1"], row["pass@64"]) for arm, row in means.items())
        )
        against = {arm: row["to_reverse_kl"]["all"] for arm, row in case["arms"].items() if "to_reverse_kl" in row}
        both = [arm for arm, change in against.items() if beats(change)]
        told.append(
            f"{name}: {best}; clearly above `reverse_kl` at both ends: "
            + (", ".join(f"`{arm}`" for arm in both) if both else "none")
        )
    return "**Arms that no other beats at both pass@1 and pass@64**, by case. " + ". ".join(told) + "."


def beats(change: dict[str, Any]) -> bool:
    return sign(change["pass@1"]) > 0 and sign(change["pass@64"]) > 0


def few_and_many(name: str, case: dict[str, Any]) -> str:
    """Where the loss lies."""
    sizes = case["groups"]
    told = []
    for arm in ("reverse_kl", "pg_reverse_kl", "forward_kl", "gkd"):
        if arm in case["arms"]:
            change = case["arms"][arm]["to_start"]
            told.append(
                f"`{arm}` pass@64 {interval(change['few']['pass@64'])} against {interval(change['many']['pass@64'])}, "
                f"pass@1 {interval(change['few']['pass@1'])} against {interval(change['many']['pass@1'])}"
            )
    return (
        f"**Few against many solutions** ({name}; {sizes['few'][0]} prompts with up to {sizes['few'][2]}, "
        f"{sizes['many'][0]} with {sizes['many'][1]} or more): {'; '.join(told)}."
    )


def driven_by(drivers: list[dict[str, Any]]) -> str:
    """The single changes by the size of what they do to pass@64."""
    ranked = sorted(drivers, key=lambda row: -abs(row["pass@64"][0]))
    clear = [row for row in ranked if sign(row["pass@64"])]
    told = [f"{row['question']} ({row['case']}) {interval(row['pass@64'])}" for row in clear[:5]]
    unclear = [f"{row['question']} ({row['case']})" for row in ranked if not sign(row["pass@64"])]
    text = f"**What drives pass@64**, largest first: {'; '.join(told)}."
    return text + (f" No clear effect: {'; '.join(unclear)}." if unclear else "")


def dearest(name: str, case: dict[str, Any]) -> str:
    """What the arms cost, from the ledger."""
    spent = {arm: row["cost"]["gflop"] for arm, row in case["arms"].items()}
    low, high = min(spent, key=lambda arm: spent[arm]), max(spent, key=lambda arm: spent[arm])
    share = mean(row["cost"]["gflop_teacher"] / row["cost"]["gflop"] for row in case["arms"].values())
    return (
        f"**Cost** ({name}): equal updates and completions are {spent[low]:.0f} GFLOP for `{low}` and "
        f"{spent[high]:.0f} for `{high}`; running the teacher over the completions is {share:.0%} of it on average, "
        "since the students are so much smaller."
    )


def pareto(points: Iterable[tuple[str, float, float]]) -> list[str]:
    """Names that no other beats in both numbers."""
    known = list(points)
    return [
        name
        for name, a, b in known
        if not any(x >= a and y >= b and (x, y) != (a, b) for other, x, y in known if other != name)
    ]
