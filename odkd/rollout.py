"""The data dial: whose completions a step learns from.

With chance `lmbda` a step takes fresh completions of the student as it is now (on-policy), else completions from a
fixed set: the teacher's (`seq_kd`) or a file's (`corpus`). Every choice depends on (seed, step) alone, never on what
happened before, so a resumed run makes the same choices and all ranks of a larger job agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError, unknown
from odeval.sampling import completion_seed
from odeval.tasks import jsonl
from odeval.testbed import WORLDS
from odeval.types import Completion, Prompt, SamplingParams
from odkd.config import TrainConfig
from odkd.corpus import Example, read_corpus
from odkd.ledger import Ledger
from odkd.mixed import MixedModel
from odkd.ranks import Ranks

Source = Literal["student", "teacher", "mixed", "corpus"]
_MEMORY = 0.3  # of a GPU, for vLLM beside the trainer; TRL's default
_COIN, _ORDER = 0, 1  # first key of the random streams, so that they share nothing


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts with one completion each, padded on the right. B rows, T columns.

    Attributes:
        source: Who wrote the completions.
        ids_BT: Prompt, completion, padding.
        mask_BT: True on prompt and completion.
        generated_BT: True on the completion with its end token; what the loss is about.
        logprob_BT: Of each completion token under whatever sampled it, nats; NaN elsewhere and where unknown.
        names: Of the prompts, for messages.
    """

    source: Source
    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    generated_BT: torch.Tensor
    logprob_BT: torch.Tensor
    names: tuple[str, ...] = ()


class Rollouts:
    """Gives each step its batches.

    Args:
        student: Samples with the weights it has when a batch is asked for.
        teacher: Its completions are drawn when first needed and kept; which ones does not depend on when.
        prompts: What is asked.
        config: seed, lmbda, batch size, temperature, lengths.
        ranks: Each takes its own rows of an update.
        ledger: Told what was sampled.
    """

    def __init__(
        self,
        student: HfEngine,
        teacher: HfEngine,
        prompts: Sequence[Prompt],
        config: TrainConfig,
        ranks: Ranks | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._engines: dict[str, Any] = {"student": student, "teacher": teacher}
        self._prompts, self._config = prompts, config
        self._ranks, self._ledger = ranks or Ranks(), ledger or Ledger()
        self._token_ids = [student.encode(prompt) for prompt in prompts]
        self._check_room()
        self._kept: dict[tuple[int, int], list[int]] = {}  # (prompt, copy) -> the teacher's token ids
        self._files: dict[str, list[Example]] = {}

    def _check_room(self) -> None:
        longest, length = max(map(len, self._token_ids)), self._config.max_completion_length
        for engine in self._engines.values():
            if engine.max_length is not None and longest + length > engine.max_length:
                raise OdevalError(
                    f"max_completion_length {length}: with a prompt of {longest} tokens it exceeds the "
                    f"{engine.max_length} positions of {engine.model.name}; lower it to "
                    f"{max(1, engine.max_length - longest)}, or drop the prompt"
                )

    def at(self, step: int) -> list[Batch]:
        """Return this rank's batches of one step, 0 … max_steps − 1, each as large as fits in memory."""
        now, size = self._config.at(step), self._config.per_device_train_batch_size
        own = size * self._config.gradient_accumulation_steps
        rows = range(self._ranks.rank * own, (self._ranks.rank + 1) * own)
        whole = own * self._ranks.size
        if is_on_policy(now.lmbda, now.seed, step):
            source, prompts, completions, logprobs, names = self._on_policy(now, step, rows, whole)
        elif now.corpus is not None:
            source, prompts, completions, logprobs, names = self._from_file(now, step, rows, whole)
        else:
            source, prompts, completions, logprobs, names = self._from_teacher(now, step, rows, whole)
        return [
            pad(source, prompts[i : i + size], completions[i : i + size], logprobs[i : i + size], names[i : i + size])
            for i in range(0, own, size)
        ]

    def _on_policy(self, now: TrainConfig, step: int, rows: range, whole: int) -> _Drawn:
        places = draw_prompts(len(self._prompts), whole // now.num_generations, now.seed, step)
        chosen = [places[row // now.num_generations][0] for row in rows]
        seeds = [completion_seed(now.seed, "student", f"step {step}", row) for row in rows]
        source: Source = "mixed" if now.teacher_mixed_alpha else "student"
        drawn = self._sample(source, chosen, seeds, now)
        completions = [[int(token) for token in one.token_ids] for one in drawn]
        logprobs = [[] if one.logprobs is None else [float(x) for x in one.logprobs] for one in drawn]
        return source, self._asked(chosen), completions, logprobs, self._names(chosen)

    def _from_teacher(self, now: TrainConfig, step: int, rows: range, whole: int) -> _Drawn:
        n, copies = now.num_generations, now.teacher_samples_per_prompt
        places = draw_prompts(len(self._prompts), whole // n, now.seed, step)
        keys = [(places[row // n][0], (places[row // n][1] * n + row % n) % copies) for row in rows]
        new = [key for key in dict.fromkeys(keys) if key not in self._kept]
        seeds = [completion_seed(now.seed, "teacher", self._prompts[p].prompt_id, copy) for p, copy in new]
        drawn = self._sample("teacher", [p for p, _ in new], seeds, now)
        self._kept.update({key: [int(token) for token in one.token_ids] for key, one in zip(new, drawn, strict=True)})
        chosen = [place for place, _ in keys]
        return (
            "teacher",
            self._asked(chosen),
            [self._kept[key] for key in keys],
            [[] for _ in keys],
            self._names(chosen),
        )

    def _from_file(self, now: TrainConfig, step: int, rows: range, whole: int) -> _Drawn:
        path = str(now.corpus)
        if path not in self._files:
            self._files[path] = read_corpus(Path(path), self._engines["student"].model, now.max_completion_length)
        places = draw_prompts(len(self._files[path]), whole, now.seed, step)
        chosen = [places[row][0] for row in rows]
        examples = [self._files[path][place] for place in chosen]
        names = [f"{path}:{place + 1}" for place in chosen]
        return "corpus", [p for p, _ in examples], [c for _, c in examples], [[] for _ in chosen], names

    def _asked(self, chosen: Sequence[int]) -> list[list[int]]:
        return [self._token_ids[place] for place in chosen]

    def _names(self, chosen: Sequence[int]) -> list[str]:
        return [self._prompts[place].prompt_id for place in chosen]

    def _sample(self, who: Source, chosen: Sequence[int], seeds: Sequence[int], now: TrainConfig) -> list[Completion]:
        if not chosen:
            return []
        sampler = self._sampler(who, now)
        params = SamplingParams(
            n=1, temperature=now.temperature, top_p=now.top_p, top_k=now.top_k, max_tokens=now.max_completion_length
        )
        answers = sampler.sample([self._token_ids[p] for p in chosen], [[s] for s in seeds], params)
        found = [row[0] for row in answers]
        lengths = [len(one.token_ids) for one in found]
        self._ledger.sampled(who, [len(self._token_ids[p]) for p in chosen], lengths)
        self._ledger.cut += sum(one.finish_reason == "length" for one in found)
        return found

    def _sampler(self, who: Source, now: TrainConfig) -> Any:
        """Who samples: the embedded engine, or for the student's own completions perhaps vLLM."""
        name: str = "vllm" if who == "student" and now.use_vllm else who
        if who == "mixed":
            name = f"mixed {now.teacher_mixed_alpha}"
        if name not in self._engines:
            student, teacher = (self._engines[one].model for one in ("student", "teacher"))
            if who == "mixed":
                self._engines[name] = HfEngine(MixedModel(student, teacher, now.teacher_mixed_alpha))
            else:
                self._engines[name] = self._open_vllm(student, now)
        return self._engines[name]

    def _open_vllm(self, student: HfModel, now: TrainConfig) -> Any:
        from odkd.vllm_rollout import SyncedVllm

        if self._ranks.size > 1:
            raise OdevalError(f"use_vllm: {self._ranks.size} processes would start one vLLM each; launch one, or none")
        memory = now.vllm_gpu_memory_utilization or _MEMORY
        return SyncedVllm(now.model_name_or_path, student, self._token_ids, memory)

    def state(self) -> list[Any]:
        """The teacher's completions so far, for a checkpoint."""
        return [[place, copy, ids] for (place, copy), ids in self._kept.items()]

    def restore(self, state: list[Any]) -> None:
        """Take back what `state` gave."""
        self._kept = {(place, copy): list(ids) for place, copy, ids in state}


_Drawn = tuple[Source, list[list[int]], list[list[int]], list[list[float]], list[str]]


def is_on_policy(lmbda: float, seed: int, step: int) -> bool:
    """Toss the coin of a step: True with chance lmbda, always the same for one (seed, step).

    Example:
        >>> [is_on_policy(0.5, seed=0, step=step) for step in range(4)]
        [False, True, False, False]
    """
    return bool(np.random.default_rng([_COIN, seed, step]).random() < lmbda)


def draw_prompts(num_prompts: int, batch_size: int, seed: int, step: int) -> list[tuple[int, int]]:
    """Return (index, epoch) of a step's prompts; each epoch shuffles all prompts anew and leaves out none.

    Example:
        >>> sorted(i for step in range(2) for i, _ in draw_prompts(6, 3, seed=0, step=step))
        [0, 1, 2, 3, 4, 5]
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = sorted({position // num_prompts for position in positions})
    order = {epoch: np.random.default_rng([_ORDER, seed, epoch]).permutation(num_prompts) for epoch in epochs}
    return [(int(order[p // num_prompts][p % num_prompts]), p // num_prompts) for p in positions]


def pad(
    source: Source,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]] | None = None,
    names: Sequence[str] = (),
) -> Batch:
    """Lay out prompts and completions as one batch. Padding holds id 0 and is told apart by the mask alone.

    An end token that doubles as padding token therefore stays part of the completion it ends.
    """
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    place = torch.arange(width)[None]
    starts = torch.tensor([len(prompt) for prompt in prompts])[:, None]
    ends = torch.tensor([len(row) for row in rows])[:, None]
    generated = (place >= starts) & (place < ends)
    known = torch.full(generated.shape, float("nan"))
    if logprobs is not None and any(logprobs):
        known[generated] = torch.tensor([value for row in logprobs for value in row])
    return Batch(
        source=source,
        ids_BT=torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        mask_BT=place < ends,
        generated_BT=generated,
        logprob_BT=known,
        names=tuple(names),
    )


def training_prompts(name: str) -> Sequence[Prompt]:
    """Return what a run trains on.

    Args:
        name: A built-in world, of which only the train split is used, or the path of a prompts file.

    Raises:
        OdevalError: Neither exists, or the file is malformed.
    """
    if name in WORLDS:
        return WORLDS[name].prompts("train", None)
    if not Path(name).is_file():
        raise OdevalError(
            f"dataset_name: {unknown('world', name, WORLDS)}; or give the path of a prompts file (.jsonl)"
        )
    return jsonl.load(Path(name), grader="exact").prompts
