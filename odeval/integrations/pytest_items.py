"""One pytest item a rule, candidate and benchmark. Loaded only when the gate is asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from odeval.errors import OdevalError
from odeval.exporters.cases import Case, cases


class Gate:
    """Hooks of a session that judges.

    Args:
        paths: Option name → path.
        strict: Inconclusive is failed.
    """

    def __init__(self, paths: Mapping[str, Path], strict: bool) -> None:
        if "comparison" in paths and {"candidate", "baseline", "teacher"} & paths.keys():
            raise pytest.UsageError("--odeval-comparison stands alone: it names candidate and baseline already")
        if not {"comparison", "candidate"} & paths.keys():
            raise pytest.UsageError(f"--odeval-{min(paths)} needs --odeval-candidate, or --odeval-comparison")
        self.paths = paths
        self.strict = strict

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "odeval: a rule of the gate; select them alone with -m odeval")

    def pytest_report_header(self) -> str:
        return "odeval: " + ", ".join(f"{name} {_shown(path)}" for name, path in self.paths.items())

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """`pytest gate.yaml` runs the gate and nothing else, if that file is one of the gate's."""
        mine = file_path in map(_absolute, self.paths.values()) and parent.session.isinitpath(file_path)
        return Rules.of(self, parent, file_path) if mine else None

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        if isinstance(collector, pytest.Session) and report.passed:
            named = any(collector.isinitpath(_absolute(path)) for path in self.paths.values())
            if not named:  # else pytest_collect_file finds it
                report.result = [*(report.result or []), Rules.of(self, collector)]
        if isinstance(collector, Rules) and report.failed:
            report.longrepr = str(report.longrepr)  # plain text is what the short summary repeats
        return report


class Rules(pytest.Collector):
    """Judges once, and yields a test a rule."""

    gate: Gate

    @classmethod
    def of(cls, gate: Gate, parent: pytest.Collector, file: Path | None = None) -> Rules:
        name = file.name if file else "odeval"
        # An id of its own, since a child of the session would be called "::odeval".
        place = name if parent.nodeid in ("", ".") else f"{parent.nodeid}/{name}"
        found: Rules = cls.from_parent(parent, name=name, nodeid=place, path=file)
        found.gate = gate
        return found

    def collect(self) -> Iterable[Rule]:
        from odeval.integrations.judging import judge_paths

        paths = self.gate.paths
        try:
            with warnings.catch_warnings():
                # filterwarnings = error is about the user's code; an aged call inside pandas is no verdict.
                warnings.simplefilter("ignore")
                judged = judge_paths(
                    paths.get("candidate") or paths["comparison"], paths.get("baseline"), paths.get("teacher"),
                    paths.get("rules"),
                )  # fmt: skip
        except OdevalError as error:
            raise self.CollectError(f"odeval could not judge: {error}") from error
        for case in cases(judged.verdict, self.gate.strict):
            yield Rule.of(self, case)


class Rule(pytest.Item):
    """One rule, judged already; running it tells the verdict."""

    case: Case

    @classmethod
    def of(cls, parent: Rules, case: Case) -> Rule:
        found: Rule = cls.from_parent(parent, name=case.name)
        found.case = case
        found.add_marker("odeval")
        facts = ("benchmark", "candidate", "against", "rule", "diagnosis")
        found.user_properties += [(name, getattr(case, name)) for name in facts if getattr(case, name)]
        if case.outcome == "inconclusive":
            found.add_marker(pytest.mark.skip(reason=f"inconclusive, {case.name}: {case.text}"))
        return found

    def runtest(self) -> None:
        if self.case.outcome == "warning":
            pytest.xfail(f"warns only: {self.case.text}")
        if self.case.outcome == "failed":
            raise RuleFailed(self.case.text)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """One line where a rule failed; a traceback through the plugin would tell nothing."""
        return str(excinfo.value) if isinstance(excinfo.value, RuleFailed) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.nodeid


class RuleFailed(Exception):
    """Carries the one line to print."""


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path))  # not resolve(): pytest keeps links as they were given


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
