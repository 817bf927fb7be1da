"""OpenMetrics text, for GitLab's metrics report and for anything that scrapes Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from odeval.lookup import band_of, scope_of
from odeval.visible import visible

Sample = tuple[Mapping[str, Any], float | None]
_VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE")
_LABEL = 160  # characters


def openmetrics(comparisons: Iterable[dict[str, Any]], verdict: dict[str, Any]) -> str:
    """Every curve, paired difference and rule as gauges, and the verdicts as a state set. Unknown is NaN, never 0.

    Args:
        comparisons: One a benchmark.
        verdict: From `gate.as_json`, over all of them.
    """
    known = list(comparisons)
    scope = scope_of(verdict)
    families: list[tuple[str, str, str, list[Sample]]] = []
    for end, bound in (("", ""), ("_low", ", lower bound"), ("_high", ", upper bound")):
        key = end.removeprefix("_")
        changes = list(_pairs(known, key or "difference", scope))
        families.append((f"pass_at_k{end}", "gauge", f"pass@k{bound}", list(_curves(known, key or "value"))))
        families.append((f"pass_at_k_difference{end}", "gauge", f"pass@k, candidate minus reference{bound}", changes))
        families.append((f"rule{end}", "gauge", f"What a rule judges{bound}", list(_rules(verdict, key or "value"))))
    families.append(("rule_verdict", "stateset", "Verdict of a rule", list(_states(verdict, rules=True))))
    families.append(("verdict", "stateset", "Verdict of a candidate", list(_states(verdict, rules=False))))
    lines = [line for family in families if family[3] for line in _family(*family)]
    return "\n".join([*lines, "# EOF", ""])


def _family(name: str, kind: str, text: str, samples: list[Sample]) -> Iterator[str]:
    yield f"# TYPE odeval_{name} {kind}"
    yield f"# HELP odeval_{name} {text}."
    seen = set()
    for labels, value in samples:
        told = ",".join(f'{key}="{_label(str(text))}"' for key, text in labels.items() if text != "")
        if told not in seen:  # a rule written twice
            seen.add(told)
            yield f"odeval_{name}{{{told}}} {'NaN' if value is None else repr(value)}"


def _label(text: str) -> str:
    """Escape a label's value. GitLab takes "#" for a comment even between quotes, so it is written wide."""
    return visible(text, _LABEL).replace("\\", "\\\\").replace('"', '\\"').replace("#", "＃")


def _curves(comparisons: list[dict[str, Any]], key: str) -> Iterator[Sample]:
    for comparison in comparisons:
        for run in comparison["runs"]:
            for j, k in enumerate(run["pass_at_k"]["k"]):
                labels = {"benchmark": comparison["task"], "run": run["label"], "role": run["role"], "k": k}
                yield labels, run["pass_at_k"][key][j]


def _pairs(comparisons: list[dict[str, Any]], key: str, scope: str) -> Iterator[Sample]:
    for comparison in comparisons:
        for pair in comparison["pairs"]:
            curve = pair["pass_at_k"]
            for j, k in enumerate(curve["k"]):
                labels = {"benchmark": comparison["task"], "candidate": pair["candidate"], "against": pair["baseline"],
                          "k": k, "scope": scope}  # fmt: skip
                yield labels, (curve if key == "difference" else band_of(pair, scope))[key][j]


def _rules(verdict: dict[str, Any], key: str) -> Iterator[Sample]:
    for row in verdict["candidates"]:
        for check in row["checks"]:
            yield _identity(row, check), check[key]


def _states(verdict: dict[str, Any], rules: bool) -> Iterator[Sample]:
    for row in verdict["candidates"]:
        for check in row["checks"] if rules else [row]:
            labels = _identity(row, check if rules else None)
            name = "odeval_rule_verdict" if rules else "odeval_verdict"
            for state in _VERDICTS:
                yield {**labels, name: state}, int(check["verdict"] == state)


def _identity(row: dict[str, Any], check: dict[str, Any] | None) -> dict[str, Any]:
    own = {"benchmark": row["benchmark"], "candidate": row["candidate"]}
    return own if check is None else {**own, "rule": check["rule"], "against": check["against"]}
