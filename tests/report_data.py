"""A small audit made of numbers for the report's tests: run folders, compared and judged for real."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from branch_data import with_branch_points
from synthetic import draws, random_tokens, write_run, write_tokens

from odeval.compare import CompareSettings, compare
from odeval.gate import as_json, judge
from odeval.store import RunFolder

Audit = tuple[dict[str, Any], dict[str, Any]]


def write_training(folder: Path, seed: int = 0, steps: int = 300, probed: bool = True) -> Path:
    """Write what odkd leaves beside a model: a log of noisy curves, probes, the ledger."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 0.02, (steps, 5))
    falling = np.exp(-np.arange(steps) / 60)
    rows = [
        {
            "step": step, "forward_kl": 0.3 + falling[step] + noise[step, 0], "reverse_kl": falling[step] ** 2 + 0.2,
            "student_entropy": 0.5 + noise[step, 1], "teacher_entropy": 0.7 + noise[step, 2],
            "retention": 0.6 + noise[step, 3] if step else None, "grad_norm": 1.0,
        }
        for step in range(steps)
    ]  # fmt: skip
    probes = [{"step": s, "pass@k": {"1": 0.4 + s / 1000, "16": 0.9 - s / 3000}} for s in range(0, steps + 1, 50)]
    for name, lines in (("log", rows), ("probes", probes if probed else [])):
        if lines:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    ledger = {
        "updates": steps, "tokens_sampled": {"student": 1000 * steps, "all": 1000 * steps},
        "tokens_scored_by_teacher": 1024 * steps, "flops": {"rollout": 123456789, "teacher": 987654321, "all": 1},
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps({"config": {"objective": "reverse_kl"}, "ledger": ledger}))
    return folder


def solve_rates(kind: str, prompts: int) -> np.ndarray:
    """Chance of a right answer for each prompt [P]; every kind rests on the same teacher."""
    teacher = np.random.default_rng(1).beta(0.9, 1.1, prompts)
    return {
        "teacher": teacher,
        "start": 0.55 * teacher,
        "collapsed": np.where(teacher > 0.33, 0.96, 0.0),
        "faithful": 0.4 + 0.6 * teacher,
        "close": np.clip(teacher + 0.02, 0, 1),
    }[kind]


def audited(
    folder: Path, candidates: Mapping[str, str], *, baseline: bool = True, teacher: bool = True, tokens: bool = True,
    prompts: int = 120, n: int = 16, ks: tuple[int, ...] = (),
) -> Audit:  # fmt: skip
    """Build runs and return (comparison, verdict) under the default rules.

    Args:
        folder: Where the runs are written.
        candidates: Label → kind of `solve_rates`.
        baseline: Compare with a start, too.
        teacher: Compare with the teacher, too.
        tokens: Score every student.
        prompts: P.
        n: Completions per prompt.
        ks: Grid of the curve.
    """
    runs = [make_run(folder / label, kind, prompts, n, 10 + i) for i, (label, kind) in enumerate(candidates.items())]
    origin = make_run(folder / "teacher", "teacher", prompts, n, 1) if teacher else None
    start = make_run(folder / "start", "start", prompts, n, 2) if baseline else None
    if tokens and origin is not None:
        for i, run in enumerate([*([start] if start else []), *runs]):
            add_tokens(run, origin, prompts, n, 0.97 if run is start else 0.4 + 0.25 * (i % 3), i)
    logs = {label: write_training(folder / f"{label}.trained", i) for i, label in enumerate(candidates) if i % 3 == 0}
    comparison = compare(runs, origin, start, CompareSettings(ks=ks), logs)
    comparison["provenance"].update(command="odeval audit models/new --teacher models/teacher --out runs", git="")
    verdict = as_json(judge(comparison))
    found: Audit = tuple(json.loads(json.dumps([comparison, verdict])))  # as files would give them
    return found


def make_run(path: Path, kind: str, prompts: int, n: int, seed: int) -> RunFolder:
    correct = draws(solve_rates(kind, prompts), n, seed)
    choice = np.random.default_rng(seed + 1000).integers(3, size=(prompts, n))
    answers = [
        [f"{'right' if right else 'wrong'} {choice[p, s]}" for s, right in enumerate(row)]
        for p, row in enumerate(correct)
    ]
    return write_run(path, correct, answers=answers, block=200)


def add_tokens(run: RunFolder, teacher: RunFolder, prompts: int, n: int, kept: float, seed: int) -> None:
    """Score a run by made-up entropies of which the student keeps a share."""
    for trajectory, source in (("teacher", teacher), ("student", run)):
        values = random_tokens(prompts, n, 4, seed=3)
        open_here = np.random.default_rng(seed).random(values["teacher_entropy"].shape) < kept
        values["student_entropy"] = values["teacher_entropy"] * np.where(open_here, 1.0, 0.2)
        write_tokens(run, trajectory, source, values)


def changed(audit: Audit) -> Audit:
    """A copy that may be changed."""
    return copy.deepcopy(audit[0]), copy.deepcopy(audit[1])


def whole(audit: Audit) -> Audit:
    """With all that texts and token tables could tell."""
    comparison, verdict = changed(audit)
    return with_branch_points(comparison), verdict


def older(audit: Audit) -> Audit:
    """As a version wrote it that knew nothing of branch points."""
    comparison, verdict = changed(audit)
    del comparison["tradeoff"]
    for item in (*comparison["runs"], *comparison["pairs"]):
        for key in ("families", "thresholds", "coverage", "diversity", "branches", "completion"):
            item.pop(key, None)
    return comparison, verdict


def without_numbers(
    value: Any,
    spared: tuple[str, ...] = (
        "settings",
        "sampling",
        "k",
        "judged",
        "n",
        "schema",
        "grid",
        "threshold",
        "length",
        "at",
    ),
) -> Any:
    """The same, with every measured number unknown."""
    if isinstance(value, dict):
        return {key: item if key in spared else without_numbers(item, spared) for key, item in value.items()}
    if isinstance(value, list):
        return [without_numbers(item, spared) for item in value]
    return None if isinstance(value, int | float) and not isinstance(value, bool) else value
