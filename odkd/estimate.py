"""Memory and time of a run before they are spent: shapes counted, a few real updates taken and thrown away."""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from odeval.atomic import read_json
from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.fused.loss import fitting_chunk
from odkd.config import TrainConfig
from odkd.fusing import fusing_of
from odkd.ranks import this_rank
from odkd.rollout import training_prompts
from odkd.train import train, with_steps
from odkd.update import chunk_tokens

_CACHE = 2**30  # what the sampler may take
_DOUBLES = 8  # tensors of a chunk in float64 that a divergence and its gradient hold at once
_OWN = {"probe_task", "probe_grader", "rules", "max_coverage_gap", "early_stopping_patience", "eval_steps", "phases"}


def estimate(config: TrainConfig, steps: int = 3) -> dict[str, Any]:
    """Measure a few updates of a run in a folder of their own, and count what the whole will take.

    Args:
        config: Of the run.
        steps: Updates that are timed, after one that is not. Of a run in phases, the first phase's.

    Returns:
        `memory_bytes` by part, `peak_memory_bytes` measured, `seconds_per_step`, `seconds`, `steps`, and per step
        `tokens_sampled`, `tokens_trained`, `tokens_scored_by_teacher`, `flops`. Probes and checkpoints are not counted.

    Raises:
        OdevalError: What `train` raises; or fewer than one step is wanted.
    """
    if steps < 1:
        raise OdevalError(f"steps {steps}: at least 1 update must be timed")
    whole = with_steps(config, len(training_prompts(config.dataset_name)), this_rank(config.device).size)
    first = whole.at(0)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        given = {name: getattr(first, name) for name in first.model_fields_set - _OWN}
        tried = TrainConfig(
            **{**given, "output_dir": str(out), "max_steps": steps + 1, "save_steps": steps + 2, "report_to": "none",
               "load_best_model_at_end": False, "lr_scheduler_type": "constant", "num_train_epochs": None}
        )  # fmt: skip
        stamps: list[float] = []
        train(tried, lambda row, total: stamps.append(time.perf_counter()))
        ledger = read_json(out / "training.json")["ledger"]
        memory = _memory(config)
    seconds = statistics.median(b - a for a, b in pairwise(stamps))
    per_step = {
        name: ledger[name]["all"] / ledger["updates"]
        if isinstance(ledger[name], dict)
        else ledger[name] / ledger["updates"]
        for name in ("tokens_sampled", "tokens_trained", "tokens_scored_by_teacher", "flops")
    }
    return {
        "memory_bytes": memory,
        "peak_memory_bytes": ledger["peak_memory_bytes"],
        "seconds_per_step": seconds,
        "steps": whole.max_steps,
        "seconds": seconds * whole.max_steps,
        "per_step": per_step,
    }


def _memory(config: TrainConfig) -> dict[str, int]:
    """What is held at once, apart from activations, which the measured peak holds."""
    student = HfModel(config.model_name_or_path, "cpu", "float32")
    teacher = HfModel(config.teacher_model_name_or_path, "cpu", "bfloat16" if config.bf16 else "auto")
    weights = sum(parameter.numel() for parameter in student.model.parameters())
    trained = weights
    if config.use_peft:  # two matrices of rank r beside every linear layer but the head
        head = student.model.get_output_embeddings()
        linear = [m for m in student.model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        trained = sum(config.lora_r * sum(module.weight.shape) for module in linear)
        weights += trained
    other = sum(parameter.numel() * parameter.element_size() for parameter in teacher.model.parameters())
    rows = config.per_device_train_batch_size
    longest = rows * config.max_completion_length
    device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    now = config.at(0)
    fused = fusing_of(student, teacher, now, now.objective) is not None
    chunk = (fitting_chunk if fused else chunk_tokens)(student.vocab_size, device)
    constant, per_token = student.cache_bytes
    room = rows * (constant + per_token * (config.max_completion_length + 1))
    found = {
        "student_weights": 4 * weights,
        "gradients": 4 * trained,
        "adam": 8 * trained,
        "teacher_weights": other,
        "logits": min(chunk, longest) * student.vocab_size * (2 * 4 + (0 if fused else _DOUBLES * 8)),
        "sampling_cache": min(_CACHE, room),
    }
    return {**found, "all": sum(found.values())}


def lines_of(found: dict[str, Any]) -> list[str]:
    """The estimate for people."""
    mib = {name: f"{value / 2**20:.1f} MiB" for name, value in found["memory_bytes"].items()}
    parts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in mib.items() if name != "all")
    step = found["per_step"]
    return [
        f"memory    {mib['all']} and activations ({parts}); measured peak {found['peak_memory_bytes'] / 2**20:.1f} MiB",
        f"time      {found['seconds_per_step']:.3f} s a step, {_clock(found['seconds'])} for {found['steps']} steps",
        f"per step  {step['tokens_sampled']:.0f} tokens sampled, {step['tokens_trained']:.0f} trained, "
        f"{step['tokens_scored_by_teacher']:.0f} through the teacher, {step['flops']:.3g} FLOPs",
    ]


def _clock(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
