"""What a rule reads from a comparison: the values it judges, their one-sided bounds, and a p value for its failure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from odeval.curves import Scope
from odeval.metrics import METRICS
from odeval.rules import Rule
from odeval.stats import t_quantile

_FLAT = 1e-12


@dataclass(frozen=True, slots=True)
class Levels:
    """One-sided error rates.

    Attributes:
        fail: Of calling a rule broken that holds.
        hold: Of calling a rule kept that is broken.
    """

    fail: float
    hold: float


@dataclass(frozen=True, eq=False)
class Bounds:
    """J points that a rule judges together.

    Attributes:
        value: [J].
        inner: [J] the bound a PASS needs inside the limit, each point on its own.
        outer: [J] the bound a FAIL needs beyond it, corrected for the search over the points.
        ks: [J] k of each point, 0 where the rule has none.
        p_fail: Smallest level at which the rule would FAIL.
        prompts: How many the values rest on.
        problem: Why nothing could be measured, "" if it could.
    """

    value: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    ks: np.ndarray
    p_fail: float
    prompts: int
    problem: str = ""


def unmeasured(reason: str) -> Bounds:
    nothing = np.zeros(0)
    return Bounds(nothing, nothing, nothing, nothing, 1.0, 0, reason)


def bounds_of(run: dict[str, Any], pair: dict[str, Any] | None, rule: Rule, levels: Levels, scope: str) -> Bounds:
    """Find what a rule judges.

    Args:
        run: The candidate, one of comparison["runs"].
        pair: It against the reference, for rules with a form such as delta; None otherwise.
        rule: Parsed.
        levels: Error rates.
        scope: For rules on the difference of pass@k: "benchmark" or "population".
    """
    if rule.metric == "pass" and pair is not None and rule.form == "delta":
        return _curve(pair, rule, levels, scope)
    if rule.metric == "pass":
        return _listed(run, pair, rule, levels)
    name = f"{rule.metric}@{rule.at}" if rule.at else rule.metric
    entry = (run if pair is None else pair)["metrics"].get(name)
    if entry is None:
        remedy = "; run `odeval score`" if METRICS[rule.metric].table == "tokens" else ""
        return unmeasured(f"{name} was not measured{remedy}")
    item = entry if pair is None else entry["difference" if rule.form == "delta" else "ratio"]
    if pair is None and METRICS[rule.metric].fact and item["value"] is not None:
        # A fact about this run is known exactly; there is nothing to infer.
        value = np.array([item["value"]])
        broken = bool((value[0] < rule.limit) if rule.at_least else (value[0] > rule.limit))
        return Bounds(value, value, value, np.zeros(1), 0.0 if broken else 1.0, item["n"])
    return _points([item], np.zeros(1), rule, levels, name)


def _listed(run: dict[str, Any], pair: dict[str, Any] | None, rule: Rule, levels: Levels) -> Bounds:
    """pass@k itself, its ratio, or the inherited share: separate estimates per k, Bonferroni over them."""
    if pair is None:
        curve = run["pass_at_k"]
        ks, items = curve["k"], [{key: curve[key][j] for key in curve if key != "k"} for j in range(len(curve["k"]))]
    else:
        curve = pair["pass_at_k"]
        ks, items = curve["shares_k"], curve[rule.form]
    first = 2 if rule.form == "inherited" else 1  # at k = 1 there is no gain to inherit
    wanted = [j for j, k in enumerate(ks) if rule.at in ("k", str(k)) and k >= first]
    if not wanted:
        return unmeasured(f"pass@{rule.at} was not measured; add it to --ks")
    return _points([items[j] for j in wanted], np.array([ks[j] for j in wanted]), rule, levels, f"pass@{rule.at}")


def _points(items: list[dict[str, Any]], ks: np.ndarray, rule: Rule, levels: Levels, name: str) -> Bounds:
    unknown = next((item for item in items if item["value"] is None or item["low"] is None), None)
    if unknown is not None:
        return unmeasured(
            f"{name}{'.' + rule.form if rule.form else ''} is unknown: {unknown['caution'] or 'no interval'}"
        )
    value = np.array([item["value"] for item in items])
    sign = 1.0 if rule.at_least else -1.0
    degrees = np.maximum([item["degrees"] for item in items], 1)
    spread = np.array([item["se"] for item in items])
    # Where nothing varies, the two-sided interval of the comparison already is the bound of "0 of n".
    floor = np.array(
        [(item["value"] - item["low"]) if rule.at_least else (item["high"] - item["value"]) for item in items]
    )
    flat = spread < _FLAT
    inner = np.where(flat, floor, spread * t_quantile(degrees, 1 - levels.hold))
    outer = np.where(flat, floor, spread * t_quantile(degrees, 1 - levels.fail / len(items)))
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = -sign * (value - rule.limit)
        p_values = np.where(flat, np.where(beyond > floor, 0.0, 1.0), special.stdtr(degrees, -beyond / spread))
    p_fail = min(1.0, float(p_values.min()) * len(items))
    least, most = _range(rule)
    inside, outside = (np.clip(value + shift, least, most) for shift in (-sign * inner, sign * outer))
    return Bounds(value, inside, outside, ks, p_fail, min(item["n"] for item in items))


def _range(rule: Rule) -> tuple[float, float]:
    """What the judged quantity can be at all; bounds are cut to it."""
    low, high = (0.0, 1.0) if rule.metric == "pass" else METRICS[rule.metric].bounds
    if rule.form == "delta":
        return low - high, high - low
    return (low, high) if not rule.form else (0.0 if rule.form == "ratio" else -math.inf, math.inf)


def _curve(pair: dict[str, Any], rule: Rule, levels: Levels, scope: str) -> Bounds:
    curve, whole = pair["pass_at_k"], scope_of(pair, scope)
    judged = curve[scope]["judged"]["k"]
    known = whole.known()
    wanted = [j for j, k in enumerate(judged) if rule.at in ("k", str(k)) and known[j]]
    if not wanted:
        n = min(pair["n"].values())
        return unmeasured(
            f"pass@{rule.at} cannot be judged with {n} samples a prompt: it needs n >= 2k, and k among --ks"
        )
    own, ks = whole.at(wanted), np.array(judged)[wanted]
    value = np.array([curve["difference"][curve["k"].index(k)] for k in ks], dtype=float)
    if not np.isfinite(value).all():
        return unmeasured("no prompt has enough graded samples for this k")
    return judged_curve(value, own, ks, rule, levels, pair["prompts"])


def judged_curve(value: np.ndarray, own: Scope, ks: np.ndarray, rule: Rule, levels: Levels, prompts: int) -> Bounds:
    """Bounds of a paired difference [J] with its uncertainty: single ones inside, simultaneous ones beyond."""
    sign = 1.0 if rule.at_least else -1.0
    inner = own.half_width(1 - levels.hold, two_sided=False, simultaneous=False)
    outer = own.half_width(1 - levels.fail, two_sided=False)
    p_fail = own.p_value(-sign * (value - rule.limit))
    return Bounds(value, value - sign * inner, value + sign * outer, ks, p_fail, prompts)


def scope_of(pair: dict[str, Any], name: str) -> Scope:
    """Rebuild a pair's uncertainty from the comparison."""
    found = pair["pass_at_k"][name]["judged"]
    return Scope(*(np.array(found[key], dtype=float) for key in ("covariance", "degrees", "trials", "scale")))


def collapsed(pair: dict[str, Any], margin: float, alpha: float, scope: str) -> bool:
    """pass@1 is not shown to be worse, and some larger k is worse by more than the margin."""
    curve, own = pair["pass_at_k"], scope_of(pair, scope)
    judged = curve[scope]["judged"]["k"]
    if 1 not in judged or len(judged) < 2:
        return False
    value = np.array([curve["difference"][curve["k"].index(k)] for k in judged], dtype=float)
    high = value + own.half_width(1 - alpha, two_sided=False)
    return bool(high[0] >= 0 and (high[1:] < -margin).any())


def prompts_needed(value: float, inner: float, limit: float, prompts: int) -> float:
    """How many prompts would bring the bound to the limit, if the truth is what was measured; inf where none would."""
    distance, half = abs(value - limit), abs(value - inner)
    return math.inf if distance == 0 else prompts * (half / distance) ** 2
