"""Task × engine → samples/. Resumable at any moment: a part is there whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Protocol

import pyarrow as pa

from odeval.store import RunFolder, write_table
from odeval.tasks.base import Task
from odeval.types import SAMPLES, Completion, ModelRef, Prompt, SamplingParams

Advance = Callable[[int, int], None]  # (done, total), for a progress bar

_PART_TOKENS = 2**18  # at most this many generated tokens are lost when a run is killed
_PART_ROWS = 4096


class Engine(Protocol):
    """Anything that turns prompts into completions."""

    def encode(self, prompt: Prompt) -> list[int]: ...

    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> list[list[Completion]]: ...


def completion_seed(run_seed: int, model: str, prompt_id: str, sample_id: int) -> int:
    """Hash a completion's own seed, so that no two completions of any runs share a random stream.

    The model is part of it: with common random numbers the samples of two similar models would be dependent, and
    tests that take them for independent would not hold their stated rates.

    Args:
        run_seed: The seed the user gave.
        model: Fingerprint of the weights.
        prompt_id: Of the prompt.
        sample_id: 0 … n − 1.

    Returns:
        A 64-bit integer.

    Source:
        Ours; vLLM's `seed + index` makes neighbouring requests share completions.

    Example:
        >>> completion_seed(0, "m", "a", 1) == completion_seed(0, "m", "a", 1) != completion_seed(1, "m", "a", 0)
        True
    """
    text = f"{run_seed}\0{model}\0{prompt_id}\0{sample_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def sample(
    engine: Engine,
    model: ModelRef,
    task: Task,
    params: SamplingParams,
    run: RunFolder,
    advance: Advance = lambda done, total: None,
) -> None:
    """Draw n completions for every prompt of a task into a run folder; what is there already is kept.

    Args:
        engine: Who answers.
        model: Its weights, for provenance.
        task: The prompts.
        params: How completions are drawn; a larger n than before extends the run.
        run: Where to; created when missing.
        advance: Told (prompts done, prompts in all) after each part.

    Raises:
        OdevalError: The folder holds another run, or cannot be written.
    """
    with run.lock():
        block = max(1, min(_PART_ROWS, _PART_TOKENS // params.max_tokens) // params.n)
        if (run.path / "run.json").exists():
            block = run.meta().get("prompts_per_part", block)
        described = {"name": task.name, "grader": task.grader}
        sampling = asdict(params)
        run.open(
            {"model": asdict(model), "task": described, "sampling": sampling, "prompts_per_part": block}, task.prompts
        )
        made_from = {"model": asdict(model), "task": described, "sampling": {**sampling, "n": None}}
        done = run.keys(run.samples)
        for number, start in enumerate(range(0, len(task.prompts), block)):
            prompts = task.prompts[start : start + block]
            wanted = [[s for s in range(params.n) if (p.prompt_id, s) not in done] for p in prompts]
            if any(wanted):
                first = min(s for row in wanted for s in row)
                table = _sample_block(engine, model, prompts, wanted, params)
                write_table(run.samples / f"part-{number:05d}-{first:05d}.parquet", table, made_from)
            advance(start + len(prompts), len(task.prompts))


def _sample_block(
    engine: Engine, model: ModelRef, prompts: Sequence[Prompt], wanted: Sequence[Sequence[int]], params: SamplingParams
) -> pa.Table:
    work = [(prompt, ids) for prompt, ids in zip(prompts, wanted, strict=True) if ids]
    token_ids = [engine.encode(prompt) for prompt, _ in work]
    seeds = [[completion_seed(params.seed, model.fingerprint, prompt.prompt_id, s) for s in ids] for prompt, ids in work]
    completions = engine.sample(token_ids, seeds, replace(params, n=1))
    rows = [
        (prompt.prompt_id, sample_id, seed, prompt_ids, c.token_ids, c.logprobs, c.text, c.finish_reason)
        for (prompt, ids), prompt_ids, own_seeds, own in zip(work, token_ids, seeds, completions, strict=True)
        for sample_id, seed, c in zip(ids, own_seeds, own, strict=True)
    ]
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SAMPLES, strict=True)], schema=SAMPLES)
