"""Train the embedded models from scratch, measure every arm exactly, write the results, the report and the checkpoints.

    python benchmarks/train_testbed.py                 # both worlds, 2 processes of one thread each
    python benchmarks/train_testbed.py --report-only   # render reports/testbed from the stored results again

Per world: a teacher, trained on the true solutions; a small student, trained on the teacher's samples (the warm
start); and from that one warm start every arm, with three training seeds. The learning rate of each arm is the one
of RATES with the highest exact pass@1 on the selection prompts, for a training seed that is used for nothing else;
everything reported is measured on held-out prompts that no choice has seen.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import testbed_report
import torch
from scipy.stats import t as student_t

from odeval.divergence import entropy
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.sampling import completion_seed
from odeval.store import provenance, read_json, write_json
from odeval.tasks.worlds import World
from odeval.testbed import WORLDS, exact
from odeval.testbed.build import tiny_llama, tiny_tokenizer
from odeval.types import Prompt, SamplingParams, content_hash
from odkd.checkpoint import save
from odkd.config import make_config
from odkd.rollout import pad
from odkd.train import both_logits, train

ARMS: dict[str, dict[str, Any]] = {
    "reverse_kl": {"objective": "reverse_kl", "lmbda": 1.0},
    "forward_kl": {"objective": "forward_kl", "lmbda": 1.0},
    "blend": {"objective": "blend", "forward_weight": 0.3, "lmbda": 1.0},
    "gkd": {"objective": "jsd", "beta": 0.5, "lmbda": 0.5},
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)  # reported; the models of the first are embedded
SELECTION_SEED = 1000
KS = (1, 2, 4, 8, 16, 32, 64)
SELECTION_PROMPTS, HELDOUT_PROMPTS = 400, 1000
OWN_PROMPTS, OWN_SAMPLES = 200, 16  # for the entropy share on a model's own completions, the one sampled number

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / "odeval" / "testbed" / "checkpoints"
EMBEDDED = ("teacher", "warm_start", *ARMS)


@dataclass(frozen=True, slots=True)
class Supervised:
    """Cross-entropy training: shape is (width, layers, heads, ffn)."""

    shape: tuple[int, int, int, int]
    steps: int
    batch: int
    rate: float = 3e-3  # AdamW, for embeddings and norms; Muon takes five times as much for the matrices
    samples: int = 0  # completions of the teacher per prompt to learn from; 0: the true solutions


@dataclass(frozen=True, slots=True)
class Plan:
    """How one world's models are made. Several starts show whether a finding depends on the start."""

    teacher: Supervised
    starts: dict[str, Supervised]  # the first is the one learning rates are chosen on, and is embedded
    steps: int
    batch: int


PLANS = {
    "graph_paths": Plan(
        teacher=Supervised((64, 2, 4, 192), steps=1500, batch=128),
        starts={
            "warm_start": Supervised((12, 1, 1, 36), steps=2000, batch=128, samples=4),
            "early_start": Supervised((12, 1, 1, 36), steps=1000, batch=128, samples=4),
        },
        steps=400,
        batch=128,
    ),
    "countdown": Plan(
        teacher=Supervised((96, 3, 4, 256), steps=2400, batch=64, rate=2e-3),
        starts={"warm_start": Supervised((64, 2, 4, 192), steps=2000, batch=64, rate=2e-3, samples=4)},
        steps=200,
        batch=32,
    ),
}


def make_supervised(world: World, how: Supervised, teacher: Path | None, out: Path, seed: int) -> float:
    """Train by cross-entropy on completions of the train split; return the seconds it took."""
    started = time.perf_counter()
    prompts = world.prompts("train", None)
    if teacher is None:
        tokenizer: Any = tiny_tokenizer(world.vocabulary())
        encode = lambda text: [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]  # noqa: E731
        answers = [[encode(text) for text in world.solutions(prompt)] for prompt in prompts]
    else:
        engine = HfEngine(teacher, device="cpu")
        tokenizer = engine.model.tokenizer
        answers = [row for _, row in draw_completions(engine, world, prompts, how.samples, seed)]
    questions = [tokenizer(prompt.text)["input_ids"] for prompt in prompts]
    model = tiny_llama(len(tokenizer), *how.shape, seed=seed)
    fit(model, questions, answers, how, seed)
    save(model, tokenizer, out)
    return time.perf_counter() - started


def fit(model: Any, questions: list[list[int]], answers: list[list[list[int]]], how: Supervised, seed: int) -> None:
    """Minimise the cross-entropy of a random answer to a random question, with linear warm-up and decay."""
    rng = np.random.default_rng(seed)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=5 * how.rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=how.rate, weight_decay=0.01, betas=(0.9, 0.95)),
    ]
    model.train()
    for step in range(how.steps):
        chosen = rng.integers(len(questions), size=how.batch)
        batch = pad("teacher", [questions[i] for i in chosen], [answers[i][rng.integers(len(answers[i]))] for i in chosen])
        labels_BT = batch.ids_BT.masked_fill(~batch.generated_BT, -100)
        logits_BTV = model(input_ids=batch.ids_BT, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten())
        for optimizer, peak in zip(optimizers, (5 * how.rate, how.rate), strict=True):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = peak * min(1.0, (step + 1) / 50) * (1 - step / how.steps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
    model.eval()


def draw_completions(
    engine: HfEngine, world: World, prompts: list[Prompt], n: int, seed: int
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Sample n completions a prompt, as (prompt ids, token ids of each completion)."""
    ids = [engine.encode(prompt) for prompt in prompts]
    seeds = [[completion_seed(seed, "testbed", prompt.prompt_id, s) for s in range(n)] for prompt in prompts]
    drawn = engine.sample(ids, seeds, SamplingParams(n=1, max_tokens=world.max_tokens))
    return ((own, [[int(i) for i in c.token_ids] for c in row]) for own, row in zip(ids, drawn, strict=True))


def measure(world: World, folder: Path, teacher: Path, split: Any, limit: int) -> dict[str, Any]:
    """Exact numbers of one model on one split, with the per-prompt values that differences are paired on."""
    prompts = world.prompts(split, limit)
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


def run_arm(name: str, start: Path, teacher: Path, out: Path, arm: str, rate: float, seed: int, split: str) -> dict[str, Any]:
    """Train one arm with odkd and measure it; runs in a process of its own."""
    torch.set_num_threads(1)
    plan, world = PLANS[name], WORLDS[name]
    config = make_config(
        {
            **ARMS[arm],
            "model_name_or_path": str(start),
            "teacher_model_name_or_path": str(teacher),
            "dataset_name": name,
            "output_dir": str(out),
            "learning_rate": rate,
            "max_steps": plan.steps,
            "per_device_train_batch_size": plan.batch,
            "teacher_samples_per_prompt": next(iter(plan.starts.values())).samples,
            "max_completion_length": world.max_tokens,
            "seed": seed,
            "device": "cpu",
        }
    )
    started = time.perf_counter()
    train(config)
    seconds = time.perf_counter() - started
    spent = read_json(out / "training.json")["spent"]
    limit = SELECTION_PROMPTS if split == "selection" else HELDOUT_PROMPTS
    row = {"arm": arm, "start": start.name, "learning_rate": rate, "seed": seed, "seconds": seconds, **spent}
    return {**row, **measure(world, out, teacher, split, limit)}


def prepare(name: str, work: Path) -> dict[str, Any]:
    """Train the teacher and the starts of a world and measure them; runs in a process of its own."""
    torch.set_num_threads(1)
    world, plan, folder = WORLDS[name], PLANS[name], work / name
    models: dict[str, Any] = {}
    for model, how in {"teacher": plan.teacher, **plan.starts}.items():
        taught_by = None if model == "teacher" else folder / "teacher"
        seconds = make_supervised(world, how, taught_by, folder / model, seed=0)
        numbers = measure(world, folder / model, folder / "teacher", "heldout", HELDOUT_PROMPTS)
        size = sum(p.numel() for p in HfModel(folder / model, "cpu").model.parameters())
        models[model] = {"how": asdict(how), "parameters": size, "seconds": seconds, **numbers}
        print(f"{name} {model}: {size} parameters, {seconds:.0f} s, {brief(numbers)}", flush=True)
    return models


def paired(arm: list[dict[str, Any]], base: dict[str, Any]) -> dict[str, list[float]]:
    """Difference to the start in [value, low, high]: mean over seeds, 95% interval over prompts (Student's t)."""
    difference = np.mean([row["per_prompt"] for row in arm], axis=0) - np.array(base["per_prompt"])
    mean, error = difference.mean(0), difference.std(0, ddof=1) / np.sqrt(len(difference))
    reach = student_t.ppf(0.975, len(difference) - 1) * error
    names = [*(f"pass@{k}" for k in KS), "coverage_at_64"]
    return {n: [float(m), float(m - r), float(m + r)] for n, m, r in zip(names, mean, reach, strict=True)}


def study(work: Path, jobs: int) -> dict[str, Any]:
    """Train and measure everything."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        # The larger teacher first, so that both processes are busy to the end.
        waiting = {name: pool.submit(prepare, name, work) for name in sorted(PLANS)}
        models = {name: future.result() for name, future in waiting.items()}

        def submit(name: str, start: str, arm: str, rate: float, seed: int, split: str) -> Any:
            out = work / name / f"{start}-{arm}-{rate}-{seed}"
            return pool.submit(run_arm, name, work / name / start, work / name / "teacher", out, arm, rate, seed, split)

        first = {name: next(iter(plan.starts)) for name, plan in PLANS.items()}
        tried = {
            name: [submit(name, first[name], arm, rate, SELECTION_SEED, "selection") for arm in ARMS for rate in RATES]
            for name in PLANS
        }
        worlds: dict[str, Any] = {}
        for name, plan in PLANS.items():
            grid = [shown(future.result()) for future in tried[name]]
            best = {
                arm: max((row for row in grid if row["arm"] == arm), key=lambda row: row["pass_at_k"]["1"])["learning_rate"]
                for arm in ARMS
            }
            worlds[name] = {"selection": grid, "learning_rates": best}
            worlds[name]["runs"] = [
                submit(name, start, arm, best[arm], seed, "heldout") for start in plan.starts for arm in ARMS for seed in SEEDS
            ]
        for name, plan in PLANS.items():
            rows = [shown(future.result()) for future in worlds[name]["runs"]]
            changes = [
                {"start": start, "arm": arm, **paired([r for r in rows if (r["start"], r["arm"]) == (start, arm)], models[name][start])}
                for start in plan.starts
                for arm in ARMS
            ]
            strip = lambda row: {key: value for key, value in row.items() if key != "per_prompt"}  # noqa: E731
            worlds[name] |= {
                "world": content_hash([prompt.text for prompt in WORLDS[name].prompts("heldout", None)]),
                "heldout_prompts": len(models[name]["teacher"]["per_prompt"]),
                "steps": plan.steps,
                "batch": plan.batch,
                "models": {model: strip(row) for model, row in models[name].items()},
                "selection": [strip(row) for row in worlds[name]["selection"]],
                "runs": [strip(row) for row in rows],
                "difference_to_start": changes,
            }
    return worlds
