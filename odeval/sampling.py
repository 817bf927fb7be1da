"""Task × engine → samples/. Resumable at any moment: a part is there whole or not at all."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pyarrow as pa

from odeval.atomic import hash_files
from odeval.engines.base import Asked, Engine
from odeval.errors import OdevalError
from odeval.executors import Alone, Crew
from odeval.store import RunFolder, part_provenance, write_table
from odeval.tasks.base import Task
from odeval.types import SAMPLES, ModelRef, Prompt, SamplingParams

Advance = Callable[[int, int], None]  # (done, total), for a progress bar
Work = Sequence[tuple[str, Asked, Sequence[int]]]  # prompt_id, what is asked, sample ids wanted

_PART_TOKENS = 2**17  # at most this many generated tokens, or one prompt's, are lost when a run is killed
_PART_ROWS = 4096
_ROUNDS = 8  # of an engine's parallel completions in a part: while the last ones end, the others wait


def completion_seed(run_seed: int, model: str, prompt_id: str, sample_id: int) -> int:
    """Hash a completion's own seed, so that no two completions of any runs share a random stream.

    The model is part of it: with common random numbers the samples of two similar models would be dependent, and
    tests that take them for independent would not hold their stated rates.

    Args:
        run_seed: The seed the user gave.
        model: Fingerprint of the weights; the name where there is none.
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
    engine: Engine | Crew[Engine],
    model: ModelRef,
    task: Task,
    params: SamplingParams,
    run: RunFolder,
    advance: Advance = lambda done, total: None,
    first: int | None = None,
) -> None:
    """Draw n completions for every prompt of a task into a run folder; what is there already is kept.

    Args:
        engine: Who answers: one engine, or a crew that has one each.
        model: Its weights, for provenance.
        task: The prompts.
        params: How completions are drawn; a larger n than before extends the run.
        run: Where to; created when missing.
        advance: Told (prompts done, prompts in all) after each part.
        first: Draw only sample 0 of that many prompts: a pilot, which a later call completes.

    Raises:
        OdevalError: The folder holds another run, or cannot be written.
    """
    crew = engine if isinstance(engine, Crew) else Alone(engine)
    with run.lock():
        about, parallel = crew.ask(_about)
        described = {"name": task.name, "grader": task.grader}
        meta = {"model": asdict(model), "task": described, "sampling": asdict(params), "engine": about}
        made_from = {"model": asdict(model), "task": described, "sampling": {**asdict(params), "n": None}}
        run.check(meta, task.prompts)
        _check_parts(run, model, made_from)
        block = prompts_per_part(params, parallel)
        if run.part_paths(run.samples):
            block = run.meta().get("prompts_per_part", block)
        done = run.keys(run.samples)
        ids = [prompt.prompt_id for prompt in task.prompts]
        deep = [params.n] * len(ids) if first is None else [int(place < first) for place in range(len(ids))]
        wanted = [[s for s in range(deep[p]) if (ids[p], s) not in done] for p in range(len(ids))]
        token_ids = crew.ask(partial(_encode, prompts=task.prompts, wanted=wanted, params=params))
        run.open({**meta, "prompts_per_part": block}, task.prompts)
        blocks: dict[str, Work] = {}
        for number, start in enumerate(range(0, len(ids), block)):
            chosen = [p for p in range(start, min(start + block, len(ids))) if wanted[p]]
            if chosen:
                # A pilot's part has a name of its own, which the block's first part must not take.
                begin = f"{min(wanted[p][0] for p in chosen):05d}" if first is None else "pilot"
                blocks[f"part-{number:05d}-{begin}"] = [(ids[p], token_ids[p], wanted[p]) for p in chosen]
        finished = len(ids) - sum(map(len, blocks.values()))
        if finished:
            advance(finished, len(ids))
        opened = hash_files([run.path / "run.json"])
        write = partial(_sample_part, model=model, params=params, run=run, opened=opened, made_from=made_from)
        for name, _ in crew.each(write, {name: (name, work) for name, work in blocks.items()}):
            finished += len(blocks[name])
            advance(finished, len(ids))


def prompts_per_part(params: SamplingParams, parallel: int) -> int:
    """Prompts of one part, which is sampled, written and, by ray, sent to a worker as a whole.

    Args:
        params: n and max_tokens are read here.
        parallel: Completions that the engine works on at once.

    Example:
        >>> prompts_per_part(SamplingParams(n=256, max_tokens=512), parallel=256)
        8
    """
    rows = max(_PART_TOKENS // params.max_tokens, _ROUNDS * parallel)
    return max(1, min(_PART_ROWS, rows) // params.n)


def _about(engine: Engine) -> tuple[dict[str, Any], int]:
    return engine.describe(), engine.parallel


def _check_parts(run: RunFolder, model: ModelRef, made_from: dict[str, Any]) -> None:
    """Refuse to add to samples that another run left in the folder."""
    for path in run.part_paths(run.samples):
        old = part_provenance(path)
        same = old.get("sampling") == made_from["sampling"]
        theirs = old.get("model", {})
        if not same or (theirs.get("fingerprint") or theirs.get("path")) != model.identity:
            raise OdevalError(
                f"{path}: was sampled with another model or other settings; choose another --out, or delete the folder"
            )


def _encode(
    engine: Engine, prompts: Sequence[Prompt], wanted: Sequence[Sequence[int]], params: SamplingParams
) -> list[Asked]:
    """Tokenize what is still to be answered, so that a bad prompt is found before the first completion is paid for."""
    token_ids = [engine.encode(prompt) if ids else [] for prompt, ids in zip(prompts, wanted, strict=True)]
    room = engine.max_length
    too_long = [p for p, ids in enumerate(token_ids) if room is not None and len(ids) + params.max_tokens > room]
    if room is not None and too_long:
        worst = max(too_long, key=lambda p: len(token_ids[p]))
        length = len(token_ids[worst])
        raise OdevalError(
            f"{len(too_long)} of {len(prompts)} prompts are too long for the model's {room} positions: "
            f"{prompts[worst].prompt_id} has {length} tokens, and max_tokens is {params.max_tokens}; "
            f"lower --max-tokens to {max(1, room - length)}, or drop them"
        )
    return token_ids


def _sample_part(
    engine: Engine, part: tuple[str, Work], *, model: ModelRef, params: SamplingParams, run: RunFolder, opened: str,
    made_from: Mapping[str, Any],
) -> None:  # fmt: skip
    """Sample and write one part, on whatever machine this is."""
    name, work = part
    described = run.path / "run.json"
    if not described.exists() or hash_files([described]) != opened:
        raise OdevalError(
            f"{run.path}: is another folder on {platform.node()}; Ray's machines must share its file system"
        )
    write_table(run.samples / f"{name}.parquet", _sample_block(engine, model, work, params), made_from)


def _sample_block(engine: Engine, model: ModelRef, work: Work, params: SamplingParams) -> pa.Table:
    seeds = [[completion_seed(params.seed, model.identity, prompt_id, s) for s in ids] for prompt_id, _, ids in work]
    completions = engine.sample([prompt for _, prompt, _ in work], seeds, replace(params, n=1))
    rows = [
        (prompt_id, sample_id, seed, c.prompt_token_ids, c.token_ids, c.logprobs, c.text, c.finish_reason, c.entropies)
        for (prompt_id, _, ids), own_seeds, own in zip(work, seeds, completions, strict=True)
        for sample_id, seed, c in zip(ids, own_seeds, own, strict=True)
    ]
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SAMPLES, strict=True)], schema=SAMPLES)
