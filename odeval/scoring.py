"""Samples × (teacher, student) → tokens/. One pass, both models, both trajectories, never more logits than a chunk.

Letters: N generated tokens of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from odeval.atomic import hash_files
from odeval.divergence import TokenScores, score_tokens
from odeval.engines.hf_model import HfModel, check_same_vocabulary
from odeval.errors import CannotJudge
from odeval.store import RunFolder, part_provenance, write_table
from odeval.types import TOKEN_COLUMNS, TOKENS, TRAJECTORIES

Advance = Callable[[int, int], None]

_CHUNK_BYTES = 2**26  # for the logits of one chunk of positions and what is computed from them
_LIVE_ROWS = 24  # float32 rows of V per position that are alive at once inside score_tokens
_BATCH_TOKENS = 2**14  # prompt and completion tokens of one forward pass
_HALF_MAX = 65504.0


def score(
    teacher: HfModel,
    student: HfModel,
    teacher_run: RunFolder,
    student_run: RunFolder,
    advance: Advance = lambda done, total: None,
) -> None:
    """Score both models at every generated token of both models' completions, into the student's run folder.

    Args:
        teacher: The reference model.
        student: The model under audit; same vocabulary.
        teacher_run: Completions of the teacher.
        student_run: Completions of the student; `tokens/` is written here.
        advance: Told (parts done, parts in all).

    Raises:
        OdevalError: The vocabularies differ.
        CannotJudge: A run has no samples.
    """
    check_same_vocabulary(teacher.vocabulary, student.vocabulary, f"{teacher.name} / {student.name}")
    models = {"teacher": teacher.ref().fingerprint, "student": student.ref().fingerprint}
    work = []
    for trajectory, run in zip(TRAJECTORIES, (teacher_run, student_run), strict=True):
        parts = run.part_paths(run.samples)
        if not parts:
            raise CannotJudge(f"{run.path}: nothing to score (samples/ is empty); run `odeval sample` first")
        work += [(trajectory, path) for path in parts]
    with student_run.lock():
        for number, (trajectory, path) in enumerate(work):
            target = student_run.tokens(trajectory) / path.name
            made_from = {**models, "samples": hash_files([path])}
            if not target.exists() or any(part_provenance(target).get(k) != v for k, v in made_from.items()):
                samples = pq.read_table(path, columns=["prompt_id", "sample_id", "prompt_token_ids", "token_ids"])
                write_table(target, _score_part(teacher, student, samples), made_from)
            advance(number + 1, len(work))


def _score_part(teacher: HfModel, student: HfModel, samples: pa.Table) -> pa.Table:
    prompts = [tuple(ids or ()) for ids in samples["prompt_token_ids"].to_pylist()]
    tokens = [tuple(ids or ()) for ids in samples["token_ids"].to_pylist()]
    unique = list(dict.fromkeys(pair for pair in zip(prompts, tokens, strict=True) if pair[1]))
    scores = dict(zip(unique, score_sequences(teacher, student, unique), strict=True))
    nothing = np.zeros((len(TOKEN_COLUMNS), 0), dtype=np.float32)
    found = [scores.get(pair, nothing) for pair in zip(prompts, tokens, strict=True)]
    offsets = pa.array(np.cumsum([0] + [one.shape[1] for one in found]), pa.int32())
    flat = np.concatenate(found, axis=1)
    lists = [pa.ListArray.from_arrays(offsets, pa.array(row)) for row in flat]
    return pa.table([samples["prompt_id"], samples["sample_id"], *lists], schema=TOKENS)


def score_sequences(
    teacher: HfModel, student: HfModel, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[np.ndarray]:
    """Score the completion part of (prompt ids, completion ids) pairs under both models.

    Args:
        teacher: The reference model.
        student: Same vocabulary.
        sequences: Pairs; neither part is empty.

    Returns:
        For each pair a [6, T] float32 array in the order of TOKEN_COLUMNS, in nats. Entropies and log-probabilities
        are rounded to half precision (relative 5e-4), divergences are not.
    """
    results: list[np.ndarray] = [np.zeros((0, 0))] * len(sequences)
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
        flat = torch.stack([_half(v) if "kl" not in name else v for name, v in zip(TOKEN_COLUMNS, scores, strict=True)])
        lengths = [len(sequences[i][1]) for i in batch]
        for i, piece in zip(batch, np.split(flat.numpy(), np.cumsum(lengths)[:-1], axis=1), strict=True):
            results[i] = piece
    return results


def _batches(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], limit: int) -> Iterator[list[int]]:
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
) -> tuple[torch.Tensor, ...]:
    """Score the generated positions; each is predicted by the position before it."""
    targets_N = ids_BT[generated_BT]
    predicting_BT = torch.zeros_like(generated_BT)
    predicting_BT[:, :-1] = generated_BT[:, 1:]
    hidden: list[Any] = []
    for model in (student, teacher):
        states = model.hidden(ids_BT.to(model.device), mask_BT.to(model.device).long())
        hidden.append(states[predicting_BT.to(model.device)])
    rows = max(1, _CHUNK_BYTES // (4 * _LIVE_ROWS * student.vocab_size))
    pieces = []
    for start in range(0, len(targets_N), rows):
        chunk = slice(start, start + rows)
        student_logits = student.logits_at(hidden[0][chunk])
        teacher_logits = teacher.logits_at(hidden[1][chunk]).to(student_logits.device)
        pieces.append(score_tokens(student_logits, teacher_logits, targets_N[chunk].to(student_logits.device)))
    return TokenScores(*(torch.cat(column).float().cpu() for column in zip(*pieces, strict=True)))


def _half(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-_HALF_MAX, _HALF_MAX).half().float()
