"""One run folder → every metric's sums per prompt. Reads the token tables part by part."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from odeval.completions import Completions, load_completions, per_prompt
from odeval.errors import CannotJudge
from odeval.grading import check_grades
from odeval.metrics import FAMILIES, METRICS
from odeval.metrics.bounded import bound_sums
from odeval.metrics.entropy import survival
from odeval.metrics.passk import counts
from odeval.metrics.tokens import blocks, last_parts, whole_prompts
from odeval.moments import Moments, RunningRatio
from odeval.parts import part_columns
from odeval.questions import Questions
from odeval.schemas import BOUND_COLUMNS
from odeval.store import RunFolder
from odeval.sums import Sums
from odeval.types import TRAJECTORIES, PerPrompt

THRESHOLDS = (0.672, 0.8, 1.0)  # nats: arXiv 2506.01939, and the two of arXiv 2603.07079
SURVIVAL_EDGES = np.linspace(0.0, 5.0, 101)  # nats
PAIRED = ("forward_kl_by_position",)  # families compared between trajectories: exposure bias


@dataclass(frozen=True, eq=False)
class Measured:
    """A run, reduced to what comparisons need.

    Attributes:
        label: Name of the run, unique in a comparison.
        meta: run.json.
        prompts: By prompt_id.
        contents: [P] hash of each question in the order of prompts.ids, empty where it is not known.
        completions: Read block by block; empty for a run that holds counts only.
        counts: n and c per prompt.
        sums: Metric name (with @trajectory for token metrics) → PerPrompt.
        families: Family name with @trajectory → its curve with the error of it.
        by_prompt: The same per prompt, for the families of which differences are taken.
        survival: Trajectory → {"teacher", "student"} → token counts per bin of SURVIVAL_EDGES; empty if not scored.
        bounds: Trajectory → what `bound_sums` finds, for token tables that hold bounds instead of values.
        thresholds: Name → entropy in nats: absolute ones, and the teacher's own 80th percentile for both models.
    """

    label: str
    meta: dict[str, Any]
    prompts: Questions
    contents: np.ndarray
    completions: Completions
    counts: pd.DataFrame
    sums: Sums
    by_prompt: Sums
    families: dict[str, Moments] = field(default_factory=dict)
    survival: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    bounds: dict[str, Sums] = field(default_factory=dict)


def measure(run: RunFolder, label: str, threshold: float) -> Measured:
    """Compute every entry of METRICS on one run.

    Args:
        run: Sampled and graded; scored if token metrics are wanted.
        label: Its name in the comparison.
        threshold: τ of a branch point, nats.

    Raises:
        CannotJudge: The run is not graded, or an artifact is older than what it was made from.
    """
    meta = run.meta()
    if (run.path / "counts.jsonl").exists():
        return _counted(run, label, meta)
    check_grades(run)
    prompts = Questions(run)
    completions = load_completions(run, prompts.ids)
    if absent := int((completions.num_samples == 0).sum()):
        raise CannotJudge(
            f"{run.path}: {absent} of {len(prompts)} prompts have no completion yet; rerun `odeval sample`"
        )
    sums, counted = per_prompt(_of_completions, completions), per_prompt(_graded, completions)
    graded = counted["graded"]
    n_and_c = pd.DataFrame(
        {"n": graded.denominator.astype(np.int64), "c": graded.numerator.astype(np.int64)}, index=graded.prompt_ids
    )
    found = Measured(label, meta, prompts, prompts.contents, completions, n_and_c, sums, Sums(prompts.ids))
    scored = {where: parts[0] for where in TRAJECTORIES if (parts := run.part_paths(run.tokens(where)))}
    bounded = {where for where, path in scored.items() if BOUND_COLUMNS[0] in part_columns(path)}
    if "teacher" in scored:
        found.thresholds.update({f"{tau:g}": tau for tau in sorted({*THRESHOLDS, threshold})})
        if not bounded:
            found.thresholds["teacher's 80th percentile"] = entropy_quantile(run, 0.8)
    for trajectory in scored:
        if trajectory in bounded:
            _measure_bounds(run, trajectory, found)
        else:
            _measure_tokens(run, trajectory, threshold, found)
    return found


def _of_completions(completions: pd.DataFrame) -> dict[str, PerPrompt]:
    return {name: metric.compute(completions) for name, metric in METRICS.items() if metric.table == "completions"}


def _graded(completions: pd.DataFrame) -> dict[str, PerPrompt]:
    table = counts(completions)
    return {"graded": PerPrompt(table.index.to_numpy(), table["c"].to_numpy(), table["n"].to_numpy())}


def _measure_bounds(run: RunFolder, trajectory: str, found: Measured) -> None:
    """Reduce a trajectory of which only the likeliest tokens are known."""
    grid = tuple(found.thresholds.values()) or THRESHOLDS
    names = found.prompts.ids
    parts = (bound_sums(table, grid) for table in run.iterate(run.tokens(trajectory)))
    found.bounds[trajectory] = Sums(names)
    for sums in whole_prompts(parts, names, last_parts(run, trajectory, names)):
        found.bounds[trajectory].put(sums)


def _counted(run: RunFolder, label: str, meta: dict[str, Any]) -> Measured:
    """A run that holds n and c per prompt and nothing else, such as a baseline kept for CI."""
    lines = (run.path / "counts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    table = pd.DataFrame(
        {key: [int(row[key]) for row in rows] for key in ("n", "c")}, index=[row["id"] for row in rows]
    )
    prompts = Questions(run)
    known = {row["id"]: row.get("content", "") for row in rows}
    contents = np.array([known.get(name, "").encode() for name in prompts.ids])
    sums, by_prompt = Sums(prompts.ids), Sums(prompts.ids)
    return Measured(label, meta, prompts, contents, Completions(), table.sort_index(), sums, by_prompt)


def _measure_tokens(run: RunFolder, trajectory: str, threshold: float, found: Measured) -> None:
    """Reduce a trajectory part by part; what stays does not grow with the tokens, and hardly with the prompts."""
    taus = tuple(found.thresholds.values())
    grids = {name: family.grid or taus for name, family in FAMILIES.items() if family.reads == "tokens"}
    metrics = [name for name, metric in METRICS.items() if metric.table == "tokens"]
    histograms: dict[str, np.ndarray] = {}

    def parts() -> Iterator[dict[str, PerPrompt]]:
        for tokens in blocks(run, trajectory):
            for model, counted in survival(tokens, SURVIVAL_EDGES).items():
                histograms[model] = histograms.get(model, 0) + counted
            sums = {name: METRICS[name].compute(tokens, threshold) for name in metrics}
            yield sums | {name: FAMILIES[name].compute(tokens, grid) for name, grid in grids.items() if grid}

    names, groups = found.prompts.ids, _clusters(found.prompts)
    running = {name: RunningRatio(len(names), groups) for name, grid in grids.items() if grid}
    for sums in whole_prompts(parts(), names, last_parts(run, trajectory, names)):
        for name, ratio in running.items():
            ratio.add(sums[name])
        found.sums.put({f"{name}@{trajectory}": sums[name] for name in metrics})
        found.by_prompt.put({f"{name}@{trajectory}": sums[name] for name in PAIRED})
    for name in (f"{name}@{trajectory}" for name in metrics):
        if np.isnan((whole := found.sums[name]).numerator).any():
            # Unknown anywhere is unknown everywhere: no mean over those prompts alone that were looked at.
            found.sums.put({name: replace(whole, numerator=whole.numerator * math.nan)})
    found.families.update({f"{name}@{trajectory}": ratio.result() for name, ratio in running.items()})
    found.survival[trajectory] = histograms


def _clusters(prompts: Questions) -> dict[str, int] | None:
    return None if prompts.clusters is None else dict(zip(prompts.ids, prompts.clusters.tolist(), strict=True))


def entropy_quantile(run: RunFolder, share: float) -> float:
    """Quantile of the teacher's entropy over the tokens of its own completions, to 0.001 nats."""
    edges = np.arange(0.0, 20.0, 1e-3)
    counted = np.zeros(len(edges) - 1, dtype=np.int64)
    for tokens in blocks(run, "teacher"):
        counted += survival(tokens, edges)["teacher"]
    return float(edges[np.searchsorted(np.cumsum(counted), share * counted.sum())]) if counted.any() else math.nan
