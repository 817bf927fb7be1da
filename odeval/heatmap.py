"""One of the teacher's completions, token by token: where it had a choice, and whether the student still has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from odeval.measure import Measured
from odeval.parts import read_part
from odeval.pieces import joined
from odeval.store import RunFolder

_SHOWN = 400  # tokens
_LOOKED_AT = 20  # dropped branches
_TEXT = 2000  # characters of a prompt
_COLUMNS = ("teacher_entropy", "student_entropy", "teacher_logprob", "student_logprob")


def completion_to_show(
    teacher: Measured, teacher_run: RunFolder, candidate_run: RunFolder, branches: dict[str, Any] | None,
    threshold: float,
) -> dict[str, Any] | None:  # fmt: skip
    """Choose one of the teacher's completions by a fixed rule, and read its tokens under both models.

    Args:
        teacher: Measured teacher.
        teacher_run: Where its completions are.
        candidate_run: Where their scores are.
        branches: From `dropped_branches`, with the part that holds each example.
        threshold: τ of a branch point, nats.

    Returns:
        JSON-able; None where nothing was scored.
    """
    parts = teacher_run.part_paths(teacher_run.samples)
    if not parts or not candidate_run.part_paths(candidate_run.tokens("teacher")):
        return None
    listed = [] if branches is None else branches["listed"][:_LOOKED_AT]
    examples = [(row["part"], row["prompt_id"], row["sample_id"]) for row in listed]
    rule = f"of the teacher's completions through the {_LOOKED_AT} worst dropped branches, that with most closed ones"
    if not examples:
        examples = [(parts[0].name, *_first(teacher, read_part(parts[0], ["prompt_id", "sample_id"])))]
        rule = "the teacher's first right completion, since no branch was dropped"
    rows = [_scores(candidate_run, *key) for key in dict.fromkeys(examples)]
    closed = [_closed(row, threshold).sum() for row in rows]
    best = int(np.argmax(closed))  # of equals the first
    (name, prompt_id, sample_id), scored = list(dict.fromkeys(examples))[best], rows[best]
    samples = read_part(teacher_run.samples / name, ["prompt_id", "sample_id", "token_ids"])
    ids = _rows(samples, prompt_id, sample_id)[0]["token_ids"]
    pieces = candidate_run.pieces()
    scored = {column: values[:_SHOWN] for column, values in scored.items()}
    own = teacher.completions.of([prompt_id])
    correct = own.loc[own["sample_id"] == sample_id, "correct"].item()
    return {
        "rule": rule,
        "trajectory": "teacher",
        "prompt_id": prompt_id,
        "prompt": teacher.prompts[prompt_id].display()[:_TEXT],
        "sample_id": sample_id,
        "correct": bool(correct) if np.isfinite(correct) else None,
        "threshold": threshold,
        "length": len(ids),
        "pieces": [joined([pieces.get(token, f"<{token}>")]) for token in ids[:_SHOWN]],
        **{column: values.tolist() for column, values in scored.items()},
        "branch": (scored["teacher_entropy"] >= threshold).tolist(),
        "closed": _closed(scored, threshold).tolist(),
        "dropped": _dropped(candidate_run, name, prompt_id, sample_id, pieces),
    }


def _first(teacher: Measured, part: Any) -> tuple[str, int]:
    """A completion of the first part: the first right one, else the first."""
    keys = set(zip(part["prompt_id"].to_pylist(), part["sample_id"].to_pylist(), strict=True))
    own = teacher.completions.of(prompt_id for prompt_id, _ in keys)
    right = own[own["correct"] == 1]
    rows = zip(*(right[name].tolist() for name in ("prompt_id", "sample_id")), strict=True)
    return next((key for key in rows if key in keys), min(keys))


def _scores(run: RunFolder, name: str, prompt_id: str, sample_id: int) -> dict[str, np.ndarray]:
    row = _rows(read_part(run.tokens("teacher") / name, ["prompt_id", "sample_id", *_COLUMNS]), prompt_id, sample_id)[0]
    return {column: np.array(row[column], dtype=np.float64) for column in _COLUMNS}


def _closed(scores: dict[str, np.ndarray], threshold: float) -> np.ndarray:
    """Branch points of the teacher that are none for the student."""
    found: np.ndarray = (scores["teacher_entropy"] >= threshold) & (scores["student_entropy"] < threshold)
    return found


def _rows(table: Any, prompt_id: str, sample_id: int) -> list[dict[str, Any]]:
    wanted = pc.and_(pc.equal(table["prompt_id"], prompt_id), pc.equal(table["sample_id"], sample_id))
    found: list[dict[str, Any]] = table.filter(wanted).to_pylist()
    return found


def _dropped(run: RunFolder, name: str, prompt_id: str, sample_id: int, pieces: dict[int, str]) -> list[dict[str, Any]]:
    path = run.dropped("teacher") / name
    rows = _rows(read_part(path), prompt_id, sample_id) if path.exists() else []
    return [
        {
            "at": row["position"],
            "branch": joined([pieces.get(row["token_id"], f"<{row['token_id']}>")]),
            "teacher_prob": row["teacher_prob"],
            "student_prob": row["student_prob"],
        }
        for row in rows
        if row["position"] < _SHOWN
    ]
