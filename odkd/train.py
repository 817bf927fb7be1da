"""The loop, top to bottom: roll out, run both models over the same tokens, compare, step.

Same configuration, same weights, bit for bit on a CPU with one thread; killed at any point, the same call goes on from
the last checkpoint and ends with the same files.

    output_dir/
      config.json, model.safetensors, tokenizer …   the student, in Hugging Face format (adapters in adapter/)
      log.jsonl, probes.jsonl                       one line per step, one per probe
      best/, probes/                                the best probe's student; what was sampled for the probes
      checkpoint-000100/                            to go on from
      settings.json, training.json                  the configuration; when it is done, the ledger and how it ended
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from odeval.sampling import completion_seed
from odeval.store import RunFolder
from odkd.config import TrainConfig
from odkd.diagnostics import Twins
from odkd.ranks import this_rank
from odkd.rollout import training_prompts
from odkd.run import Run, is_finished
from odkd.update import accumulate, objective_of

Watch = Callable[[dict[str, Any], int], None]


def train(config: TrainConfig, watch: Watch = lambda row, steps: None) -> Path:
    """Distil a teacher into a student, or go on with a run that was killed.

    Args:
        config: Every setting.
        watch: Told the log's row of each update and the number of updates in all, for a live view.

    Returns:
        `output_dir`, which then holds the trained student.

    Raises:
        OdevalError: A folder is no model, vocabularies differ, output_dir is in use or of another configuration, loss
            is not finite.
    """
    ranks, out = this_rank(config.device), Path(config.output_dir)
    prompts = training_prompts(config.dataset_name)
    config = with_steps(config, len(prompts), ranks.size)
    if is_finished(out, config):
        return out
    with RunFolder(out).lock() if ranks.rank == 0 else nullcontext():
        run = Run(config, prompts, ranks)
        device = run.pair.student.device
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                _loop(run, watch)
        finally:
            if run.log:
                run.log.close()
        run.finish()
    return out


def _loop(run: Run, watch: Watch) -> None:
    config, ranks, ledger, student = run.config, run.ranks, run.ledger, run.pair.student.model
    parameters = list(run.pair.trainable.values())
    if run.probe and run.start == 0:
        run.probe.measure(0, ranks, run.log, ledger)  # the start, which later probes are compared with
    for step in range(run.start, config.max_steps):
        now, before = config.at(step), run.before(step)
        torch.manual_seed(completion_seed(config.seed, "dropout", f"step {step}", ranks.rank))
        with ledger.phase("rollout"):
            student.eval()  # dropout belongs to the update, not to what is sampled
            batches = run.rollouts.at(step)
        with ledger.phase("update"):
            student.train(not config.disable_dropout)
            run.optimizer.zero_grad()
            twins = Twins(config.entropy_threshold, run.pair.student.device, step)
            accumulate(run.pair, batches, now, ranks, twins, ledger)
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or math.inf).item()
            told = twins.row(ranks)
        run.gradient_is_finite(step, batches, told["loss"], norm)
        run.save(step, before)
        rate = config.learning_rate * schedule(config, step)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        with ledger.phase("update"):
            run.optimizer.step()

        source = batches[0].source
        name, on_policy = objective_of(now, source), source in ("student", "mixed")
        ledger.updates, ledger.on_policy_updates = step + 1, ledger.on_policy_updates + on_policy
        if on_policy and run.entropy_at_start is None:
            run.entropy_at_start = told["student_entropy"]
        drift = told["student_entropy"] - run.entropy_at_start if on_policy and run.entropy_at_start else None
        if name.startswith("topk_") and now.loss_temperature == 1:
            told["tail_gap"] = told[name.removeprefix("topk_")] - told["loss"]
        row = {"step": step, "source": source, "objective": name, **told, "entropy_drift": drift}
        row["on_policy_fraction"] = ledger.on_policy_updates / ledger.updates
        row |= {"grad_norm": norm, "learning_rate": rate}
        if run.log:
            run.log.write(row)
        watch(row, config.max_steps)
        if run.probe and run.probe.due(step + 1):
            run.probe.measure(step + 1, ranks, run.log, ledger)
            if run.probe.stop:
                break


def with_steps(config: TrainConfig, num_prompts: int, ranks: int) -> TrainConfig:
    """Turn num_train_epochs into max_steps, where max_steps is not given.

    Args:
        config: As configured.
        num_prompts: Of the data set.
        ranks: Processes.
    """
    if config.max_steps > 0 or config.num_train_epochs is None:
        return config
    rows = config.per_device_train_batch_size * config.gradient_accumulation_steps * ranks
    steps = math.ceil(config.num_train_epochs * num_prompts * config.num_generations / rows)
    return config.with_max_steps(steps)


def schedule(config: TrainConfig, step: int) -> float:
    """Learning rate of a step, as a share of its peak.

    Example:
        >>> where = dict(model_name_or_path="s", teacher_model_name_or_path="t", dataset_name="d")
        >>> config = TrainConfig(**where, output_dir="o", max_steps=4, warmup_steps=2)
        >>> [schedule(config, step) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    warmup = config.warmup_steps if config.warmup_steps >= 1 else round(config.warmup_steps * config.max_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.lr_scheduler_type.startswith("constant"):
        return 1.0
    left = (config.max_steps - step) / (config.max_steps - warmup)
    return left if config.lr_scheduler_type == "linear" else 0.5 * (1 - math.cos(math.pi * left))
