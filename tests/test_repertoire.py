"""Coverage in a comparison, and against the truth under real models, whose every solution has a known probability."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import draws, write_run

from odeval import testbed
from odeval.completions import Completions
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.measure import Measured, measure
from odeval.metrics.classes import class_counts
from odeval.metrics.coverage import coverage_gap_at_k, recall_at_k, self_coverage_at_k, solution_coverage_at_k
from odeval.repertoire import coverage_of
from odeval.rows import VarietySettings
from odeval.stats import linearise
from odeval.testbed import exact
from odeval.types import SamplingParams


@pytest.mark.parametrize(("world", "student"), [("graph_paths", "reverse_kl"), ("countdown", "warm_start")])
def test_samples_agree_with_enumeration(world: str, student: str) -> None:
    here, n, ks = testbed.world(world), 48, [1, 4, 16, 32]
    prompts = here.prompts("heldout", 40)
    runs, scores = [], []
    for number, name in enumerate(("teacher", student)):
        folder = testbed.checkpoint(world, name)
        engine = HfEngine(folder, "cpu")
        seeds = [[7_919 * number + 1_000_003 * p + s for s in range(n)] for p in range(len(prompts))]
        drawn = engine.sample(
            [engine.encode(prompt) for prompt in prompts], seeds, SamplingParams(n=1, max_tokens=here.max_tokens)
        )
        rows = [
            (prompt.prompt_id, s, float(bool(grade.correct)), grade.answer)
            for prompt, own in zip(prompts, drawn, strict=True)
            for s, grade in enumerate(here.grade(prompt, completion.text) for completion in own)
        ]
        runs.append(pd.DataFrame(rows, columns=["prompt_id", "sample_id", "correct", "answer"]))
        loaded = HfModel(folder, "cpu")
        scores.append(exact.enumerate_solutions(loaded.model, loaded.tokenizer, prompts, here.solutions))
    teacher, other = scores
    own, candidate = class_counts(*runs)
    order = np.argsort([prompt.prompt_id for prompt in prompts])

    def reached(source: exact.Enumeration, drawn: exact.Enumeration, k: int) -> np.ndarray:
        return source.per_prompt(source.probability * (1 - (1 - np.minimum(drawn.probability, 1)) ** k))

    solutions = {prompt.prompt_id: here.solutions(prompt) for prompt in prompts}
    for j, k in enumerate(ks):
        truths = {
            "recall": (recall_at_k(own, candidate, ks), reached(teacher, other, k)),
            "ceiling": (self_coverage_at_k(own, ks), reached(teacher, teacher, k)),
            "grounding": (recall_at_k(candidate, own, ks), reached(other, teacher, k)),
            "solutions": (solution_coverage_at_k(candidate, solutions, ks), exact.coverage(other, k)),
        }
        for name, (found, truth) in truths.items():
            error = found.numerator[:, j] - truth[order]
            assert abs(error.sum()) < 4 * np.sqrt((error**2).sum()), (name, k)
            assert np.abs(error).mean() < 0.2, (name, k)
    rate = recall_at_k(own, candidate, ks).denominator[:, 0] - teacher.per_prompt(teacher.probability)[order]
    assert abs(rate.sum()) < 4 * np.sqrt((rate**2).sum())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Measured, Measured]:
    folder, generator = tmp_path_factory.mktemp("coverage"), np.random.default_rng(0)
    measured = []
    for seed, name in enumerate(("teacher", "student")):
        correct = draws(generator.random(30), 12, seed)
        answers = [[f"{'r' if c else 'w'}{generator.integers(1 + 5 // (1 + seed))}" for c in row] for row in correct]
        measured.append(measure(write_run(folder / name, correct, answers=answers), name, 0.8))
    return measured[0], measured[1]


def test_the_entry_of_a_comparison(pair: tuple[Measured, Measured]) -> None:
    ks = [1, 2, 4, 8, 12]
    found = coverage_of(*pair, ks, VarietySettings(by=("answer", "digest"), modes=3))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [(view["by"], view["draws"]) for view in found["views"]] == [
        (by, draws) for by in ("answer", "digest") for draws in ("k completions", "k right completions")
    ]
    own, other = class_counts(*(run.completions.whole() for run in pair))
    gap = linearise(coverage_gap_at_k(own, other, ks), list(own.prompt_ids))
    view = found["views"][0]
    assert view["gap"]["value"][:4] == pytest.approx(gap.value[:4])
    assert view["gap"]["value"][4] is None  # 12 of 12: nothing is left for the ceiling
    assert "no prompt" in view["gap"]["caution"][4]
    for j in range(4):
        assert view["gap"]["value"][j] == pytest.approx(view["ceiling"]["value"][j] - view["recall"]["value"][j])
        assert view["gap"]["degrees"][j] == view["gap"]["n"][j] - 1
    scarce = found["views"][1]["recall"]
    assert scarce["n"][3] < 30  # few prompts have more than 8 right completions in both runs
    assert scarce["degrees"][3] == scarce["n"][3] - 1
    assert found["solutions"] is None
    assert len(found["lost"]["listed"]) == min(3, found["lost"]["count"])
    assert found["lost"]["prompts"] <= 30
    assert found["note"] == ""


def test_the_share_of_solutions_where_a_task_lists_them(tmp_path: Path) -> None:
    world = testbed.world("graph_paths")
    prompts, generator = world.prompts("heldout", 12), np.random.default_rng(1)
    measured = []
    for name in ("one", "two"):
        answers = [[str(generator.choice(world.solutions(prompt))) for _ in range(6)] for prompt in prompts]
        run = write_run(tmp_path / name, [[True] * 6] * 12, answers=answers, prompts=prompts)
        measured.append(measure(run, name, 0.8))
    for run in measured:
        run.meta["task"]["name"] = "graph_paths"
    found = coverage_of(measured[0], measured[1], [1, 6])["solutions"]
    shares = [
        own["answer"].nunique() / len(world.solutions(prompt))
        for prompt in prompts
        for own in [measured[0].completions.of([prompt.prompt_id])]
    ]
    assert found["baseline"]["value"][1] == pytest.approx(np.mean(shares))
    assert found["label"] == "share of all solutions found in k completions"


def test_counts_alone_say_so(pair: tuple[Measured, Measured]) -> None:
    bare = replace(pair[1], completions=Completions())
    found = coverage_of(pair[0], bare, [1])
    assert found["note"] == "student: counts only; which answers were given is not known"
    assert found["views"] == []
