"""The loop, top to bottom: roll out, run both models over the same tokens, compare, step.

    loss = Σ over the batch's generated tokens of objective(student, teacher)  /  number of those tokens

Gradients flow through the student's distributions, not through what was sampled: the prefixes are data. Same
configuration, same weights, bit for bit on a CPU.

    output_dir/
      config.json, model.safetensors, tokenizer …   the student, in Hugging Face format
      log.jsonl                                     one line per step
      training.json                                 the resolved configuration and what was spent
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from odeval.atomic import write_json
from odeval.divergence import score_tokens
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel, check_same_vocabulary
from odeval.errors import OdevalError
from odeval.store import provenance
from odkd.checkpoint import save
from odkd.config import TrainConfig
from odkd.objectives import objective
from odkd.rollout import Batch, Rollouts, training_prompts


def train(config: TrainConfig, advance: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Distil a teacher into a student.

    Args:
        config: Every setting.
        advance: Told (steps done, steps in all), for a progress bar.

    Returns:
        `output_dir`, which then holds the trained student.

    Raises:
        OdevalError: A folder is no model, vocabularies differ, output_dir is in use, loss is not finite.
    """
    out = Path(config.output_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OdevalError(f"output_dir {out}: is not empty; choose another, or delete it")
    prompts = training_prompts(config.dataset_name)
    student = HfModel(config.model_name_or_path, config.device, dtype="float32")
    teacher = HfModel(config.teacher_model_name_or_path, config.device)
    check_same_vocabulary(teacher.vocabulary, student.vocabulary, f"{teacher.name} / {student.name}")
    teacher.model.requires_grad_(False)
    rollouts = Rollouts(HfEngine(student), HfEngine(teacher), prompts, config)
    chosen = objective(config.objective)
    parameters = [parameter for parameter in student.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)

    rows: list[dict[str, Any]] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        log = (out / "log.jsonl").open("w", encoding="utf-8")
    except OSError as error:
        raise OdevalError(f"output_dir {out}: cannot be written ({error.strerror})") from None
    with log:
        for step in range(config.max_steps):
            student.model.eval()  # dropout belongs to the update, not to what is sampled
            batch = rollouts.at(step)
            student.model.train()
            student_logits, teacher_logits, targets = both_logits(student, teacher, batch)
            per_token = chosen.loss(student_logits, teacher_logits, **config.dials())
            loss = per_token.sum() / len(targets)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            if not math.isfinite(loss.item() + norm.item()):
                raise OdevalError(
                    f"loss is {loss.item()}, gradient norm {norm.item()} at step {step} ({batch.source} completions); "
                    f"lower learning_rate, now {config.learning_rate}"
                )
            rate = config.learning_rate * schedule(config, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()

            row = {"step": step, "source": batch.source, "tokens": len(targets), "loss": loss.item()}
            row |= diagnostics(student_logits, teacher_logits, targets)
            row |= {"grad_norm": norm.item(), "learning_rate": rate}
            rows.append(row)
            log.write(json.dumps(row) + "\n")
            log.flush()
            advance(step + 1, config.max_steps)

    student.model.eval()
    save(student.model, student.tokenizer, out)
    spent = {
        "steps": len(rows),
        "tokens": sum(row["tokens"] for row in rows),
        "on_policy_fraction": sum(row["source"] == "student" for row in rows) / len(rows),
    }
    made = {**provenance(), "command": f"odkd train, {config.objective}"}
    write_json(out / "training.json", {"config": config.model_dump(), "spent": spent, "provenance": made})
    return out


def both_logits(student: HfModel, teacher: HfModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run both models over a batch and keep the positions that predict a generated token.

    Returns:
        Student logits [N, V] with gradient, teacher logits [N, V] without, and the N generated tokens.
        V is the real vocabulary: padded rows of a head are cut before any softmax.
    """
    predicting_BT = batch.generated_BT.roll(-1, dims=1)  # a token is predicted by the position before it
    predicting_BT[:, -1] = False
    device = student.device
    ids, mask, predicting = (tensor.to(device) for tensor in (batch.ids_BT, batch.mask_BT.long(), predicting_BT))
    student_logits = student.logits_at(student.hidden(ids, mask)[predicting])
    with torch.no_grad():
        teacher_logits = teacher.logits_at(teacher.hidden(ids, mask)[predicting])
    return student_logits, teacher_logits, batch.ids_BT[batch.generated_BT].to(device)


@torch.no_grad()
def diagnostics(student_logits: torch.Tensor, teacher_logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """Mean over a batch's tokens of both divergences and both entropies, in nats; no extra forward pass."""
    scores = score_tokens(student_logits, teacher_logits, targets)
    names = ("forward_kl", "reverse_kl", "student_entropy", "teacher_entropy")
    return {name: getattr(scores, name).mean().item() for name in names}


def schedule(config: TrainConfig, step: int) -> float:
    """Learning rate of a step, as a share of its peak.

    Example:
        >>> where = dict(model_name_or_path="s", teacher_model_name_or_path="t", dataset_name="d")
        >>> config = TrainConfig(**where, output_dir="o", max_steps=4, warmup_steps=2)
        >>> [schedule(config, step) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.lr_scheduler_type == "constant":
        return 1.0
    return (config.max_steps - step) / (config.max_steps - config.warmup_steps)
