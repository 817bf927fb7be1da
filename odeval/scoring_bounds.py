"""Samples × (teacher, student) → tokens/, where a backend tells the K likeliest tokens only: bounds, not values.

For weights that lie behind a server, or that only vLLM can hold. What is written is what top-K log-probabilities prove
(`odeval.metrics.topk`); comparisons say so, and count what they cannot decide. Letters: T tokens, K kept, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from odeval.atomic import hash_files
from odeval.errors import CannotJudge, OdevalError
from odeval.executors import Crew
from odeval.metrics.topk import entropy_bounds
from odeval.parts import is_from, read_part, write_table
from odeval.schemas import BOUND_COLUMNS, TOKEN_BOUNDS
from odeval.store import RunFolder
from odeval.types import TRAJECTORIES, ModelRef

Advance = Callable[[int, int], None]
Pair = tuple[Sequence[int], Sequence[int]]  # prompt ids, completion ids
Models = tuple["TopK", "TopK"]  # teacher, student
FORMAT = 1  # of what is written; parts of an older one are scored again


@runtime_checkable
class TopK(Protocol):
    """What tells log-probabilities of given tokens: ServerEngine, VllmEngine."""

    @property
    def vocab_size(self) -> int:
        """V, or more where it is not known, which only widens the upper bounds."""

    def ref(self) -> ModelRef:
        """Name the weights."""

    def gives_top_logprobs(self, k: int) -> bool:
        """Whether it can be asked for them."""

    def top_logprobs(self, sequences: Sequence[Pair], k: int) -> list[np.ndarray]:
        """Return the K largest log-probabilities at every completion token, [T, K] each; −inf where fewer are told."""


def score_bounds(
    crew: Crew[Models], teacher_run: RunFolder, student_run: RunFolder, k: int = 20,
    advance: Advance = lambda done, total: None,
) -> None:  # fmt: skip
    """Bound both models' entropies at every generated token of both runs, into the student's run folder.

    Parts that are there and were made from these models and these samples are kept; exact scores are replaced.

    Args:
        crew: Its every worker has the reference model and the model under audit, of one vocabulary.
        teacher_run: Completions of the teacher, with token ids of prompts and completions.
        student_run: Completions of the student; `tokens/` is written here.
        k: Tokens asked for at each position, 1 or more.
        advance: Told (parts done, parts in all).

    Raises:
        OdevalError: k < 1, or what comes back is not log-probabilities of one distribution.
        CannotJudge: A run has no samples, or completions without token ids.
    """
    if k < 1:
        raise OdevalError(f"top-logprobs {k}: at least 1 token must be asked for")
    models = dict(zip(TRAJECTORIES, crew.ask(_identities), strict=True))
    work: dict[str, tuple[Path, Path]] = {}
    for trajectory, run in zip(TRAJECTORIES, (teacher_run, student_run), strict=True):
        parts = run.part_paths(run.samples)
        if not parts:
            raise CannotJudge(f"{run.path}: nothing to score (samples/ is empty); run `odeval sample` first")
        work |= {f"{trajectory}/{path.name}": (path, student_run.tokens(trajectory) / path.name) for path in parts}
    with student_run.lock():
        wanted = {target for _, target in work.values()}
        for folder in (f(where) for where in TRAJECTORIES for f in (student_run.tokens, student_run.dropped)):
            for path in student_run.part_paths(folder):
                if path not in wanted:
                    path.unlink()  # scores of samples that are no more, and dropped branches: nobody can tell them
        for number, _ in enumerate(crew.each(partial(_write_bounds, made_by=models, k=k), work)):
            advance(number + 1, len(work))


def _identities(models: Models) -> list[str]:
    return [model.ref().identity for model in models]


def _write_bounds(models: Models, part: tuple[Path, Path], *, made_by: Mapping[str, str], k: int) -> None:
    """Bound one part and write it, unless it is there."""
    path, target = part
    made_from = {**made_by, "samples": hash_files([path]), "top_logprobs": k, "bounds": FORMAT}
    if not is_from(target, made_from):
        write_table(target, _bounds_of(*models, path, k), made_from)


def _bounds_of(teacher: TopK, student: TopK, path: Path, k: int) -> pa.Table:
    """The rows of tokens/ that belong to a part of samples/."""
    samples = read_part(path, ["prompt_id", "sample_id", "prompt_token_ids", "token_ids"])
    pairs = list(zip(samples["prompt_token_ids"].to_pylist(), samples["token_ids"].to_pylist(), strict=True))
    if any(tokens is None or (tokens and not prompt) for prompt, tokens in pairs):
        raise CannotJudge(f"{path}: has completions without token ids of prompt or completion, and cannot be scored")
    told = list(dict.fromkeys((tuple(prompt), tuple(tokens)) for prompt, tokens in pairs if tokens))
    columns: dict[str, list[np.ndarray]] = {}
    for name, model in zip(TRAJECTORIES, (teacher, student), strict=True):
        found = [entropy_bounds(top, model.vocab_size) for top in model.top_logprobs(told, k)]
        columns[f"{name}_entropy_low"] = [bounds.low for bounds in found]
        columns[f"{name}_entropy_high"] = [bounds.high for bounds in found]
        columns[f"{name}_mass"] = [bounds.mass for bounds in found]
    place = {pair: i for i, pair in enumerate(told)}
    where = [place[tuple(prompt), tuple(tokens)] if tokens else -1 for prompt, tokens in pairs]
    offsets = pa.array(np.cumsum([0] + [len(tokens) for _, tokens in pairs]), pa.int32())
    lists = []
    for column in BOUND_COLUMNS:
        rows = [columns[column][i] for i in where if i >= 0]
        flat = np.concatenate(rows) if rows else np.zeros(0)
        lists.append(pa.ListArray.from_arrays(offsets, pa.array(_outward(flat, column))))
    return pa.table([samples["prompt_id"], samples["sample_id"], *lists], schema=TOKEN_BOUNDS)


def _outward(values: np.ndarray, column: str) -> np.ndarray:
    """Round to float32 so that a bound stays one."""
    rounded = values.astype(np.float32)
    if column.endswith("low"):
        return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    if column.endswith("high"):
        return np.where(rounded < values, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return rounded
