"""What a run consists of, made from its configuration, taken back from a checkpoint, written at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from odeval.atomic import read_json, write_json
from odeval.engines.hf import HfEngine
from odeval.errors import OdevalError
from odeval.store import provenance
from odeval.types import Prompt
from odkd.checkpoint import check_same, checkpoints, read_checkpoint, write_checkpoint
from odkd.config import TrainConfig, notes
from odkd.ledger import Ledger
from odkd.loggers import Loggers, rows_of
from odkd.models import Pair
from odkd.probe import Probe
from odkd.ranks import Ranks
from odkd.rollout import Batch, Rollouts


class Run:
    """Models, data, optimizer, account and log of one run.

    Args:
        config: Every setting; max_steps is known.
        prompts: What is asked.
        ranks: Of the launch.
    """

    def __init__(self, config: TrainConfig, prompts: Sequence[Prompt], ranks: Ranks) -> None:
        self.config, self.ranks, self.out = config, ranks, Path(config.output_dir)
        self.pair, self.ledger = Pair(config, ranks.device or config.device), Ledger()
        self.ledger.know(self.pair.student.model, self.pair.teacher.model, config.use_peft)
        engines = [HfEngine(model) for model in (self.pair.student, self.pair.teacher)]
        self.rollouts = Rollouts(engines[0], engines[1], prompts, config, ranks, self.ledger)
        self.optimizer = torch.optim.AdamW(
            list(self.pair.trainable.values()), lr=config.learning_rate, weight_decay=config.weight_decay,
            betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon,
        )  # fmt: skip
        self.probe = Probe(config, self.pair, engines[0], engines[1]) if config.eval_steps else None
        self.entropy_at_start: float | None = None
        self.start = self._resume()
        self.log: Loggers | None = None
        if ranks.rank == 0:
            write_json(self.out / "settings.json", config.model_dump(mode="json"))
            self.log = Loggers(self.out, config.report_to, self.start, config.model_dump(mode="json"))

    def _resume(self) -> int:
        """Take back the newest checkpoint; returns the step to go on at."""
        saved = checkpoints(self.out)[-1:]
        if not saved:
            return 0
        step, state = read_checkpoint(saved[0], self.config)
        self.pair.restore(state["trainable"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rollouts.restore(state["teacher_completions"])
        self.ledger.restore(state["ledger"])
        self.entropy_at_start = state["entropy_at_start"]
        if self.probe:
            self.probe.restore(state["probe"])
        return step

    def before(self, step: int) -> dict[str, Any] | None:
        """What a step changes before its loss is known, taken before it; None where no checkpoint is due."""
        if step == self.start or step % self.config.save_steps:
            return None
        return {"teacher_completions": self.rollouts.state(), "ledger": self.ledger.state()}

    def save(self, step: int, before: dict[str, Any] | None) -> None:
        """Write a checkpoint of the state before a step, whose loss turned out to be finite."""
        if before is not None and self.ranks.rank == 0:
            with self.ledger.phase("checkpoint"):
                state = {
                    "trainable": self.pair.tensors(),
                    "optimizer": self.optimizer.state_dict(),
                    "entropy_at_start": self.entropy_at_start,
                    "probe": self.probe.state() if self.probe else None,
                    **before,
                }
                write_checkpoint(self.out, step, state, self.config)

    def gradient_is_finite(self, step: int, batches: Sequence[Batch], loss: float, norm: float) -> None:
        """Stop at a loss or gradient that is no number, leaving the last good state in output_dir.

        Raises:
            OdevalError: It is none; the text names step, prompts and what is kept.
        """
        if math.isfinite(loss + norm):
            return
        kept = "no checkpoint was written yet, so the start is the last good state"
        if saved := checkpoints(self.out)[-1:]:
            good, state = read_checkpoint(saved[0], self.config)
            self.pair.restore(state["trainable"])
            if self.ranks.rank == 0:
                self.pair.write(self.out)
            kept = f"{self.out} holds the student of step {good}, the last that is known to be good"
        shown = ", ".join(batches[0].names[:3]) + (" …" if len(batches[0].names) > 3 else "")
        raise OdevalError(
            f"loss is {loss}, gradient norm {norm} at step {step} ({batches[0].source} completions to {shown}); "
            f"{kept}; lower learning_rate, now {self.config.learning_rate}, and choose another output_dir"
        )

    def finish(self) -> None:
        """Write the trained student, then the ledger: with training.json a run is done."""
        self.pair.student.model.eval()
        account = self.ledger.table(self.ranks)
        if self.ranks.rank == 0:
            best = self.probe.take_best(self.out) if self.probe and self.config.load_best_model_at_end else None
            if best is None:
                self.pair.write(self.out)
            log = rows_of(self.out / "log.jsonl")
            spent = {
                "steps": account["updates"],
                "tokens": sum(row["tokens"] for row in log),
                "on_policy_fraction": account["on_policy_fraction"],
            }
            record = {
                "config": self.config.model_dump(mode="json"),
                "dials": self.config.dials() if not self.config.phases else None,
                "notes": list(notes(self.config)),
                "spent": spent,
                "ledger": account,
                "probes": self.probe.summary() if self.probe else None,
                "provenance": {**provenance(), "command": f"odkd train, {self.config.objective}"},
            }
            write_json(self.out / "training.json", record)
        self.ranks.wait()


def is_finished(out: Path, config: TrainConfig) -> bool:
    """Tell whether output_dir holds this very run, done; a run that was killed is not.

    Raises:
        OdevalError: The folder holds something else.
    """
    foreign = out.exists() and (not out.is_dir() or any(path.name != ".lock" for path in out.iterdir()))
    if foreign and not (out / "settings.json").is_file():
        raise OdevalError(f"output_dir {out}: is not empty; choose another, or delete it")
    if not (out / "settings.json").is_file():
        return False
    check_same(out, config)
    if not (out / "training.json").is_file():
        return False
    done: bool = read_json(out / "training.json")["config"]["max_steps"] >= config.max_steps
    if not done:
        (out / "training.json").unlink()
    return done
