"""What is measured of a testbed model: exactly by enumeration, but for one entropy share that is sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t
from testbed_supervised import draw_completions

from odeval.divergence import entropy
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.tasks.worlds import Split, World
from odeval.testbed import exact
from odkd.rollout import pad
from odkd.update import both_logits

KS = (1, 2, 4, 8, 16, 32, 64)
SELECTION_PROMPTS, HELDOUT_PROMPTS = 400, 1000
OWN_PROMPTS, OWN_SAMPLES = (
    200,
    16,
)  # for the entropy share on a model's own completions, the one sampled number


def measure(world: World, folder: Path, teacher: Path, split: Split) -> dict[str, Any]:
    """Exact numbers of one model on one split, with the per-prompt values that differences are paired on."""
    prompts = world.prompts(split, SELECTION_PROMPTS if split == "selection" else HELDOUT_PROMPTS)
    own, reference = HfModel(folder, "cpu"), HfModel(teacher, "cpu")
    scores, truth = (
        exact.enumerate_solutions(m.model, m.tokenizer, prompts, world.solutions) for m in (own, reference)
    )
    passes, found = exact.pass_at_k(scores, KS), exact.coverage(scores, KS[-1])
    sequences = list(draw_completions(HfEngine(own), world, prompts[:OWN_PROMPTS], OWN_SAMPLES, seed=0))
    batch = pad("student", [ids for ids, row in sequences for _ in row], [one for _, row in sequences for one in row])
    with torch.no_grad():
        entropies = entropy(both_logits(own, own, batch)[0])
    return {
        "pass_at_k": dict(zip(map(str, KS), passes.mean(0).tolist(), strict=True)),
        "coverage_at_64": float(found.mean()),
        "retention": exact.retention(truth, scores),
        "high_entropy_share": exact.high_entropy_share(truth, scores),
        "high_entropy_share_own": float((entropies >= 0.8).double().mean()),
        "per_prompt": np.column_stack([passes, found]).tolist(),
    }


def paired(arm: list[dict[str, Any]], base: dict[str, Any]) -> dict[str, list[float]]:
    """Difference to the start, [value, low, high]: mean over seeds, 95% interval over prompts (t)."""
    difference = np.mean([row["per_prompt"] for row in arm], axis=0) - np.array(base["per_prompt"])
    mean, error = difference.mean(0), difference.std(0, ddof=1) / np.sqrt(len(difference))
    reach = student_t.ppf(0.975, len(difference) - 1) * error
    names = [*(f"pass@{k}" for k in KS), "coverage_at_64"]
    return {n: [float(m), float(m - r), float(m + r)] for n, m, r in zip(names, mean, reach, strict=True)}


def strip(row: dict[str, Any]) -> dict[str, Any]:
    """A result without its per-prompt values, rounded to what differs between machines."""
    return {key: _rounded(value) for key, value in row.items() if key != "per_prompt"}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
