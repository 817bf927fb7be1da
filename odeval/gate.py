"""Comparison × rules → verdict. Three answers: PASS, FAIL, or INCONCLUSIVE with what would settle it.

A rule is judged by one-sided bounds at level α. FAIL needs the whole interval beyond the limit, PASS needs it
inside, and anything else is INCONCLUSIVE: a check that could not measure never passes. A rule over the pass@k curve
fails by a simultaneous bound (the first crossing must survive the search over k) and passes when every k passes on
its own, which needs no correction. Over several benchmarks a FAIL must survive Holm's correction as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from odeval.atomic import read_json
from odeval.bounds import Bounds, Levels, bounds_of, collapsed, prompts_needed
from odeval.compare import SCHEMA as COMPARISON
from odeval.config import GateConfig
from odeval.errors import CannotJudge, OdevalError
from odeval.metrics import METRICS
from odeval.rules import Rule, default_rules, parse_rule
from odeval.trust import TOO_FEW_PROMPTS
from odeval.types import Check, Judgement, Verdict

SCHEMA = "odeval.verdict/1"


def judge(
    comparison: dict[str, Any], rules: GateConfig | None = None, where: str = "rules", levels: Levels | None = None
) -> list[Judgement]:
    """Judge every candidate of a comparison.

    Args:
        comparison: From `compare`.
        rules: What must hold; None for the default rules that these runs can answer.
        where: Name of the rules file, for errors.
        levels: Error rates of this look, where the budget of `rules.alpha` is spent over several.

    Returns:
        One judgement a candidate, in order.

    Raises:
        OdevalError: A rule is malformed.
        CannotJudge: A trust check blocks, a rule needs a run that is not there, or there is no candidate.
    """
    rules = rules or default_rules(comparison)
    parsed = [parse_rule(rule, where) for rule in rules.rules]
    blocked = [f"{item['check']}: {item['detail']}" for item in comparison["trust"] if item["status"] == "block"]
    if blocked:
        raise CannotJudge("the runs cannot be trusted: " + "; ".join(blocked))
    candidates = [run for run in comparison["runs"] if run["role"] == "candidate"]
    if not candidates:
        raise CannotJudge("the comparison holds no candidate")
    own = levels or Levels(rules.alpha, rules.alpha)
    return [_judge(comparison, run, parsed, own, rules) for run in candidates]


def judge_all(
    comparisons: Sequence[dict[str, Any]], rules: GateConfig | None = None, where: str = "rules"
) -> list[Judgement]:
    """Judge several benchmarks together: every rule's failures must survive Holm's correction over the benchmarks.

    A rule passes as a whole only where it passes on every benchmark, which needs no correction.

    Source:
        Holm 1979, step-down; the p value of a benchmark is the smallest level at which its rule fails.
    """
    rules = rules or min((default_rules(comparison) for comparison in comparisons), key=lambda own: len(own.rules))
    judged = [judgement for comparison in comparisons for judgement in judge(comparison, rules, where)]
    if len(comparisons) < 2:
        return judged
    for place in range(len(rules.rules)):
        for candidate in sorted({judgement.candidate for judgement in judged}):
            family = [i for i, judgement in enumerate(judged) if judgement.candidate == candidate]
            kept = _holm([judged[i].checks[place].p_fail for i in family], rules.alpha)
            for i, holds in zip(family, kept, strict=True):
                judged[i] = _without_chance_failure(judged[i], place, holds, len(family))
    return [_settled(judgement) for judgement in judged]


def _holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    order = np.argsort(p_values, kind="stable")
    kept = [False] * len(p_values)
    for step, i in enumerate(order):
        if p_values[i] > alpha / (len(p_values) - step):
            break
        kept[int(i)] = True
    return kept


def _without_chance_failure(judgement: Judgement, place: int, holds: bool, family: int) -> Judgement:
    check = judgement.checks[place]
    if check.verdict != "FAIL" or holds:
        return judgement
    detail = f"{check.detail}; but among {family} benchmarks one may look so by chance (Holm, p {check.p_fail:.3f})"
    softened = replace(check, verdict="INCONCLUSIVE", detail=detail)
    return replace(judgement, checks=(*judgement.checks[:place], softened, *judgement.checks[place + 1 :]))


def _settled(judgement: Judgement) -> Judgement:
    verdict = _verdict(judgement.checks)
    return replace(judgement, verdict=verdict, diagnosis=judgement.diagnosis if verdict == "FAIL" else "")


def _verdict(checks: Sequence[Check]) -> Verdict:
    binding = [check.verdict for check in checks if check.severity == "fail"]
    return "FAIL" if "FAIL" in binding else "INCONCLUSIVE" if "INCONCLUSIVE" in binding else "PASS"


def _judge(
    comparison: dict[str, Any], run: dict[str, Any], rules: Sequence[Rule], levels: Levels, config: GateConfig
) -> Judgement:
    checks = tuple(_check(comparison, run, rule, levels, config.scope) for rule in rules)
    verdict = _verdict(checks)
    margins = [-rule.limit for rule in rules if rule.metric == "pass" and rule.form == "delta" and rule.at_least]
    pair = _pair(comparison, run, "auto")
    lost = bool(margins) and collapsed(pair, max(margins[0], 0.0), levels.fail, config.scope)
    headline = _headline(verdict, lost, pair, checks)
    return Judgement(run["label"], verdict, headline, "COLLAPSE" if lost else "", checks, comparison["task"])


def _pair(comparison: dict[str, Any], run: dict[str, Any], against: str) -> dict[str, Any]:
    own = {pair["role"]: pair for pair in comparison["pairs"] if pair["candidate"] == run["label"]}
    if against == "auto":
        against = "baseline" if "baseline" in own else "teacher"
    if against not in own:
        raise CannotJudge(f"{run['label']}: a rule compares with the {against}, but no {against} run was given")
    found: dict[str, Any] = own[against]
    return found


def _too_few(comparison: dict[str, Any], curve: bool, scope: str) -> str:
    """Why no PASS can be given, if so. Intervals over fewer independent prompts, or clusters of them, are too short."""
    prompts = int(comparison["prompts"])
    groups = prompts if curve and scope == "benchmark" else int(comparison.get("clusters", prompts))
    if groups >= TOO_FEW_PROMPTS:
        return ""
    what = "prompts" if groups == prompts else f"clusters of {prompts} prompts"
    return f"{groups} {what} are too few for a PASS; use at least {TOO_FEW_PROMPTS}"


def _check(comparison: dict[str, Any], run: dict[str, Any], rule: Rule, levels: Levels, scope: str) -> Check:
    # The share of the gain that is inherited is a statement about the teacher, whatever the baseline is.
    against = "teacher" if rule.form == "inherited" and rule.config.against == "auto" else rule.config.against
    pair = _pair(comparison, run, against) if rule.form else None
    found = bounds_of(run, pair, rule, levels, scope)
    verdict, j, detail = decide(rule, found)
    fact = rule.metric != "pass" and METRICS[rule.metric].fact and not rule.form
    few = _too_few(comparison, curve=rule.metric == "pass" and rule.form == "delta", scope=scope)
    if verdict == "PASS" and few and not fact:
        verdict, detail = "INCONCLUSIVE", few
    value, low, high = math.nan, math.nan, math.nan
    if j is not None:
        value, low, high = (float(x[j]) for x in (found.value, found.inner, found.outer))
    low, high = (low, high) if rule.at_least else (high, low)
    return Check(
        rule=rule.text,
        verdict=verdict,
        severity=rule.config.severity,
        against=pair["baseline"] if pair else "",
        value=value,
        low=low,
        high=high,
        unit="share" if rule.metric == "pass" else METRICS[rule.metric].unit,
        detail=detail,
        why=rule.config.why,
        k=None if j is None or not found.ks[j] else int(found.ks[j]),
        p_fail=found.p_fail,
    )


def decide(rule: Rule, found: Bounds) -> tuple[Verdict, int | None, str]:
    """Compare the bounds with the limit; the point that decides is the one reported."""
    if found.problem:
        return "INCONCLUSIVE", None, found.problem
    sign = 1.0 if rule.at_least else -1.0
    beyond = sign * (found.outer - rule.limit)
    inside = sign * (found.inner - rule.limit)
    if (beyond < 0).any():
        j = int(np.argmin(beyond))
        side = "at most" if rule.at_least else "at least"
        return "FAIL", j, f"{_said(rule, found, j)}, {side} {_signed(rule, found.outer[j])}: beyond {rule.limit:g}"
    j = int(np.argmin(inside))
    side = "at least" if rule.at_least else "at most"
    text = f"{_said(rule, found, j)}, {side} {_signed(rule, found.inner[j])}"
    if (inside >= 0).all():
        return "PASS", j, f"{text}: inside {rule.limit:g}"
    return "INCONCLUSIVE", j, f"{text}, limit {rule.limit:g}: {_settle(rule, found, j)}"


def _said(rule: Rule, found: Bounds, j: int) -> str:
    return _signed(rule, found.value[j]) + (f" at k={int(found.ks[j])}" if found.ks[j] else "")


def _signed(rule: Rule, value: float) -> str:
    return f"{value:+.3f}" if rule.form == "delta" else f"{value:.3f}"


def _settle(rule: Rule, found: Bounds, j: int) -> str:
    """Say how many prompts would decide, if the truth is what was measured."""
    needed = prompts_needed(found.value[j], found.inner[j], rule.limit, found.prompts)
    if needed > 100 * found.prompts:
        return "the measured value lies at the limit; more prompts will hardly settle it"
    return f"about {math.ceil(max(needed, found.prompts + 1) / 10) * 10} prompts would settle it at this value"


def _headline(verdict: Verdict, lost: bool, pair: dict[str, Any], checks: Sequence[Check]) -> str:
    curve = pair["pass_at_k"]
    first, last = curve["difference"][0], curve["difference"][-1]
    ks = curve["k"]
    if first is None or last is None:
        return "the pass@k curve is not known"
    change = f"pass@{ks[0]} {100 * first:+.1f} points, pass@{ks[-1]} {100 * last:+.1f} against {pair['baseline']}"
    if lost:
        return f"lost coverage while pass@1 held: {change}"
    if verdict == "FAIL":
        failed = next(check for check in checks if check.verdict == "FAIL" and check.severity == "fail")
        return f"{'got worse' if failed.rule.startswith('pass') else 'broke ' + failed.rule}: {change}"
    if verdict == "INCONCLUSIVE":
        return f"not enough evidence: {change}"
    for check in checks:
        if check.rule.startswith("pass@k.delta >= -"):
            return f"no loss beyond {100 * abs(float(check.rule.split()[-1])):g} points at any judged k: {change}"
    return f"every rule held: {change}"


def as_json(judgements: Sequence[Judgement], rules: GateConfig | None = None) -> dict[str, Any]:
    """The verdict file. NaN becomes null."""
    rules = rules or default_rules({"runs": []})
    worst = overall(judgements)
    rows = [asdict(judgement) for judgement in judgements]
    for row in rows:
        for check in row["checks"]:
            check |= {key: None for key in ("value", "low", "high") if not math.isfinite(check[key])}
    return {"schema": SCHEMA, "verdict": worst, "alpha": rules.alpha, "scope": rules.scope, "candidates": rows}


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
    if file.is_file() and file.suffix != ".json":
        raise CannotJudge(f"{file}: alone says nothing of a loss; name --baseline RUN or --teacher RUN")
    if not file.exists():
        raise CannotJudge(f"{file}: no comparison here; make one with `odeval compare BASELINE CANDIDATE --out {file}`")
    content = read_json(file)
    if not isinstance(content, dict) or content.get("schema") != COMPARISON:
        raise OdevalError(
            f"{file}: is no comparison of this version (schema {COMPARISON}); make one with `odeval compare`"
        )
    return content
