"""JUnit XML, as GitLab, Jenkins and GitHub test reporters read it."""

from __future__ import annotations

from itertools import groupby
from typing import Any
from xml.etree import ElementTree

from odeval.exporters.cases import Case, cases
from odeval.visible import visible

_TAGS = {"failed": "failure", "inconclusive": "skipped", "warning": "skipped"}


def junit(verdict: dict[str, Any], strict: bool = False) -> str:
    """One suite a benchmark and candidate, one case a rule. What only warns or is inconclusive is skipped, with reason.

    Args:
        verdict: From `gate.as_json`.
        strict: A binding rule that is inconclusive has failed.
    """
    root = ElementTree.Element("testsuites", name="odeval")
    for (benchmark, candidate), group in groupby(cases(verdict, strict), lambda case: (case.benchmark, case.candidate)):
        own = list(group)
        suite = ElementTree.SubElement(root, "testsuite", name=f"odeval {benchmark} {candidate}".strip())
        properties = ElementTree.SubElement(suite, "properties")
        facts = {"benchmark": benchmark, "candidate": candidate, "diagnosis": own[0].diagnosis}
        for name, value in (facts | {"verdict": verdict["verdict"], "alpha": f"{verdict['alpha']:g}"}).items():
            ElementTree.SubElement(properties, "property", name=name, value=value)
        for case in own:
            _add(suite, case)
        _count(suite)
    _count(root)
    return _written(root)


def junit_error(reason: str) -> str:
    """A report of a gate that could not judge: one suite with one error, so that no reader takes it for a pass."""
    root = ElementTree.Element("testsuites", name="odeval")
    suite = ElementTree.SubElement(root, "testsuite", name="odeval")
    case = ElementTree.SubElement(suite, "testcase", classname="odeval", name="gate", time="0")
    text = visible(reason, 2000)
    ElementTree.SubElement(case, "error", message=text, type="CannotJudge").text = text
    _count(suite)
    _count(root)
    return _written(root)


def _add(suite: ElementTree.Element, case: Case) -> None:
    place = ".".join(filter(None, ("odeval", case.benchmark, case.candidate)))
    item = ElementTree.SubElement(suite, "testcase", classname=place, name=case.name, time="0")
    if case.outcome == "passed":
        ElementTree.SubElement(item, "system-out").text = case.text
        return
    text = f"warning: {case.text}" if case.outcome == "warning" else case.text
    found = ElementTree.SubElement(item, _TAGS[case.outcome], message=text, type=f"odeval.{case.outcome}")
    found.text = f"{case.rule}: {text}"


def _count(element: ElementTree.Element) -> None:
    """Attributes that readers add up; nothing was timed, and 0 says so where the format wants a number."""
    for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(name, str(sum(1 for _ in element.iter(tag))))
    element.set("time", "0")


def _written(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'
