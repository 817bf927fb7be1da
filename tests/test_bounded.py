"""Bounds on branch points from top-K log-probabilities must hold whatever the unseen tokens were."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic import draws, write_run

from odeval.atomic import hash_files
from odeval.compare import compare
from odeval.metrics.bounded import bound_sums
from odeval.metrics.topk import Bounds, entropy_bounds, undecidable
from odeval.parts import read_part, write_table
from odeval.schemas import BOUND_COLUMNS, TOKEN_BOUNDS
from odeval.store import RunFolder

TAU = (0.672, 0.8, 1.0)


def table(rows: list[dict[str, list[float]]], keys: list[tuple[str, int]]) -> pa.Table:
    lists = [pa.array([row.get(name, [1.0]) for row in rows], pa.list_(pa.float32())) for name in BOUND_COLUMNS]
    return pa.table([[k for k, _ in keys], pa.array([s for _, s in keys], pa.int32()), *lists], schema=TOKEN_BOUNDS)


def test_the_extremes_are_those_over_every_way_to_decide() -> None:
    generator = np.random.default_rng(0)
    decided = 0
    for _ in range(60):
        size = 5
        ends = np.sort(generator.choice([0.5, 0.9, 1.3], (2, size, 2)), axis=2)
        row = {
            "teacher_entropy_low": ends[0, :, 0].tolist(), "teacher_entropy_high": ends[0, :, 1].tolist(),
            "student_entropy_low": ends[1, :, 0].tolist(), "student_entropy_high": ends[1, :, 1].tolist(),
            "teacher_mass": [1.0] * size, "student_mass": [1.0] * size,
        }  # fmt: skip
        found = bound_sums(table([row], [("p", 0)]), [1.0])
        choices = [[set(e >= 1.0) for e in model] for model in ends]
        shares, ratios = [], []
        for teacher in itertools.product(*choices[0]):
            shares.append(np.mean(teacher))
            for student in itertools.product(*choices[1]):
                branch = sum(teacher)
                if branch:
                    ratios.append(sum(t and s for t, s in zip(teacher, student, strict=True)) / branch)
        values = {name: metric.numerator.sum() / max(metric.denominator.sum(), 1) for name, metric in found.items()}
        assert values["teacher_high_entropy.low"] == pytest.approx(min(shares))
        assert values["teacher_high_entropy.high"] == pytest.approx(max(shares))
        for end, extreme in (("low", min), ("high", max)):
            if found[f"retention.{end}"].denominator.sum():  # else it may be that there is no branch point
                assert values[f"retention.{end}"] == pytest.approx(extreme(ratios))
                decided += 1
    assert decided > 60


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunFolder, RunFolder, np.ndarray]:
    """Full distributions over 40 words, of which the server told the 5 likeliest."""
    rates = np.full(30, 0.5)
    teacher, student = (write_run(tmp_path / name, draws(rates, 6, i)) for i, name in enumerate("ts"))
    generator, truth = np.random.default_rng(1), []
    for path in teacher.part_paths(teacher.samples):
        keys = read_part(path, ["prompt_id", "sample_id"])
        rows = []
        for _ in range(keys.num_rows):
            row: dict[str, list[float]] = {}
            for model in ("teacher", "student"):
                p = generator.dirichlet([0.06] * 40, 2)
                truth.append(-(p * np.log(np.maximum(p, 1e-300))).sum(1))
                bounds = entropy_bounds(np.log(np.maximum(np.sort(p)[:, -5:], 1e-300)), 40)
                row |= {f"{model}_entropy_low": bounds.low.tolist(), f"{model}_entropy_high": bounds.high.tolist()}
                row |= {f"{model}_mass": bounds.mass.tolist()}
            rows.append(row)
        names = list(zip(keys["prompt_id"].to_pylist(), keys["sample_id"].to_pylist(), strict=True))
        write_table(student.tokens("teacher") / path.name, table(rows, names), {"samples": hash_files([path])})
    return teacher, student, np.array(truth).reshape(-1, 2, 2)


def test_a_comparison_says_bounds_and_counts_what_cannot_be_decided(
    runs: tuple[RunFolder, RunFolder, np.ndarray],
) -> None:
    teacher, student, truth = runs
    comparison = json.loads(json.dumps(compare([student], teacher), allow_nan=False))
    run = comparison["runs"][1]
    found = run["bounds"]["teacher"]
    assert found["label"] == "bounds from top-K log-probabilities, not estimates"
    assert found["tokens"] == truth[:, 0].size
    for j, tau in enumerate(TAU):
        high = {"teacher": truth[:, 0] >= tau, "student": truth[:, 1] >= tau}
        both = (high["teacher"] & high["student"]).sum() / high["teacher"].sum()
        for name, value in (
            ("teacher_high_entropy", high["teacher"].mean()), ("student_high_entropy", high["student"].mean()),
            ("retention", both),
        ):  # fmt: skip
            assert found[name]["grid"][j] == tau
            assert found[name]["low"]["value"][j] <= value <= found[name]["high"]["value"][j]
            assert found[name]["low"]["low"][j] <= found[name]["low"]["value"][j]
    parts = [read_part(path) for path in student.part_paths(student.tokens("teacher"))]
    lows, highs = (
        np.concatenate([np.concatenate(part[f"teacher_entropy_{end}"].to_pylist()) for part in parts])
        for end in ("low", "high")
    )
    for j, tau in enumerate(TAU):
        count = undecidable(Bounds(lows, highs, lows), tau).sum()
        assert found["teacher_high_entropy"]["undecidable_tokens"][j] == count
    assert sum(found["teacher_high_entropy"]["undecidable_tokens"]) > 0
    assert not any("@" in name and ("entropy" in name or "retention" in name) for name in run["metrics"]), (
        "no value where there is none"
    )
    assert comparison["pairs"][0]["branches"] is None
    assert comparison["runs"][0]["bounds"] == {}
