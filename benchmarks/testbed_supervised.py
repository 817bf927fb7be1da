"""Supervised training of the testbed's teachers and of its students before distillation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odeval.engines.hf import HfEngine
from odeval.sampling import completion_seed
from odeval.tasks.worlds import World
from odeval.testbed.build import tiny_llama, tiny_tokenizer
from odeval.types import Prompt, SamplingParams
from odkd.checkpoint import save
from odkd.rollout import pad


@dataclass(frozen=True, slots=True)
class Supervised:
    """Cross-entropy training: shape is (width, layers, heads, ffn)."""

    shape: tuple[int, int, int, int]
    steps: int
    batch: int
    rate: float = 3e-3  # AdamW, for embeddings and norms; Muon takes five times as much for the matrices
    samples: int = 0  # completions of the teacher per prompt to learn from; 0: the true solutions


def make_supervised(world: World, how: Supervised, teacher: Path | None, out: Path, seed: int) -> float:
    """Train by cross-entropy on completions of the train split; return the CPU seconds it took."""
    started = time.process_time()
    prompts = world.prompts("train", None)
    if teacher is None:
        tokenizer: Any = tiny_tokenizer(world.vocabulary())
        end = tokenizer.eos_token_id
        answers = [
            [[*tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in world.solutions(prompt)]
            for prompt in prompts
        ]
    else:
        engine = HfEngine(teacher, device="cpu")
        tokenizer = engine.model.tokenizer
        answers = [row for _, row in draw_completions(engine, world, prompts, how.samples, seed)]
    questions = [tokenizer(prompt.text)["input_ids"] for prompt in prompts]
    model = tiny_llama(len(tokenizer), *how.shape, seed=seed)
    fit(model, questions, answers, how, seed)
    save(model, tokenizer, out)
    return time.process_time() - started


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
        batch = pad(
            "teacher",
            [questions[i] for i in chosen],
            [answers[i][rng.integers(len(answers[i]))] for i in chosen],
        )
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
