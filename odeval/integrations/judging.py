"""Paths → verdict: what the command line and the pytest plugin share, so that they cannot disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odeval import gate
from odeval.compare import CompareSettings, compare
from odeval.config import GateConfig, load_yaml
from odeval.importers import matched, open_run
from odeval.store import RunFolder
from odeval.types import Judgement


@dataclass(frozen=True, eq=False)
class Judged:
    """A verdict and what it rests on.

    Attributes:
        comparisons: Benchmark → comparison; the name is "" for a single one.
        judgements: One a benchmark and candidate.
        verdict: The same as JSON.
    """

    comparisons: dict[str, dict[str, Any]]
    judgements: list[Judgement]
    verdict: dict[str, Any]


def judge_paths(
    candidate: Path, baseline: Path | None = None, teacher: Path | None = None, rules: Path | None = None,
    settings: CompareSettings | None = None,
) -> Judged:  # fmt: skip
    """Compare and judge what lies at some paths.

    Args:
        candidate: A run folder, a log, a counts file, or a folder of several of them, one a benchmark. Without
            baseline and teacher: comparison.json, or a folder that holds it.
        baseline: What the candidate must not be worse than, of the same kind.
        teacher: The teacher's, of the same kind.
        rules: YAML file; the default rules otherwise.
        settings: Of the comparison.

    Raises:
        OdevalError: A path, rule or log is wrong.
        CannotJudge: Something is missing or cannot be trusted.
    """
    loaded = None if rules is None else load_yaml(rules, GateConfig)
    comparisons: dict[str, dict[str, Any]] = {}
    if baseline is None and teacher is None:
        comparisons[""] = gate.read_comparison(candidate)
    else:
        for name, *paths in matched(candidate, baseline, teacher):
            runs = _opened(paths, (candidate, baseline, teacher) if name else ())
            found = compare([run for run in runs[:1] if run], runs[2], runs[1], settings)
            comparisons[name] = {**found, "task": name or found["task"]}
    judgements = gate.judge_all(list(comparisons.values()), loaded, str(rules or "default rules"))
    return Judged(comparisons, judgements, gate.as_json(judgements, loaded))


def _opened(paths: Sequence[Path | None], folders: Sequence[Path | None]) -> list[RunFolder | None]:
    """Open runs under the names that the user knows them by."""
    runs = [None if path is None else open_run(path) for path in paths]
    for run, folder in zip(runs, folders, strict=False):
        if run is not None and folder is not None:
            run.label = folder.resolve().name  # the file is named after the benchmark, the run after its folder
    labels = [run.label for run in runs if run is not None]
    for run, path in zip(runs, paths, strict=True):
        if run is not None and labels.count(run.label) > 1:
            run.label = str(path)  # a log is imported into a temporary folder, whose name means nothing
    return runs
