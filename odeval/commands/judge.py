"""Verbs that read results: compare, gate, report. They load no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from odeval.commands.options import emit, parse_ks, parse_named, parse_whole
from odeval.errors import CannotJudge, OdevalError


def compare(
    runs: list[Path], /, *, teacher: Path | None = None, ks: str | None = None, threshold: float = 0.8,
    confidence: float = 0.95, allow_mismatch: list[str] | None = None, training: list[str] | None = None,
    out: Path | None = None, json: bool = False,
) -> int:  # fmt: skip
    """Compare runs prompt by prompt: BASELINE CANDIDATE…, or candidates with --teacher alone.

    Args:
        runs: Run folders; the first is the baseline unless only one is given together with --teacher.
        teacher: Run folder of the teacher.
        ks: Comma-separated k, or all; powers of two by default.
        threshold: Entropy of a branch point in nats.
        confidence: Of two-sided intervals.
        allow_mismatch: Sampling settings that may differ.
        training: NAME=FOLDER: the odkd run that made a candidate; found by itself where the model lies in it.
        out: Write comparison.json here.
        json: Print comparison.json on stdout and nothing else.
    """
    from odeval.compare import CompareSettings, compare
    from odeval.importers import open_run
    from odeval.terminal import print_comparison

    if len(runs) < 2 and teacher is None:
        raise OdevalError("compare needs two runs: BASELINE CANDIDATE, or one CANDIDATE with --teacher RUN")
    folders = [open_run(run) for run in runs]
    baseline = folders.pop(0) if len(folders) > 1 else None
    settings = CompareSettings(parse_ks(ks), confidence, threshold, tuple(allow_mismatch or ()))
    logs = parse_named(training or [], "--training")
    result = compare(folders, None if teacher is None else open_run(teacher), baseline, settings, logs)
    emit(result, out, json, lambda: print_comparison(result))
    return 0


def gate(
    candidate: Path, /, *, baseline: Path | None = None, teacher: Path | None = None, rules: Path | None = None,
    ks: str | None = None, allow_mismatch: list[str] | None = None, out: Path | None = None, strict: bool = False,
    json: bool = False, junit: Path | None = None, github: bool = False, metrics: Path | None = None,
) -> int:  # fmt: skip
    """Judge a candidate by rules; the exit code is the verdict.

    Args:
        candidate: A run folder, a log or a counts file; with --baseline also a folder of several, one a benchmark,
            matched by name. Without --baseline and --teacher: comparison.json, or a folder that holds it.
        baseline: What the candidate must not be worse than: run folder, log, counts file, or a folder of several.
        teacher: The teacher's run, log or counts.
        rules: YAML file; sensible default rules otherwise.
        ks: Comma-separated k, or all; powers of two by default.
        allow_mismatch: Sampling settings that may differ.
        out: Folder for comparison, verdict and report.
        strict: Exit 3 when the verdict is inconclusive.
        json: Print verdict.json on stdout and nothing else.
        junit: Write JUnit XML, one case a rule.
        github: Write step summary, annotations and outputs of a GitHub step.
        metrics: Write OpenMetrics text, such as GitLab's metrics report.
    """
    from odeval.compare import CompareSettings
    from odeval.gate import exit_code, overall
    from odeval.integrations.judging import judge_paths
    from odeval.integrations.publishing import Outlets
    from odeval.terminal import print_trust, print_verdict

    def show() -> None:
        print_verdict(judged.judgements)
        for comparison in judged.comparisons.values():
            print_trust(comparison)

    settings = CompareSettings(parse_ks(ks), allow_mismatch=tuple(allow_mismatch or ()))
    outlets = Outlets(junit, metrics, github, out, strict, json)
    with outlets.open():
        judged = judge_paths(candidate, baseline, teacher, rules, settings)
        if out is not None:
            _write(out, judged.comparisons, judged.verdict)
        emit(judged.verdict, None, json, show)
    outlets.publish(judged)
    return exit_code(overall(judged.judgements), strict)


def _write(out: Path, comparisons: dict[str, Any], verdict: dict[str, Any]) -> None:
    """One folder a benchmark, and the verdict over all of them."""
    from odeval.atomic import write_json
    from odeval.report import write_report

    write_json(out / "verdict.json", verdict)
    for name, comparison in comparisons.items():
        own = {
            **verdict,
            "candidates": [row for row in verdict["candidates"] if row["benchmark"] == comparison["task"]],
        }
        write_json(out / name / "comparison.json", comparison)
        write_report(comparison, own if name else verdict, out / name)


def report(comparison: Path, /, *, verdict: Path | None = None, out: Path | None = None) -> int:
    """Render comparison.json and verdict.json as one self-contained page.

    Args:
        comparison: comparison.json, or a folder that holds it.
        verdict: verdict.json; the one beside the comparison by default.
        out: Folder of the report; the comparison's by default.
    """
    from odeval.atomic import read_json
    from odeval.gate import read_comparison
    from odeval.report import write_report

    folder = comparison if comparison.is_dir() else comparison.parent
    path = verdict or folder / "verdict.json"
    if not path.exists():
        raise CannotJudge(f"{path}: no verdict to report; run `odeval gate {comparison} --out {path}` first")
    print(write_report(read_comparison(comparison), read_json(path), out or folder))
    return 0


def plan(
    *, pilot: Path | None = None, prompts: str = "100,200,500,1000",
    n: Annotated[str, Parameter(name=["-n", "--n"])] = "16,32,64",
    ks: str | None = None, margin: float = 0.03, alpha: float = 0.05, drop: float = 0.06, power: float = 0.8,
    tokens: float | None = None, json: bool = False,
) -> int:  # fmt: skip
    """Tell what a gate will see, before the samples are paid for.

    Args:
        pilot: A small run, log or counts file of the same kind of model and task; a typical benchmark otherwise.
        prompts: Comma-separated numbers of prompts to consider.
        n: Comma-separated samples per prompt to consider.
        ks: Comma-separated k to judge; powers of two up to n/2 by default.
        margin: Of the rule pass@k.delta >= -margin.
        alpha: One-sided error rate.
        drop: Drop of pass@k, at its worst k, that must not be missed.
        power: Wanted chance of seeing it.
        tokens: Tokens per completion, for the cost; the pilot's own mean by default.
        json: Print JSON on stdout and nothing else.
    """
    from odeval.commands.planning import budget
    from odeval.terminal import print_plan

    designs = budget(
        pilot, parse_whole(prompts, "--prompts"), parse_whole(n, "-n"), parse_ks(ks),
        margin=margin, alpha=alpha, drop=drop, power=power, tokens=tokens,
    )  # fmt: skip
    emit(designs, None, json, lambda: print_plan(designs))
    return 0
