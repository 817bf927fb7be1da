"""From the records of single runs to what the objective study stores: means, differences with intervals, drivers."""

from __future__ import annotations

from statistics import mean
from typing import Any

import numpy as np
from objective_measure import KS, crossed, curve, groups
from testbed_measure import strip

# (question, this arm, minus that arm, within which cases); a case's own start is taken off where the cases differ.
DRIVERS = (
    ("estimator: the sampled token, not the whole vocabulary", "pg_reverse_kl", "reverse_kl"),
    ("divergence on own completions: forward KL, not reverse", "forward_kl", "reverse_kl"),
    ("divergence on own completions: JSD, not reverse", "jsd", "reverse_kl"),
    ("divergence on own completions: 0.3 forward, 0.7 reverse", "blend_0.3", "reverse_kl"),
    ("data under reverse KL: half the teacher's", "reverse_kl_mix", "reverse_kl"),
    ("data under reverse KL: all the teacher's", "reverse_kl_off", "reverse_kl"),
    ("data under JSD: half the teacher's", "gkd", "jsd"),
    ("data under JSD: all the teacher's", "jsd_off", "jsd"),
    ("data under forward KL: half the teacher's", "forward_kl_mix", "forward_kl"),
    ("data under forward KL: all the teacher's", "supervised_kd", "forward_kl"),
    ("divergence on the teacher's completions: reverse, not forward", "reverse_kl_off", "supervised_kd"),
)
ACROSS = (
    ("rollouts at temperature 0.6", "rollout temperature", "reverse_kl_cool", "reverse_kl"),
    ("rollouts at temperature 1.4", "rollout temperature", "reverse_kl_hot", "reverse_kl"),
    ("four times the steps", "four times the steps", "reverse_kl", "reverse_kl"),
    ("four times the steps", "four times the steps", "pg_reverse_kl", "pg_reverse_kl"),
    ("the learning rate 0.003", "every arm at 0.003", "reverse_kl", "reverse_kl"),
    ("a wider student", "wider student", "reverse_kl", "reverse_kl"),
    ("a peaked start", "peaked start", "reverse_kl", "reverse_kl"),
)


def summarise(done: dict[str, Any], teachers: dict[str, Any]) -> dict[str, Any]:
    """Everything that is stored, case by case, and the drivers."""
    cases = {name: case_summary(found, teachers[found["case"].world]) for name, found in done.items()}
    first = next(iter(done))
    return {"cases": cases, "drivers": drivers(done, first)}


def case_summary(found: dict[str, Any], teacher: dict[str, Any]) -> dict[str, Any]:
    case, start, runs = found["case"], found["start"], found["runs"]
    member = groups(np.array(start["solutions"]))
    base = {name: values_of(start["heldout"], who) for name, who in member.items()}
    own = {arm: [row for row in runs if row["arm"] == arm] for arm in case.arms}
    picked = [
        {"arm": row["arm"], "learning_rate": row["learning_rate"], **ends(row["solved"])} for row in found["selection"]
    ]
    counts = np.array(start["solutions"])
    return {
        "world": case.world, "start": case.start, "parameters": start["parameters"], "steps": case.steps,
        "batch": case.batch, "rates": case.rates, "rates_of": case.rates_of, "seeds": case.seeds,
        "prompts": len(counts), "groups": {name: [int(who.sum()), int(counts[who].min()), int(counts[who].max())]
                                           for name, who in member.items()},
        "teacher": strip(model_summary(teacher, member)), "at_start": strip(model_summary(start["heldout"], member)),
        "selection_start": ends(start["selection"]["solved"]), "selection": picked,
        "learning_rates": found["rates"],
        "arms": {arm: strip(arm_summary(rows, member, base, own.get("reverse_kl"))) for arm, rows in own.items()},
    }  # fmt: skip


def ends(solved: list[float]) -> dict[str, float]:
    passes = curve(np.array(solved)).mean(0)
    return {"pass@1": float(passes[0]), "pass@64": float(passes[-1])}


def names() -> list[str]:
    return [*(f"pass@{k}" for k in KS), "coverage"]


def values_of(row: dict[str, Any], who: np.ndarray) -> np.ndarray:
    """[P, K + 1]: the exact curve of every prompt, then its coverage at the largest k."""
    return np.column_stack([curve(np.array(row["solved"])), row["coverage"]])[who]


def model_summary(row: dict[str, Any], member: dict[str, np.ndarray]) -> dict[str, Any]:
    found = {
        name: dict(zip(names(), values_of(row, who).mean(0).tolist(), strict=True)) for name, who in member.items()
    }
    kept = {key: row[key] for key in ("retention", "retention_by_position", "high_entropy_share")}
    return {"mean": found, **kept}


def arm_summary(
    rows: list[dict[str, Any]],
    member: dict[str, np.ndarray],
    base: dict[str, np.ndarray],
    reverse: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    each = {name: np.array([values_of(row, who) for row in rows]) for name, who in member.items()}  # [S, P, K + 1]
    found: dict[str, Any] = {
        "mean": {n: dict(zip(names(), v.mean((0, 1)).tolist(), strict=True)) for n, v in each.items()},
        "by_seed": dict(zip(names(), each["all"].mean(1).T.tolist(), strict=True)),
        "to_start": {n: by_name(v - base[n]) for n, v in each.items()},
        "retention": [row["retention"] for row in rows],
        "retention_by_position": np.mean([row["retention_by_position"] for row in rows], axis=0).tolist(),
        "high_entropy_share": mean(row["high_entropy_share"] for row in rows),
        "cost": cost(rows),
        "sampled": next((row["sampled"] for row in rows if "sampled" in row), None),
    }
    if reverse and reverse is not rows:
        other = {name: np.array([values_of(row, who) for row in reverse]) for name, who in member.items()}
        found["to_reverse_kl"] = {n: by_name(v - other[n]) for n, v in each.items()}
    return found


def by_name(change: np.ndarray) -> dict[str, list[float]]:
    """[S, P, K + 1] to name → [value, low, high]."""
    return {name: crossed(change[:, :, place]) for place, name in enumerate(names())}


def cost(rows: list[dict[str, Any]]) -> dict[str, float]:
    """From odkd's ledger, mean over seeds: FLOPs by what, tokens by whom; and CPU seconds on this machine."""
    accounts = [row["ledger"] for row in rows]
    flops = {part: mean(account["flops"].get(part, 0) for account in accounts) for part in accounts[0]["flops"]}
    return {
        "gflop": flops["all"] / 1e9,
        "gflop_rollout": flops["rollout"] / 1e9,
        "gflop_teacher": flops["teacher"] / 1e9,
        "tokens_sampled_student": mean(account["tokens_sampled"].get("student", 0) for account in accounts),
        "tokens_sampled_teacher": mean(account["tokens_sampled"].get("teacher", 0) for account in accounts),
        "tokens_trained": mean(account["tokens_trained"] for account in accounts),
        "tokens_scored_by_teacher": mean(account["tokens_scored_by_teacher"] for account in accounts),
        "cpu_seconds": mean(row["cpu_seconds"] for row in rows),
    }


def drivers(done: dict[str, Any], first: str) -> list[dict[str, Any]]:
    """What changing one thing at a time does, on the same prompts and the training seeds both sides have."""
    found = []
    for question, arm, other in DRIVERS:
        for name in done:
            if {arm, other} <= set(done[name]["case"].arms):
                change = by_name(difference(done[name], arm, done[name], other, False))
                rates = [done[name]["rates"][one] for one in (arm, other)]
                found.append({"question": question, "case": name, "arm": arm, "other": other, "rates": rates, **change})
    for question, name, arm, other in ACROSS:
        if name in done and arm in done[name]["case"].arms and other in done[first]["case"].arms:
            change = by_name(difference(done[name], arm, done[first], other, True))
            rates, where = [done[name]["rates"][arm], done[first]["rates"][other]], f"{name} against {first}"
            found.append({"question": question, "case": where, "arm": arm, "other": other, "rates": rates, **change})
    return [strip(row) for row in found]


def difference(case: dict[str, Any], arm: str, other_case: dict[str, Any], other: str, own_start: bool) -> np.ndarray:
    """[S, P, K + 1]; with `own_start`, each arm is first compared with the start it came from."""
    seeds = [seed for seed in case["case"].seeds if seed in other_case["case"].seeds]
    parts = []
    for found, name in ((case, arm), (other_case, other)):
        rows = {row["seed"]: row for row in found["runs"] if row["arm"] == name}
        everyone = np.ones(len(found["start"]["solutions"]), bool)
        taken = values_of(found["start"]["heldout"], everyone) if own_start else 0.0
        parts.append(np.array([values_of(rows[seed], everyone) - taken for seed in seeds]))
    return np.asarray(parts[0] - parts[1])
