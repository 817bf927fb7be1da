"""The data dial: whose completions a step learns from.

With chance `lmbda` a step takes fresh completions of the student as it is now (on-policy), else completions
from a fixed corpus of the teacher's. Every choice depends on (seed, step) alone, never on what happened
before, so a resumed run makes the same choices and all ranks of a larger job would agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from odeval.engines.hf import HfEngine
from odeval.errors import OdevalError, unknown
from odeval.sampling import completion_seed
from odeval.tasks import jsonl
from odeval.testbed import WORLDS
from odeval.types import Prompt, SamplingParams
from odkd.config import TrainConfig

_COIN, _ORDER = 0, 1  # first key of the random streams, so that they share nothing


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts with one completion each, padded on the right. B rows, T columns.

    Attributes:
        source: Who wrote the completions.
        ids_BT: Prompt, completion, padding.
        mask_BT: True on prompt and completion.
        generated_BT: True on the completion with its end token; what the loss is about.
    """

    source: Literal["student", "teacher"]
    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    generated_BT: torch.Tensor


class Rollouts:
    """Gives each step its batch.

    Args:
        student: Samples with the weights it has when a batch is asked for.
        teacher: Its completions are drawn when first needed and kept; which ones does not depend on when.
        prompts: What is asked.
        config: seed, lmbda, batch size, temperature, lengths.
    """

    def __init__(self, student: HfEngine, teacher: HfEngine, prompts: Sequence[Prompt], config: TrainConfig) -> None:
        self._engines = {"student": student, "teacher": teacher}
        self._prompts, self._config = prompts, config
        self._token_ids = [student.encode(prompt) for prompt in prompts]
        self._corpus: dict[tuple[int, int], list[int]] = {}  # (prompt, copy) -> token ids

    def at(self, step: int) -> Batch:
        """Return the batch of one step, 0 … max_steps − 1."""
        config = self._config
        places = draw_prompts(len(self._prompts), config.per_device_train_batch_size, config.seed, step)
        chosen = [place for place, _ in places]
        if is_on_policy(config.lmbda, config.seed, step):
            seeds = [completion_seed(config.seed, "student", f"step {step}", row) for row in range(len(chosen))]
            return pad("student", [self._token_ids[p] for p in chosen], self._sample("student", chosen, seeds))
        keys = [(place, epoch % config.teacher_samples_per_prompt) for place, epoch in places]
        new = [key for key in dict.fromkeys(keys) if key not in self._corpus]
        seeds = [completion_seed(config.seed, "teacher", self._prompts[p].prompt_id, copy) for p, copy in new]
        self._corpus.update(zip(new, self._sample("teacher", [p for p, _ in new], seeds), strict=True))
        return pad("teacher", [self._token_ids[p] for p in chosen], [self._corpus[key] for key in keys])

    def _sample(self, who: str, chosen: Sequence[int], seeds: Sequence[int]) -> list[list[int]]:
        if not chosen:
            return []
        params = SamplingParams(
            n=1, temperature=self._config.temperature, max_tokens=self._config.max_completion_length
        )
        answers = self._engines[who].sample([self._token_ids[p] for p in chosen], [[s] for s in seeds], params)
        return [[int(token) for token in row[0].token_ids] for row in answers]


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
    source: Literal["student", "teacher"],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> Batch:
    """Lay out prompts and completions as one batch. Padding holds id 0 and is told apart by the mask alone.

    An end token that doubles as padding token therefore stays part of the completion it ends.
    """
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    place = torch.arange(width)[None]
    starts = torch.tensor([len(prompt) for prompt in prompts])[:, None]
    ends = torch.tensor([len(row) for row in rows])[:, None]
    return Batch(
        source=source,
        ids_BT=torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        mask_BT=place < ends,
        generated_BT=(place >= starts) & (place < ends),
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
