"""What became of the teacher's options at a branch point: mass still reachable, shared favourites, dropped branches.

Needs both full distributions, so it runs where logits are, during scoring, and only where the teacher hesitates.
Letters: N positions, V vocabulary, D dropped branches. p is the teacher, q the student.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from odeval.schemas import STUDENT_MOST, TEACHER_LEAST

NUCLEUS = 0.95
FAVOURITES = 16
_KEPT = 128  # likeliest tokens in which a nucleus is looked for first

_Lookup = Callable[[torch.Tensor], torch.Tensor]


class Branching(NamedTuple):
    """Per position [N], and per dropped branch [D].

    Attributes:
        nucleus_recall: [N] teacher mass inside the student's nucleus, in [0, 1].
        top_overlap: [N] share of the teacher's 16 favourites that are among the student's.
        dropped: [N] tokens with p >= 0.1 and q < 0.01.
        row: [D] position of each dropped branch.
        token: [D] its token id.
        teacher_prob: [D] p.
        student_prob: [D] q.
    """

    nucleus_recall: torch.Tensor
    top_overlap: torch.Tensor
    dropped: torch.Tensor
    row: torch.Tensor
    token: torch.Tensor
    teacher_prob: torch.Tensor
    student_prob: torch.Tensor


def branching(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> Branching:
    """Compare the two distributions at branch points.

    Args:
        student_logits: [N, V].
        teacher_logits: [N, V].

    Returns:
        See Branching.

    Source:
        Ours; the overlap of favourites as in arXiv 2604.13016.

    Example:
        >>> teacher, student = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.995, 0.005, 0.0]]).log()
        >>> found = branching(student, teacher)
        >>> found.nucleus_recall.tolist(), found.token.tolist()
        ([0.5], [1])
    """
    k = min(FAVOURITES, student_logits.shape[-1])
    _, q_ids, q_of = _likeliest(student_logits, k)
    p_top, p_ids, _ = _likeliest(teacher_logits, k)
    shared = (p_ids[:, :, None] == q_ids[:, None, :]).any(-1).sum(-1)
    q_there = q_of(p_ids)
    lost = (p_top >= TEACHER_LEAST) & (q_there < STUDENT_MOST)  # at most ten tokens have p >= 0.1
    row, place = lost.nonzero(as_tuple=True)
    return Branching(
        nucleus_recall=_nucleus_recall(student_logits, teacher_logits),
        top_overlap=shared.to(p_top.dtype) / k,
        dropped=lost.sum(-1).to(p_top.dtype),
        row=row,
        token=p_ids[row, place],
        teacher_prob=p_top[row, place],
        student_prob=q_there[row, place],
    )


def _likeliest(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, _Lookup]:
    """The k likeliest tokens, [N, k] probabilities falling and ids, and a look-up of any other's probability."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    total = wide.logsumexp(-1, keepdim=True)
    values, ids = wide.topk(k, dim=-1)
    return (values - total).exp(), ids, lambda some: (wide.gather(-1, some) - total).exp()


def _nucleus_recall(student_logits: torch.Tensor, teacher_logits: torch.Tensor, kept: int = _KEPT) -> torch.Tensor:
    """Teacher mass in the smallest set of the student's likeliest tokens whose mass reaches NUCLEUS, [N].

    Tokens as likely as the least likely member all belong. Most nuclei are small: they are looked for among the `kept`
    likeliest tokens, and only what does not end there among more.
    """
    kept = min(kept, student_logits.shape[-1])
    q_top, ids, _ = _likeliest(student_logits, kept)
    running = q_top.cumsum(-1)
    last = (running < NUCLEUS).sum(-1, keepdim=True).clamp(max=kept - 1)
    least = q_top.gather(-1, last)
    p_there = _likeliest(teacher_logits, 1)[2](ids)
    recall = torch.where((q_top >= least) & (q_top > 0), p_there, torch.zeros_like(p_there)).sum(-1)
    if kept < student_logits.shape[-1]:
        beyond = ((running[:, -1:] < NUCLEUS) | (least <= q_top[:, -1:])).squeeze(-1).nonzero().squeeze(-1)
        if len(beyond):
            recall[beyond] = _nucleus_recall(student_logits[beyond], teacher_logits[beyond], 32 * kept)
    return recall.clamp(0, 1)
