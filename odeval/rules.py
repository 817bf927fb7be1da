"""The rule language of the gate: metric[@at][.delta|.ratio|.inherited] >= number. Parsed, never evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from odeval.config import GateConfig, RuleConfig
from odeval.errors import OdevalError, unknown
from odeval.metrics import METRICS
from odeval.types import TRAJECTORIES

_DEFAULT = GateConfig(
    rules=(
        RuleConfig(rule="pass@k.delta >= -0.03", why="no user may lose more than 3 points at any number of samples"),
        RuleConfig(rule="retention@teacher >= 0.8", severity="warn", against="teacher",
                   why="branch points the student closes cannot be sampled any more"),
        RuleConfig(rule="truncated_fraction <= 0.02", why="cut completions look like wrong ones"),
        RuleConfig(rule="ungraded_fraction <= 0.02", why="what is not graded is not known"),
    )
)  # fmt: skip


def default_rules(comparison: dict[str, Any]) -> GateConfig:
    """The rules where the user gives none: those of the defaults that these runs can answer.

    Counts files know nothing of truncation, and runs that are not scored nothing of branch points; a rule of the
    user's own on such a metric stays, and is inconclusive.
    """
    known = [set(run["metrics"]) for run in comparison["runs"] if run["role"] == "candidate"]
    answerable = set.intersection(*known) if known else set()
    kept = [rule for rule in _DEFAULT.rules if rule.rule.startswith("pass") or rule.rule.split()[0] in answerable]
    return _DEFAULT.model_copy(update={"rules": tuple(kept)})


_RULE = re.compile(
    r"\s*(?P<metric>[a-z_]+)(?:@(?P<at>[a-z0-9]+))?(?:\.(?P<form>[a-z]+))?\s*(?P<op>>=|<=)\s*(?P<limit>[-+]?\d*\.?\d+(?:e[-+]?\d+)?)\s*"
)
_FORMS = ("delta", "ratio", "inherited")


@dataclass(frozen=True, slots=True)
class Rule:
    """A parsed rule: metric[@at][.delta|.ratio|.inherited] op limit."""

    text: str
    metric: str
    at: str
    form: str
    at_least: bool
    limit: float
    config: RuleConfig


def parse_rule(config: RuleConfig, where: str = "rules") -> Rule:
    """Parse one rule; nothing is ever evaluated as code.

    Args:
        config: With the rule's text.
        where: File name, for the error.

    Raises:
        OdevalError: The text is no rule, or names a metric that does not exist.

    Example:
        >>> rule = parse_rule(RuleConfig(rule="pass@16.delta >= -0.03"))
        >>> rule.metric, rule.at, rule.form, rule.limit
        ('pass', '16', 'delta', -0.03)
    """
    match = _RULE.fullmatch(config.rule)
    if match is None:
        raise OdevalError(
            f"{where}: rule '{config.rule}' is not of the form metric[@at][.delta|.ratio|.inherited] >= number "
            "(such as pass@k.delta >= -0.03 or retention@teacher >= 0.8)"
        )
    metric, at, form = match["metric"], match["at"] or "", match["form"] or ""
    if metric != "pass" and metric not in METRICS:
        raise OdevalError(f"{where}: rule '{config.rule}': {unknown('metric', metric, ['pass', *METRICS])}")
    if form and form not in _FORMS:
        raise OdevalError(f"{where}: rule '{config.rule}': {unknown('form', form, _FORMS)}")
    if form == "inherited" and metric != "pass":
        raise OdevalError(f"{where}: rule '{config.rule}': only pass@k is inherited, as the gain pass@k − pass@1")
    if metric == "pass" and not (at == "k" or (at.isdigit() and int(at) >= 1)):
        raise OdevalError(f"{where}: rule '{config.rule}': write pass@8 for one k, or pass@k for every k up to n/2")
    if metric != "pass" and METRICS[metric].table == "tokens":
        at = at or "teacher"
        if at not in TRAJECTORIES:
            raise OdevalError(f"{where}: rule '{config.rule}': {unknown('trajectory', at, TRAJECTORIES)}")
    elif metric != "pass" and at:
        raise OdevalError(f"{where}: rule '{config.rule}': {metric} takes no '@{at}'")
    return Rule(config.rule, metric, at, form, match["op"] == ">=", float(match["limit"]), config)
