"""Samples × (teacher, student) → tokens/, dropped/. One pass, both trajectories, never more logits than a chunk.

Letters: B sequences, T positions, N generated tokens of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from odeval.atomic import hash_files
from odeval.branching import Branching, branching
from odeval.divergence import TokenScores
from odeval.engines.hf_model import HfModel, check_same_vocabulary
from odeval.errors import CannotJudge, OdevalError
from odeval.executors import Alone, Crew
from odeval.fused import score_logits
from odeval.parts import is_from, read_part, write_table
from odeval.pieces import write_pieces
from odeval.schemas import BRANCH_COLUMNS, BRANCH_FLOOR, DROPPED, TOKEN_COLUMNS, TOKENS
from odeval.store import RunFolder
from odeval.types import TRAJECTORIES, ModelRef

Advance = Callable[[int, int], None]
Pair = tuple[Sequence[int], Sequence[int]]  # prompt ids, completion ids
Models = tuple[HfModel, HfModel]  # teacher, student
Part = tuple[Path, Path, Path]  # of samples/, tokens/, dropped/

_CHUNK_BYTES = 2**26  # of one model's float32 logits
_MIN_CHUNK = 64  # positions; with fewer, reading the output matrix costs more than multiplying by it
_TILE = {"cpu": 2**16, "cuda": 2**23}  # logits whose branch points are described at a time
_BATCH_TOKENS = 2**14  # prompt and completion tokens of one forward pass
_HALF_MAX = 65504.0
FORMAT = 2  # of what is written; parts of an older one are scored again


class Scores(NamedTuple):
    """What is known of some positions, of a batch or of one completion. N positions, D dropped branches.

    Attributes:
        values: [9, N] float32 in the order of TOKEN_COLUMNS and BRANCH_COLUMNS; the last NaN below BRANCH_FLOOR.
        position: [D] int32, of each dropped branch.
        token: [D] int32, its token id.
        teacher_prob: [D] float32.
        student_prob: [D] float32.
    """

    values: np.ndarray
    position: np.ndarray
    token: np.ndarray
    teacher_prob: np.ndarray
    student_prob: np.ndarray


_ENTROPIES = [TOKEN_COLUMNS.index(name) for name in ("teacher_entropy", "student_entropy")]
_NOTHING = Scores(
    np.zeros((len(TOKEN_COLUMNS) + len(BRANCH_COLUMNS), 0), np.float32),
    *(np.zeros(0, dtype) for dtype in (np.int32, np.int32, np.float32, np.float32)),
)


def score(
    teacher: HfModel,
    student: HfModel,
    teacher_run: RunFolder,
    student_run: RunFolder,
    advance: Advance = lambda done, total: None,
    trajectories: Sequence[str] = TRAJECTORIES,
) -> None:
    """Score both models at every generated token of both models' completions, into the student's run folder.

    Parts that are there and were made from these models and these samples are kept.

    Args:
        teacher: The reference model.
        student: The model under audit; same vocabulary.
        teacher_run: Completions of the teacher.
        student_run: Completions of the student; `tokens/`, `dropped/` and the table of pieces are written here.
        advance: Told (parts done, parts in all).
        trajectories: Whose completions; the teacher's alone cost half, and tell retention and dropped branches.

    Raises:
        OdevalError: The vocabularies differ, a run is another model's, or a part is damaged.
        CannotJudge: A run has no samples, or samples without token ids or with ids the models do not know.
    """
    score_by(Alone((teacher, student)), teacher_run, student_run, advance, trajectories)


def score_by(
    crew: Crew[Models], teacher_run: RunFolder, student_run: RunFolder,
    advance: Advance = lambda done, total: None, trajectories: Sequence[str] = TRAJECTORIES,
) -> None:  # fmt: skip
    """As `score`, by a crew whose every worker has both models."""
    refs = crew.ask(_refs)
    models = {"teacher": refs[0].fingerprint, "student": refs[1].fingerprint}
    work: dict[str, Part] = {}
    for trajectory, run, ref in zip(TRAJECTORIES, (teacher_run, student_run), refs, strict=True):
        _check_origin(run, ref)
        parts = run.part_paths(run.samples) if trajectory in trajectories else []
        if not parts and trajectory in trajectories:
            raise CannotJudge(f"{run.path}: nothing to score (samples/ is empty); run `odeval sample` first")
        folders = student_run.tokens(trajectory), student_run.dropped(trajectory)
        work |= {f"{trajectory}/{p.name}": (p, folders[0] / p.name, folders[1] / p.name) for p in parts}
    with student_run.lock():
        wanted = {target for _, *targets in work.values() for target in targets}
        for folder in (f(trajectory) for trajectory in trajectories for f in (student_run.tokens, student_run.dropped)):
            for path in student_run.part_paths(folder):
                if path not in wanted:
                    path.unlink()  # scores of samples that are no more
        for number, _ in enumerate(crew.each(partial(_write_scores, made_by=models), work)):
            advance(number + 1, len(work))
        crew.ask(partial(_write_pieces, run=student_run, work=[(path, dropped) for path, _, dropped in work.values()]))


def _refs(models: Models) -> tuple[ModelRef, ModelRef]:
    """Name both models; they must share a vocabulary."""
    teacher, student = models
    check_same_vocabulary(teacher.vocabulary, student.vocabulary, f"{teacher.name} / {student.name}")
    return teacher.ref(), student.ref()


def _write_scores(models: Models, part: Part, *, made_by: Mapping[str, str]) -> None:
    """Score one part and write it, unless it is there."""
    path, tokens, dropped = part
    made_from = {**made_by, "samples": hash_files([path]), "format": FORMAT}
    if not (is_from(tokens, made_from) and is_from(dropped, made_from)):
        tables = _score_part(*models, path)
        write_table(dropped, tables[1], made_from)
        write_table(tokens, tables[0], made_from)


def _write_pieces(models: Models, *, run: RunFolder, work: Sequence[tuple[Path, Path]]) -> None:
    write_pieces(models[1].tokenizer, run, work)


def _check_origin(run: RunFolder, ref: ModelRef) -> None:
    """A run of some other model is not the trajectory it is taken for."""
    if (run.path / "run.json").exists() and ref.fingerprint:
        origin = run.meta().get("model", {})
        if origin.get("fingerprint") not in (None, "", ref.fingerprint):
            raise OdevalError(
                f"{run.path}: was sampled from {origin.get('path')}, whose files differ from those of {ref.path} "
                "now; score with the model that answered, or sample again"
            )


def _score_part(teacher: HfModel, student: HfModel, path: Path) -> tuple[pa.Table, pa.Table]:
    """The rows of tokens/ and of dropped/ that belong to a part of samples/."""
    samples = read_part(path, ["prompt_id", "sample_id", "prompt_token_ids", "token_ids"])
    pairs = list(zip(_ids(samples, "prompt_token_ids"), _ids(samples, "token_ids"), strict=True))
    if any(tokens is not None and not prompt for prompt, tokens in pairs):
        raise CannotJudge(f"{path}: has completions without the token ids of their prompts, and cannot be scored")
    if any(tokens is None for _, tokens in pairs):
        raise CannotJudge(f"{path}: has completions without token ids, and cannot be scored")
    unique = list(dict.fromkeys((p, t) for p, t in pairs if p and t))
    largest = max((max(max(p), max(t)) for p, t in unique), default=0)
    if largest >= teacher.vocab_size:
        raise CannotJudge(
            f"{path}: holds token id {largest}, but {teacher.name} knows only {teacher.vocab_size}; "
            "score with the models that share the vocabulary the run was sampled with"
        )
    scores = dict(zip(unique, score_sequences(teacher, student, unique), strict=True))
    found = [scores[(p, t)] if p and t else _NOTHING for p, t in pairs]
    offsets = pa.array(np.cumsum([0] + [one.values.shape[1] for one in found]), pa.int32())
    flat = np.concatenate([one.values for one in found], axis=1)
    lists = [pa.ListArray.from_arrays(offsets, pa.array(row)) for row in flat]
    tokens = pa.table([samples["prompt_id"], samples["sample_id"], *lists], schema=TOKENS)
    return tokens, _dropped_table(samples, found)


def _dropped_table(samples: pa.Table, found: Sequence[Scores]) -> pa.Table:
    """One row a dropped branch, in the order of the completions."""
    rows = samples.select(["prompt_id", "sample_id"]).take(
        np.repeat(np.arange(len(found)), [len(s.token) for s in found])
    )
    entropies = [np.concatenate([one.values[column][one.position] for one in found]) for column in _ENTROPIES]
    columns = [np.concatenate(column) for column in zip(*(one[1:] for one in found), strict=True)]
    return pa.table([*rows.columns, *columns, *entropies], schema=DROPPED)


def _ids(table: pa.Table, column: str) -> list[tuple[int, ...] | None]:
    return [None if ids is None else tuple(ids) for ids in table[column].to_pylist()]


def score_sequences(teacher: HfModel, student: HfModel, sequences: Sequence[Pair]) -> list[Scores]:
    """Score the completion part of (prompt ids, completion ids) pairs under both models.

    Args:
        teacher: The reference model.
        student: Same vocabulary.
        sequences: Pairs; neither part is empty.

    Returns:
        Scores of each pair, in nats. All but divergences and probabilities are rounded to half precision (relative
        5e-4).
    """
    results = [_NOTHING] * len(sequences)
    limit = _BATCH_TOKENS
    if not (teacher.plain_head and student.plain_head):  # then a forward pass returns all its logits at once
        limit = max(1, _CHUNK_BYTES // (4 * student.vocab_size))
    for batch in _batches(sequences, limit):
        rows = [(*sequences[i][0], *sequences[i][1]) for i in batch]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *([0] * (width - len(row)))] for row in rows])
        starts = torch.tensor([len(sequences[i][0]) for i in batch])[:, None]
        ends = torch.tensor([len(row) for row in rows])[:, None]
        place = torch.arange(width)[None]
        scores = _score_batch(teacher, student, ids, place < ends, (place >= starts) & (place < ends))
        ends_N = np.cumsum([len(sequences[i][1]) for i in batch])
        for i, piece in zip(batch, _split(scores, ends_N), strict=True):
            results[i] = piece
    return results


def _split(scores: Scores, ends: np.ndarray) -> Iterator[Scores]:
    """Cut the positions of a batch into its completions, which end at `ends`."""
    starts = np.concatenate([[0], ends[:-1]])
    for start, end, first, last in zip(starts, ends, *np.searchsorted(scores.position, [starts, ends]), strict=True):
        own = Scores(scores.values[:, start:end], *(column[first:last] for column in scores[1:]))
        yield own._replace(position=own.position - np.int32(start))


def _batches(sequences: Sequence[Pair], limit: int) -> Iterator[list[int]]:
    """Group sequences of similar length, so that little is padding, up to `limit` tokens."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i][0]) + len(sequences[i][1]))
    batch: list[int] = []
    for i in order:
        length = len(sequences[i][0]) + len(sequences[i][1])
        if batch and (len(batch) + 1) * length > limit:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.no_grad()
def _score_batch(
    teacher: HfModel, student: HfModel, ids_BT: torch.Tensor, mask_BT: torch.Tensor, generated_BT: torch.Tensor
) -> Scores:
    """Score the generated positions; each is predicted by the position before it."""
    targets_N = ids_BT[generated_BT]
    predicting_BT = torch.zeros_like(generated_BT)
    predicting_BT[:, :-1] = generated_BT[:, 1:]
    hidden = []
    for model in (student, teacher):
        states = model.hidden(ids_BT.to(model.device), mask_BT.to(model.device).long())
        hidden.append(states[predicting_BT.to(model.device)])
    chunk = max(_MIN_CHUNK, _CHUNK_BYTES // (4 * student.vocab_size))
    values: list[torch.Tensor] = []
    found: list[tuple[torch.Tensor, ...]] = []
    done = 0
    for student_NH, teacher_NH, ids_N in zip(*(torch.split(x, chunk) for x in (*hidden, targets_N)), strict=True):
        for tile, branches in _score_chunk(student, teacher, student_NH, teacher_NH, ids_N):
            found.append((branches.row + done, *branches[4:]))
            values.append(tile)
            done += tile.shape[1]
    columns = [torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)]
    dtypes = (np.int32, np.int32, np.float32, np.float32)
    return Scores(
        torch.cat(values, dim=1).cpu().numpy(),
        *(column.astype(dtype) for column, dtype in zip(columns, dtypes, strict=True)),
    )


def _score_chunk(
    student: HfModel, teacher: HfModel, student_NH: torch.Tensor, teacher_NH: torch.Tensor, ids_N: torch.Tensor
) -> Iterator[tuple[torch.Tensor, Branching]]:
    """The only place that holds logits; they are gone before the next chunk's are made."""
    student_NV = student.logits_at(student_NH)
    teacher_NV = teacher.logits_at(teacher_NH).to(student_NV.device)
    scores = score_logits(student_NV, teacher_NV, ids_N.to(student_NV.device))
    tile = max(1, _TILE.get(student_NV.device.type, _TILE["cpu"]) // student.vocab_size)
    for z_s, z_t, *columns in zip(*(torch.split(x, tile) for x in (student_NV, teacher_NV, *scores)), strict=True):
        yield _describe_tile(z_s, z_t, TokenScores(*columns))


def _describe_tile(
    student_NV: torch.Tensor, teacher_NV: torch.Tensor, scores: TokenScores
) -> tuple[torch.Tensor, Branching]:
    """[9, N] values, and what became of the teacher's options where it hesitates."""
    where = (scores.teacher_entropy >= BRANCH_FLOOR).nonzero().squeeze(-1)
    found = branching(student_NV[where], teacher_NV[where])
    shape = (len(TOKEN_COLUMNS) + len(BRANCH_COLUMNS), len(student_NV))
    values = torch.full(shape, torch.nan, device=student_NV.device)
    for row, (name, column) in enumerate(zip(TOKEN_COLUMNS, scores, strict=True)):
        values[row] = column if "kl" in name else _half(column)
    for row, column in enumerate(found[: len(BRANCH_COLUMNS)], start=len(TOKEN_COLUMNS)):
        values[row, where] = _half(column)
    return values, found._replace(row=where[found.row])


def _half(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-_HALF_MAX, _HALF_MAX).half().float()
