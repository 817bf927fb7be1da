"""Scoring the teacher's completions alone: half the cost, the same numbers."""

from __future__ import annotations

from pathlib import Path

from odeval.compare import compare
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.grading import grade
from odeval.parts import read_part
from odeval.sampling import sample
from odeval.scoring import score
from odeval.store import RunFolder
from odeval.tasks import load_task
from odeval.types import SamplingParams


def test_one_trajectory_alone_holds_what_both_would(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    task = load_task("graph_paths", limit=8)
    models = {name: HfModel(folder, "cpu") for name, folder in (("t", teacher_folder), ("s", student_folder))}
    runs = {name: RunFolder(tmp_path / name) for name in ("t", "s", "whole")}
    for name, run in runs.items():
        model = models.get(name, models["s"])
        sample(HfEngine(model), model.ref(), task, SamplingParams(n=4, max_tokens=task.max_tokens), run)
        grade(run, task.grade, task.grader)
    score(models["t"], models["s"], runs["t"], runs["s"], trajectories=("teacher",))
    score(models["t"], models["s"], runs["t"], runs["whole"])
    (alone,), (both,) = (run.part_paths(run.tokens("teacher")) for run in (runs["s"], runs["whole"]))
    assert read_part(alone).equals(read_part(both))
    assert runs["s"].part_paths(runs["s"].tokens("student")) == []
    found = compare([runs["s"]], runs["t"])["runs"][1]["metrics"]
    assert "retention@teacher" in found
    assert "retention@student" not in found
