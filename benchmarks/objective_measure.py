"""What the objective study measures of a student, exactly, and how far a mean over prompts and seeds may be off."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from objective_arms import SAMPLED_PROMPTS, SAMPLES
from scipy import special
from testbed_supervised import draw_completions

from odeval import testbed
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.metrics.passk import pass_at_k as sampled_pass_at_k
from odeval.tasks.worlds import Split
from odeval.testbed import exact

KS = (1, 2, 4, 8, 16, 32, 64)
PROMPTS: dict[str, int] = {"selection": 400, "heldout": 1000}


@cache
def truth(world: str, split: Split) -> exact.Enumeration:
    """The teacher on a split; the same for every arm."""
    return enumeration(world, testbed.checkpoint(world, "teacher"), split)


def enumeration(world: str, folder: Path, split: Split) -> exact.Enumeration:
    """Probability of every correct answer to every prompt of a split."""
    own = testbed.world(world)
    model = HfModel(folder, "cpu")
    return exact.enumerate_solutions(model.model, model.tokenizer, own.prompts(split, PROMPTS[split]), own.solutions)


def measure(world: str, folder: Path, split: Split) -> dict[str, Any]:
    """Exact numbers of one model; `solved` is the chance of a right answer, prompt by prompt."""
    scores, teacher = enumeration(world, folder, split), truth(world, split)
    return {
        "solved": np.clip(scores.per_prompt(scores.probability), 0.0, 1.0).tolist(),
        "coverage": exact.coverage(scores, KS[-1]).tolist(),
        "retention": exact.retention(teacher, scores),
        "retention_by_position": by_position(teacher, scores),
        "high_entropy_share": exact.high_entropy_share(teacher, scores),
    }


def by_position(teacher: exact.Enumeration, student: exact.Enumeration, threshold: float = 0.8) -> list[list[float]]:
    """[share of the teacher's branch points, retention there] of every position of the completion."""
    weight = teacher.probability[:, None] * (teacher.mask_NT & (teacher.entropy_NT >= threshold))
    kept = (weight * (student.entropy_NT >= threshold)).sum(0)
    total = weight.sum(0)
    return [[float(t / weight.sum()), float(k / t)] for t, k in zip(total, kept, strict=True) if t > 0]


def sampled(world: str, folder: Path) -> dict[str, list[float]]:
    """[sampled, exact] pass@1 and pass@64 on the same prompts."""
    own = testbed.world(world)
    prompts = own.prompts("heldout", SAMPLED_PROMPTS)
    engine = HfEngine(folder, device="cpu")
    drawn = draw_completions(engine, own, prompts, SAMPLES, seed=0)
    read = engine.model.tokenizer.decode
    correct = [
        sum(bool(own.grade(prompt, read(ids, skip_special_tokens=True)).correct) for ids in rows)
        for prompt, (_, rows) in zip(prompts, drawn, strict=True)
    ]
    counts = np.full(len(prompts), SAMPLES)
    scores = enumeration(world, folder, "heldout")
    p = np.clip(scores.per_prompt(scores.probability), 0.0, 1.0)
    found = sampled_pass_at_k(counts, np.array(correct), (1, KS[-1])).mean(0)
    known = curve(p[: len(prompts)])[:, [0, -1]].mean(0)
    return {str(k): [float(a), float(b)] for k, a, b in zip((1, KS[-1]), found, known, strict=True)}


def curve(solved: np.ndarray) -> np.ndarray:
    """pass@k of every k of KS from solve rates [...]; returns [..., K]."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(np.array(KS) * np.log1p(-np.asarray(solved))[..., None]))


def groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Prompts with few and with many solutions: the lowest and the highest third, ties kept together."""
    low, high = np.quantile(counts, [1 / 3, 2 / 3])
    return {"all": np.ones(len(counts), bool), "few": counts <= low, "many": counts > high}


def crossed(change: np.ndarray, confidence: float = 0.95) -> list[float]:
    """[mean, low, high] over training seeds and prompts, both taken as drawn from more of their kind.

        V = s²_prompts / P + s²_seeds / S − s²_rest / (S P), t with Satterthwaite's degrees of freedom

    Each of the two mean squares holds the interaction once, so it is taken off once. With one seed only prompts count.

    Args:
        change: [S, P], seeds by prompts.
        confidence: Of the interval.
    """
    S, P = change.shape
    prompts, seeds, mean = change.mean(0), change.mean(1), float(change.mean())
    over_prompts = prompts.var(ddof=1) / P
    variance, degrees = over_prompts, float(P - 1)
    if S > 1:
        over_seeds = seeds.var(ddof=1) / S
        rest = change - prompts - seeds[:, None] + mean
        interaction = (rest**2).sum() / ((S - 1) * (P - 1)) / (S * P)
        variance = max(over_prompts + over_seeds - interaction, over_prompts, over_seeds)
        parts = over_prompts**2 / (P - 1) + over_seeds**2 / (S - 1)
        degrees = float(variance**2 / parts) if parts > 0 else degrees
    half = float(special.stdtrit(degrees, 0.5 + confidence / 2) * np.sqrt(variance))
    return [mean, mean - half, mean + half]


def stacked(rows: Iterable[dict[str, Any]], name: str) -> np.ndarray:
    """[S, P] from the records of several seeds."""
    return np.array([row[name] for row in rows])
