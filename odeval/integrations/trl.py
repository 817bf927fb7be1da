"""pass@k, coverage and retention in TRL's own logs, beside its loss, without touching the training.

    callback = DiversityCallback("graph_paths", teacher="models/teacher", every=50)
    trainer = DistillationTrainer(...)
    callback.attach(trainer)
    trainer.train()

Any trainer of transformers will do. Nothing is logged in a row of its own: TRL's trainers average and empty their
metrics whenever a row is logged, and a row in between would take them from the one that holds the loss.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.grading import grade
from odeval.integrations.training_numbers import training_numbers
from odeval.sampling import sample
from odeval.scoring import score
from odeval.store import RunFolder
from odeval.tasks import load_task
from odeval.tasks.base import Task
from odeval.types import ModelRef, SamplingParams


class DiversityCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Samples the student on fixed prompts every so often and adds what odeval finds to the trainer's next row.

    The training trajectory stays as it is, bit for bit: every completion has a random stream of its own, and the model
    is put back into the mode it was in. On several devices the first samples while the others wait.

    Args:
        task: Name of a task, a prompts file, or a Task.
        teacher: Folder of the teacher, sampled once and used to score the student's branch points.
        every: Optimizer steps between probes; the last step has one too.
        prompts: How many of the task's.
        samples: Completions of each.
        grader: Of a prompts file.
        threshold: τ of a branch point, nats.
        seed: Of the samples.
        out: Keep the run folders here, one a probe; a temporary folder otherwise.
        prefix: Of the names in the log.

    Raises:
        OdevalError: There is no such task or teacher, or `every` is below 1.
    """

    def __init__(
        self,
        task: str | Task,
        teacher: str | Path,
        every: int = 50,
        prompts: int = 32,
        samples: int = 16,
        grader: str | None = None,
        threshold: float = 0.8,
        seed: int = 0,
        out: str | Path | None = None,
        prefix: str = "odeval/",
    ) -> None:
        if every < 1:
            raise OdevalError(f"every {every}: at least 1 step must lie between probes")
        self._task = load_task(task, grader, prompts) if isinstance(task, str) else task
        self._task = replace(self._task, prompts=self._task.prompts[:prompts])
        self._teacher_path, self._every, self._threshold, self._prefix = str(teacher), every, threshold, prefix
        self._params = SamplingParams(n=samples, max_tokens=self._task.max_tokens, seed=seed)
        self._scratch = None if out else tempfile.TemporaryDirectory(prefix="odeval-")
        self._out = Path(out) if out else Path(self._scratch.name if self._scratch else "")
        self._teacher: HfModel | None = None
        self._told: dict[str, float] = {}

    def attach(self, trainer: Any) -> None:
        """Add this callback to a trainer, before those that write logs, so that they see what it adds."""
        trainer.callback_handler.callbacks.insert(0, self)

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None, **kwargs: Any
    ) -> Any:
        """Probe, and have the trainer log this step."""
        if state.global_step % self._every and state.global_step != state.max_steps:
            return control
        if state.is_world_process_zero:
            self._told = self._probe(model, processing_class, state.global_step)
        control.should_log = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add the numbers to the row that is being logged."""
        if not self._told or logs is None or any(name.startswith("eval_") for name in logs):
            return
        told = {f"{self._prefix}{name}": value for name, value in self._told.items()}
        logs.update(told)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(told)
        self._told = {}

    def _probe(self, model: Any, tokenizer: Any, step: int) -> dict[str, float]:
        if self._teacher is None:
            self._teacher = HfModel(self._teacher_path, str(model.device))
        name = f"step-{step:06d}"
        student = _Live.wrap(model, tokenizer, name)
        teacher_run, run = RunFolder(self._out / "teacher"), RunFolder(self._out / name)
        training = model.training
        model.eval()
        try:
            for own, folder in ((self._teacher, teacher_run), (student, run)):
                sample(HfEngine(own), own.ref(), self._task, self._params, folder)
                grade(folder, self._task.grade, self._task.grader)
            score(self._teacher, student, teacher_run, run)
        finally:
            model.train(training)
        return training_numbers(run, teacher_run, self._threshold)


class _Live(HfModel):
    """A model in training; what tells its samples from those of another step is the step."""

    def ref(self) -> ModelRef:
        return replace(super().ref(), fingerprint=self.name)
