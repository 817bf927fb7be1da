"""What an arm cost: tokens sampled, tokens scored, updates, FLOPs, wall time by phase, peak memory.

FLOPs are counted from shapes: 2 per weight of a matrix and token, 4 · T² · width for the attention of a layer to T
tokens; the student's backward pass costs twice its forward pass, or once where only adapters are trained. Padding that
is computed is counted. Element-wise work is not, and of a mixture of experts all experts are.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from odkd.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's FLOPs depend on.

    Attributes:
        body: Weights in matrices, per token; embeddings are looked up and the head is apart.
        head: Weights of the output matrix.
        attention: Layers × heads × width of a head.
    """

    body: int
    head: int
    attention: int

    def forward(self, tokens: int, squares: int, predicted: int) -> int:
        """FLOPs of a forward pass.

        Args:
            tokens: That pass through the layers.
            squares: Σ T² over sequences.
            predicted: Positions that pass through the head.
        """
        return 2 * self.body * tokens + 4 * self.attention * squares + 2 * self.head * predicted

    def sampling(self, prompts: int, samples: int, asked: int, drawn: int) -> int:
        """FLOPs of sampling a run whose prompts are read once and kept for all their samples.

        Args:
            prompts: Of the run.
            samples: Of each prompt.
            asked: Tokens of a prompt.
            drawn: Tokens of a completion.

        Example:
            >>> Shape(body=7, head=0, attention=0).sampling(1, 10, 0, 101)  # the last token is not read
            14000
        """
        rows, last = prompts * samples, asked + drawn - 1
        cached = 2 * self.attention * (prompts * asked**2 + rows * (last**2 - asked**2))  # a token looks back only
        return self.forward(prompts * asked + rows * (drawn - 1), 0, rows * drawn) + cached

    def scoring(self, prompts: int, samples: int, asked: int, drawn: int) -> int:
        """FLOPs of scoring a run, every completion behind its own copy of the prompt; arguments as in `sampling`."""
        rows, width = prompts * samples, asked + drawn
        return self.forward(rows * width, rows * width**2, rows * drawn)


def shape_of(model: Any) -> Shape:
    """Read a causal LM's shape from its modules and configuration."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0) or 0
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    body = sum(module.weight.numel() for module in linear)
    return Shape(body, head.weight.numel(), config.num_hidden_layers * heads * width)


@dataclass
class Ledger:
    """The running account of a run; counts are of this process until `training.json` is written.

    Attributes:
        updates: Steps taken.
        on_policy_updates: Of those, from the student's own completions.
        tokens_sampled: By who sampled: "student", "teacher" or "mixed".
        completions: Sampled.
        cut: Of those, ended by max_completion_length.
        tokens_trained: Positions that the loss was taken at.
        tokens_scored_by_teacher: Positions, of prompts too, that went through the teacher.
        flops: By what: "rollout", "teacher", "student_forward", "student_backward", "probe" is not counted.
        seconds: Wall time by phase.
        peak_memory_bytes: Of the GPU where there is one, else of the process.
    """

    updates: int = 0
    on_policy_updates: int = 0
    tokens_sampled: dict[str, int] = field(default_factory=dict)
    completions: int = 0
    cut: int = 0
    tokens_trained: int = 0
    tokens_scored_by_teacher: int = 0
    flops: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    def __post_init__(self) -> None:
        self._shapes: dict[str, Shape] = {}
        self._backward = 2.0

    def know(self, student: Any, teacher: Any, adapters: bool) -> None:
        """Tell the ledger which models it counts for."""
        self._shapes = {"student": shape_of(student), "teacher": shape_of(teacher)}
        self._backward = 1.0 if adapters else 2.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the wall time of a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def sampled(self, who: str, prompts: Sequence[int], completions: Sequence[int]) -> None:
        """Count completions that were sampled.

        Args:
            who: "student", "teacher" or "mixed", which runs both.
            prompts: Tokens of each prompt.
            completions: Tokens of each completion.
        """
        self.completions += len(completions)
        self.tokens_sampled[who] = self.tokens_sampled.get(who, 0) + sum(completions)
        tokens = sum(p + c - 1 for p, c in zip(prompts, completions, strict=True))
        squares = sum((p + c - 1) ** 2 for p, c in zip(prompts, completions, strict=True))
        for model in ("student", "teacher") if who == "mixed" else (who,):
            if model in self._shapes:
                shape = self._shapes[model]
                cached = 2 * shape.attention * squares  # from a cache, a token looks back only
                self._add("rollout", shape.forward(tokens, 0, sum(completions)) + cached)

    def trained(self, rows: int, width: int, predicted: int, passes_of_teacher: int = 1) -> None:
        """Count one forward and backward pass over a padded batch.

        Args:
            rows: Sequences.
            width: Tokens of each, padding included.
            predicted: Positions that the loss was taken at.
            passes_of_teacher: 2 where the teacher was asked beforehand as well.
        """
        self.tokens_trained += predicted
        self.tokens_scored_by_teacher += rows * width * passes_of_teacher
        if self._shapes:
            cost = {name: s.forward(rows * width, rows * width**2, predicted) for name, s in self._shapes.items()}
            self._add("teacher", cost["teacher"] * passes_of_teacher)
            self._add("student_forward", cost["student"])
            self._add("student_backward", int(self._backward * cost["student"]))

    def _add(self, name: str, flops: int) -> None:
        self.flops[name] = self.flops.get(name, 0) + flops

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint and for training.json; peak memory is taken now."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory())
        return asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        for name, value in state.items():
            setattr(self, name, value)

    def table(self, ranks: Ranks) -> dict[str, Any]:
        """The account of all ranks as it stands in training.json: counts added up, time and memory of the largest."""
        states = ranks.gather([self.state()])
        found: dict[str, Any] = {}
        for name, value in states[0].items():
            if name in ("updates", "on_policy_updates"):
                found[name] = value
            elif name == "peak_memory_bytes":
                found[name] = max(state[name] for state in states)
            elif isinstance(value, dict):
                keys = sorted({key for state in states for key in state[name]})
                own = {key: [state[name].get(key, 0) for state in states] for key in keys}
                found[name] = {key: max(all_) if name == "seconds" else sum(all_) for key, all_ in own.items()}
                found[name]["all"] = sum(found[name].values())
            else:
                found[name] = sum(state[name] for state in states)
        found["seconds"] = {name: round(value, 3) for name, value in found["seconds"].items()}
        found["on_policy_fraction"] = found["on_policy_updates"] / max(found["updates"], 1)
        found["cut_fraction"] = found["cut"] / found["completions"] if found["completions"] else None
        return found


def peak_memory() -> int:
    """Largest memory so far, in bytes: allocated on the GPU where there is one, else resident in this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
