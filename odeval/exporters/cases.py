"""The verdict as a list of test cases: one a rule, candidate and benchmark. JUnit, pytest and GitHub all read this."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from odeval.visible import visible

Outcome = Literal["passed", "failed", "inconclusive", "warning"]
_NAME, _TEXT = 160, 600  # characters


@dataclass(frozen=True, slots=True)
class Case:
    """One rule, judged; every text is safe to print on one line.

    Attributes:
        name: Unique in its verdict; only the rule where that is enough.
        outcome: "failed" exactly where the rule makes the command exit non-zero; "warning" is a failed rule that warns.
        text: What was measured, its bound, the limit, and why the rule is there.
        candidate: Label of the run.
        benchmark: Task of the comparison.
        diagnosis: "COLLAPSE", or "".
        rule: As written.
        against: Label of the run compared with, or "".
    """

    name: str
    outcome: Outcome
    text: str
    candidate: str
    benchmark: str
    diagnosis: str
    rule: str
    against: str


def cases(verdict: dict[str, Any], strict: bool = False) -> list[Case]:
    """List every check of a verdict.

    Args:
        verdict: From `gate.as_json`.
        strict: A binding rule that is inconclusive has failed.

    Returns:
        In order of candidates and rules; none is "failed" where the exit code is 0.
    """
    rows = verdict["candidates"]
    found = [
        Case("", _outcome(check, row["verdict"], strict), _told(check), *_shown(row, check))
        for row in rows
        for check in row["checks"]
    ]
    several = len({case.candidate for case in found}) > 1, len({case.benchmark for case in found}) > 1
    repeated = Counter((case.candidate, case.benchmark, case.rule) for case in found)
    taken: Counter[str] = Counter()
    named = []
    for case in found:
        again = repeated[case.candidate, case.benchmark, case.rule] > 1
        name = _name(case, *several, against=again)
        taken[name] += 1
        name += f" #{taken[name]}" if taken[name] > 1 else ""
        named.append(Case(name, *(getattr(case, key) for key in Case.__slots__[1:])))
    return named


def _outcome(check: dict[str, Any], verdict: str, strict: bool) -> Outcome:
    if check["verdict"] == "PASS":
        return "passed"
    if check["severity"] == "warn":
        return "warning" if check["verdict"] == "FAIL" else "inconclusive"
    # An audit that could not confirm a failure takes the candidate's FAIL back, and the check's with it.
    return "failed" if strict or check["verdict"] == verdict == "FAIL" else "inconclusive"


def _told(check: dict[str, Any]) -> str:
    measured = "" if check["value"] is None else "measured "
    context = "; ".join(filter(None, (check["against"] and f"against {check['against']}", check["why"])))
    return visible(f"{measured}{check['detail']}" + (f" ({context})" if context else ""), _TEXT)


def _shown(row: dict[str, Any], check: dict[str, Any]) -> list[str]:
    texts = (row["candidate"], row["benchmark"], row["diagnosis"], check["rule"], check["against"])
    return [visible(str(text), _NAME) for text in texts]


def _name(case: Case, candidates: bool, benchmarks: bool, against: bool) -> str:
    """The rule, and in brackets only what tells it from the others; "::" would split a pytest node id."""
    subject = (f"{case.benchmark}:" if benchmarks else "", case.candidate if candidates else "",
               f"vs {case.against}" if against and case.against else "")  # fmt: skip
    extra = " ".join(filter(None, subject))
    return f"{case.rule} [{extra}]".replace("::", ":") if extra else case.rule.replace("::", ":")
