"""Comparison × rules → verdict. Three answers: PASS, FAIL, or INCONCLUSIVE with what would settle it.

A rule is judged by one-sided bounds at level α. FAIL needs the whole interval beyond the limit, PASS needs it
inside, and anything else is INCONCLUSIVE: a check that could not measure never passes. A rule over the pass@k curve
fails by a simultaneous bound (the first crossing must survive the search over k) and passes when every k passes on
its own, which needs no correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as distributions

from odeval.atomic import read_json
from odeval.compare import SCHEMA as COMPARISON
from odeval.config import GateConfig
from odeval.curves import Scope
from odeval.errors import CannotJudge, OdevalError
from odeval.metrics import METRICS
from odeval.rules import DEFAULT_RULES, Rule, parse_rule
from odeval.trust import TOO_FEW_PROMPTS
from odeval.types import Check, Judgement, Verdict

SCHEMA = "odeval.verdict/1"

Result = tuple[Verdict, float, float, float, str]


def judge(comparison: dict[str, Any], rules: GateConfig = DEFAULT_RULES, where: str = "rules") -> list[Judgement]:
    """Judge every candidate of a comparison.

    Args:
        comparison: From `compare`.
        rules: What must hold.
        where: Name of the rules file, for errors.

    Returns:
        One judgement a candidate, in order.

    Raises:
        OdevalError: A rule is malformed.
        CannotJudge: A trust check blocks, a rule needs a run that is not there, or there is no candidate.
    """
    parsed = [parse_rule(rule, where) for rule in rules.rules]
    blocked = [f"{item['check']}: {item['detail']}" for item in comparison["trust"] if item["status"] == "block"]
    if blocked:
        raise CannotJudge("the runs cannot be trusted: " + "; ".join(blocked))
    candidates = [run for run in comparison["runs"] if run["role"] == "candidate"]
    if not candidates:
        raise CannotJudge("the comparison holds no candidate")
    return [_judge(comparison, run, parsed, rules.alpha, rules.scope) for run in candidates]


def _judge(
    comparison: dict[str, Any], run: dict[str, Any], rules: Sequence[Rule], alpha: float, scope: str
) -> Judgement:
    checks = tuple(_check(comparison, run, rule, alpha, scope) for rule in rules)
    binding = [check.verdict for check in checks if check.severity == "fail"]
    verdict: Verdict = "FAIL" if "FAIL" in binding else "INCONCLUSIVE" if "INCONCLUSIVE" in binding else "PASS"
    margins = [-rule.limit for rule in rules if rule.metric == "pass" and rule.form == "delta" and rule.at_least]
    pair = _pair(comparison, run, "auto")
    collapsed = bool(margins) and _collapsed(pair, max(margins[0], 0.0), alpha, scope)
    return Judgement(
        run["label"],
        verdict,
        _headline(verdict, collapsed, pair, checks),
        "COLLAPSE" if collapsed else "",
        checks,
    )


def _pair(comparison: dict[str, Any], run: dict[str, Any], against: str) -> dict[str, Any]:
    own = {pair["role"]: pair for pair in comparison["pairs"] if pair["candidate"] == run["label"]}
    if against == "auto":
        against = "baseline" if "baseline" in own else "teacher"
    if against not in own:
        raise CannotJudge(f"{run['label']}: a rule compares with the {against}, but no {against} run was given")
    found: dict[str, Any] = own[against]
    return found


def _check(comparison: dict[str, Any], run: dict[str, Any], rule: Rule, alpha: float, scope: str) -> Check:
    pair = _pair(comparison, run, rule.config.against) if rule.form else None
    if rule.metric == "pass":
        result = _pass_bounds(pair, run, rule, alpha, scope)
        unit = "share"
    else:
        name = f"{rule.metric}@{rule.at}" if rule.at else rule.metric
        result = _metric_bounds(pair["metrics"].get(name) if pair else run["metrics"].get(name), name, rule, alpha)
        unit = METRICS[rule.metric].unit
    verdict, value, low, high, detail = result
    if verdict == "PASS" and comparison["prompts"] < TOO_FEW_PROMPTS and not _is_fact(rule):
        verdict, detail = (
            "INCONCLUSIVE",
            f"{comparison['prompts']} prompts are too few for a PASS; use at least {TOO_FEW_PROMPTS}",
        )
    against = pair["baseline"] if pair else ""
    return Check(rule.text, verdict, rule.config.severity, against, value, low, high, unit, detail, rule.config.why)


def _is_fact(rule: Rule) -> bool:
    return rule.metric != "pass" and METRICS[rule.metric].fact and not rule.form


def _unmeasured(reason: str) -> Result:
    return "INCONCLUSIVE", math.nan, math.nan, math.nan, reason


def _metric_bounds(entry: dict[str, Any] | None, name: str, rule: Rule, alpha: float) -> Result:
    if entry is None:
        return _unmeasured(
            f"{name} was not measured" + ("; run `odeval score`" if METRICS[rule.metric].table == "tokens" else "")
        )
    item = entry["difference"] if rule.form else entry
    if item["value"] is None:
        return _unmeasured(f"{name} is unknown: {item['caution']}")
    value = item["value"]
    if _is_fact(rule):
        return _decide(rule, np.array([value]), np.array([value]), np.array([value]), np.array([1]), item["n"])
    if item["low"] is None:
        return _unmeasured(f"{name} is {value:.3g}, but without an interval: {item['caution']}")
    if item["se"] == 0 or item["caution"]:
        half = value - item["low"] if rule.at_least else item["high"] - value
    else:
        half = item["se"] * distributions.t.ppf(1 - alpha, max(item["degrees"], 1))
    at = np.array([value])
    return _decide(rule, at, at - half, at + half, np.array([1]), item["n"])


def _pass_bounds(pair: dict[str, Any] | None, run: dict[str, Any], rule: Rule, alpha: float, scope: str) -> Result:
    if pair is None:
        curve = run["pass_at_k"]
        wanted = [j for j, k in enumerate(curve["k"]) if rule.at in ("k", str(k))]
        if not wanted:
            return _unmeasured(f"pass@{rule.at} was not measured; add it to --ks")
        columns = {key: np.array([curve[key][j] for j in wanted], dtype=float) for key in ("value", "low", "high")}
        ks = np.array(curve["k"])[wanted]
        return _decide(rule, columns["value"], columns["low"], columns["high"], ks, run["completions"])
    curve, own = pair["pass_at_k"], scope_of(pair, scope)
    judged = pair["pass_at_k"][scope]["judged"]["k"]
    wanted = [j for j, k in enumerate(judged) if rule.at in ("k", str(k)) and own.known()[j]]
    if not wanted:
        n = min(pair["n"].values())
        return _unmeasured(
            f"pass@{rule.at} cannot be judged with {n} samples a prompt: it needs n >= 2k, and k among --ks"
        )
    own = own.at(wanted)
    ks = np.array(judged)[wanted]
    value = np.array([curve["difference"][curve["k"].index(k)] for k in ks], dtype=float)
    # Each side has its own half-width: a failure must survive the search over k, a pass must hold at every k.
    reach = own.half_width(1 - alpha, two_sided=False, simultaneous=False)
    far = own.half_width(1 - alpha, two_sided=False)
    low, high = (value - reach, value + far) if rule.at_least else (value - far, value + reach)
    return _decide(rule, value, low, high, ks, pair["prompts"])


def scope_of(pair: dict[str, Any], name: str) -> Scope:
    """Rebuild a pair's uncertainty from the comparison."""
    found = pair["pass_at_k"][name]["judged"]
    return Scope(*(np.array(found[key], dtype=float) for key in ("covariance", "degrees", "trials", "scale")))


def _decide(rule: Rule, value: np.ndarray, low: np.ndarray, high: np.ndarray, ks: np.ndarray, prompts: int) -> Result:
    """Compare bounds [J] with the limit; the point that decides is the one reported."""
    if not np.isfinite(value).all():
        return _unmeasured("some prompts have too few graded samples for this k")
    sign = 1.0 if rule.at_least else -1.0
    inner, outer = (low, high) if rule.at_least else (high, low)
    failing = sign * (outer - rule.limit) < 0
    passing = sign * (inner - rule.limit) >= 0
    if failing.any():
        j = int(np.argmin(np.where(failing, sign * (outer - rule.limit), np.inf)))
        where = f" at k={int(ks[j])}" if rule.metric == "pass" else ""
        bound = f"{'at most' if rule.at_least else 'at least'} {_signed(rule, outer[j])}"
        text = f"{_signed(rule, value[j])}{where}, {bound}: beyond {rule.limit:g}"
        return "FAIL", float(value[j]), float(low[j]), float(high[j]), text
    j = int(np.argmin(sign * (inner - rule.limit)))
    where = f" at k={int(ks[j])}" if rule.metric == "pass" else ""
    bound = f"{_signed(rule, value[j])}{where}, {'at least' if rule.at_least else 'at most'} {_signed(rule, inner[j])}"
    if passing.all():
        return "PASS", float(value[j]), float(low[j]), float(high[j]), f"{bound}: inside {rule.limit:g}"
    return (
        "INCONCLUSIVE",
        float(value[j]),
        float(low[j]),
        float(high[j]),
        f"{bound}, limit {rule.limit:g}: {_settle(value[j], inner[j], rule, prompts)}",
    )


def _signed(rule: Rule, value: float) -> str:
    return f"{value:+.3f}" if rule.form else f"{value:.3f}"


def _settle(value: float, inner: float, rule: Rule, prompts: int) -> str:
    """Say how many prompts would decide, if the truth is what was measured."""
    distance = (value - rule.limit) if rule.at_least else (rule.limit - value)
    if distance <= 0:
        distance = abs(distance) or math.inf
    needed = prompts * (abs(value - inner) / distance) ** 2 if math.isfinite(distance) else math.inf
    if needed > 100 * prompts:
        return "the measured value lies at the limit; more prompts will hardly settle it"
    return f"about {math.ceil(max(needed, prompts + 1) / 10) * 10} prompts would settle it at this value"


def _collapsed(pair: dict[str, Any], margin: float, alpha: float, scope: str) -> bool:
    """pass@1 is not shown to be worse, and some larger k is worse by more than the margin."""
    curve, own = pair["pass_at_k"], scope_of(pair, scope)
    judged = curve[scope]["judged"]["k"]
    if 1 not in judged or len(judged) < 2:
        return False
    value = np.array([curve["difference"][curve["k"].index(k)] for k in judged], dtype=float)
    high = value + own.half_width(1 - alpha, two_sided=False)
    return bool(high[0] >= 0 and (high[1:] < -margin).any())


def _headline(verdict: Verdict, collapsed: bool, pair: dict[str, Any], checks: Sequence[Check]) -> str:
    curve = pair["pass_at_k"]
    first, last = curve["difference"][0], curve["difference"][-1]
    k = curve["k"][-1]
    if first is None or last is None:
        return "the pass@k curve is not known"
    change = f"pass@1 {100 * first:+.1f} points, pass@{k} {100 * last:+.1f} against {pair['baseline']}"
    if collapsed:
        return f"lost coverage while pass@1 held: {change}"
    if verdict == "FAIL":
        failed = next(check for check in checks if check.verdict == "FAIL" and check.severity == "fail")
        return f"{'got worse' if failed.rule.startswith('pass') else 'broke ' + failed.rule}: {change}"
    if verdict == "INCONCLUSIVE":
        return f"not enough evidence: {change}"
    return f"no loss found at any k: {change}"


def as_json(judgements: Sequence[Judgement], rules: GateConfig) -> dict[str, Any]:
    """The verdict file. NaN becomes null."""
    worst = overall(judgements)
    rows = [asdict(judgement) for judgement in judgements]
    for row in rows:
        for check in row["checks"]:
            for key in ("value", "low", "high"):
                check[key] = check[key] if math.isfinite(check[key]) else None
    return {"schema": SCHEMA, "verdict": worst, "alpha": rules.alpha, "candidates": rows}


def overall(judgements: Sequence[Judgement]) -> Verdict:
    """The worst verdict of all candidates."""
    order: tuple[Verdict, ...] = ("FAIL", "INCONCLUSIVE", "PASS")
    return min((judgement.verdict for judgement in judgements), key=order.index)


def exit_code(verdict: Verdict, strict: bool = False) -> int:
    """0 pass, 1 a rule failed, 3 inconclusive under --strict (else 0)."""
    return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3 if strict else 0}[verdict]


def read_comparison(path: Path) -> dict[str, Any]:
    """Read comparison.json, or find it in a folder.

    Raises:
        CannotJudge: There is none.
        OdevalError: The file is something else.
    """
    file = path / "comparison.json" if path.is_dir() else path
    if not file.exists():
        raise CannotJudge(f"{file}: no comparison here; make one with `odeval compare BASELINE CANDIDATE --out {file}`")
    content = read_json(file)
    if not isinstance(content, dict) or content.get("schema") != COMPARISON:
        raise OdevalError(
            f"{file}: is no comparison of this version (schema {COMPARISON}); make one with `odeval compare`"
        )
    return content
