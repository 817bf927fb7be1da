"""What became of the teacher's options at a branch point: mass still reachable, shared favourites, dropped branches.

Needs both full distributions, so it runs where logits are, during scoring, and only where the teacher hesitates.
Letters: N positions, V vocabulary, D dropped branches. p is the teacher, q the student.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from odeval.divergence import log_softmax

FLOOR = 0.3  # nats of teacher entropy under which a position is not looked at; thresholds below it are not served
NUCLEUS = 0.95
FAVOURITES = 16
KEPT_BY_TEACHER, LEFT_BY_STUDENT = 0.1, 0.01
_HALVINGS = 40


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
    p, q = log_softmax(teacher_logits).exp(), log_softmax(student_logits).exp()
    k = min(FAVOURITES, p.shape[-1])
    favourites = [x.topk(k, dim=-1).indices for x in (p, q)]
    shared = (favourites[0][:, :, None] == favourites[1][:, None, :]).any(-1).sum(-1)
    lost = (p >= KEPT_BY_TEACHER) & (q < LEFT_BY_STUDENT)
    row, token = lost.nonzero(as_tuple=True)
    return Branching(
        nucleus_recall=torch.where(in_nucleus(q), p, torch.zeros_like(p)).sum(-1).clamp(0, 1),
        top_overlap=shared.to(p.dtype) / k,
        dropped=lost.sum(-1).to(p.dtype),
        row=row,
        token=token,
        teacher_prob=p[row, token],
        student_prob=q[row, token],
    )


def in_nucleus(q: torch.Tensor, mass: float = NUCLEUS) -> torch.Tensor:
    """Mark the smallest set of likeliest tokens whose mass reaches `mass`, [N, V] bool, without sorting.

    The probability of its least likely member is found by halving; tokens as likely as that one all belong.

    Args:
        q: [N, V] probabilities.
        mass: In (0, 1].
    """
    low, high = torch.zeros_like(q[:, :1]), q.max(-1, keepdim=True).values
    for _ in range(_HALVINGS):  # low always reaches the mass
        middle = (low + high) / 2
        enough = torch.where(q >= middle, q, torch.zeros_like(q)).sum(-1, keepdim=True) >= mass
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    full = torch.where(q >= high, q, torch.zeros_like(q)).sum(-1, keepdim=True) >= mass
    return (q >= torch.where(full, high, low)) & (q > 0)
