"""The scores of `divergence.score_tokens` at the precision that watching a training asks for, in half the time.

Letters: N tokens, R of a tile, V vocabulary; p is the teacher, q the student; nats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from odeval.divergence import TokenScores, score_tokens

_TILE = (2**18, 2**24)  # logits of a model that are looked at together, on a CPU and on a GPU


@torch.no_grad()
def glance(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    token_ids: torch.Tensor,
    look: Callable[[slice, torch.Tensor], None] | None = None,
) -> TokenScores:
    """Log-probabilities, entropies and divergences in float32.

        Σ q · log q,  Σ q · (log q − log p),  Σ p · log q,  Σ p · (log q − log p),  as one product of matrices

    Args:
        student_logits: [N, V] at the positions that predict `token_ids`; any float type.
        teacher_logits: [N, V] over the same vocabulary.
        token_ids: [N] int64.
        look: Shown the probabilities of each tile: where it stands in N, and [R, 2, V] of student and teacher.

    Returns:
        Six tensors [N] float32, nats, right to 1e-5.

    Example:
        >>> found = glance(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log(), torch.tensor([1]))
        >>> [round(float(x), 4) for x in found]
        [-0.6931, -2.3026, 0.6931, 0.3251, 0.5108, 0.3681]
    """
    size = max(1, _TILE[student_logits.is_cuda] // student_logits.shape[1])
    index = token_ids[:, None, None].expand(-1, 2, -1)
    parts = []
    for start in range(0, len(token_ids), size):
        own = slice(start, start + size)
        both = torch.stack((student_logits[own], teacher_logits[own]), dim=1)  # [R, 2, V]
        log = torch.log_softmax(both, -1, dtype=torch.float32)
        weight, chosen = log.exp(), log.gather(-1, index[own])
        if look is not None:
            look(own, weight)
        torch.sub(log[:, 0], log[:, 1], out=log[:, 1])
        parts.append(torch.cat((chosen, torch.bmm(weight, log.mT)), dim=-1))
    (student_logprob, plain, reverse), (teacher_logprob, crossed, forward) = torch.cat(parts).permute(1, 2, 0)
    found = torch.stack((teacher_logprob, student_logprob, forward - crossed, -plain, -forward, reverse))
    found[4:].clamp_(min=0)
    if bool(found.isnan().any()):  # impossible tokens make 0 · (−inf) of the plain sums
        unknown = found.isnan().any(0).nonzero().squeeze(-1)
        exact = score_tokens(student_logits[unknown], teacher_logits[unknown], token_ids[unknown])
        found[:, unknown] = torch.stack(exact).float()
    return TokenScores(*found)
