"""The elementwise half: from logits of some tokens to their scores, and to the gradient of a divergence.

Tiles of a size that stays in a core's cache, in float64. In float32 the rounding of log p − log q is the whole of a
KL of 1e-9, and the usual remedy, the nonnegative generator form Σ p · (q/p − 1 − log(q/p)), still loses 1e-3 of it to
cancellation where two tokens share the mass; in float64 the plain sums keep seven digits. They are clamped at 0.

Letters: R tokens, V vocabulary. p is the teacher, q the student, d = log q − log p.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from odeval.divergence import TokenScores, score_tokens
from odeval.fused.kind import Kind, Mixture, Weight

_TILE = {"cpu": 2**15}  # logits of one model at a time
_TILE_ELSEWHERE = 2**22
_COPIES = 6  # of a tile, in float64


class Wanted(NamedTuple):
    """The gradient that is written over the student's logits.

    Attributes:
        factor: Of each token, [R, 1] float64, or of all.
        bound: Of soft-capped logits, or None.
    """

    factor: Weight
    bound: float | None


class RowScores(NamedTuple):
    """All [R], float64, nats or probabilities; NaN is unknown."""

    loss: torch.Tensor
    scores: TokenScores
    teacher_top_mass: torch.Tensor
    student_top_mass: torch.Tensor


class _Scratch:
    """Tiles of float64 that are written over and over, contiguous whatever their shape."""

    def __init__(self, device: torch.device) -> None:
        self.size = _TILE.get(device.type, _TILE_ELSEWHERE)
        self._flat = [torch.empty(self.size, dtype=torch.float64, device=device) for _ in range(_COPIES)]
        self._views: dict[tuple[int, int], list[torch.Tensor]] = {}

    def groups(self, rows: int, vocab: int) -> Iterator[slice]:
        step = max(1, self.size // vocab)
        return (slice(start, min(start + step, rows)) for start in range(0, rows, step))

    def tiles(self, *logits: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Cut some tensors [R, V] into columns that fit."""
        pieces = -(-logits[0].shape[1] // self.size)
        return zip(*(x.chunk(pieces, dim=1) for x in logits), strict=True) if pieces > 1 else iter([logits])

    def like(self, tile: torch.Tensor) -> list[torch.Tensor]:
        rows, columns = tile.shape
        if (rows, columns) not in self._views:
            self._views[rows, columns] = [flat[: rows * columns].view(rows, columns) for flat in self._flat]
        return self._views[rows, columns]


def score_logits(student: torch.Tensor, teacher: torch.Tensor, token_ids: torch.Tensor) -> TokenScores:
    """What `divergence.score_tokens` gives, without gradient and in less time.

    Args:
        student: [N, V] logits at the positions that predict `token_ids`.
        teacher: [N, V] over the same vocabulary.
        token_ids: [N] int64.

    Returns:
        Six tensors [N] float32, or float64 for float64 logits.

    Example:
        >>> z = torch.tensor([[0.0, 0.0]])
        >>> [round(float(x), 4) for x in score_logits(z, z, torch.tensor([1]))]
        [-0.6931, -0.6931, 0.6931, 0.6931, 0.0, 0.0]
    """
    with torch.no_grad():
        found = score_rows(student, teacher, Kind("reverse_kl"), slice(None), token_ids).scores
        kept = student.dtype if student.dtype == torch.float64 else torch.float32
        scores = TokenScores(*(column.to(kept) for column in found))
        unknown = torch.stack(scores).isnan().any(0).nonzero().squeeze(-1)
        if len(unknown):  # impossible tokens make 0 · (−inf) of the plain sums
            for column, right in zip(
                scores, score_tokens(student[unknown], teacher[unknown], token_ids[unknown]), strict=True
            ):
                column[unknown] = right
        return scores


def score_rows(
    student: torch.Tensor,
    teacher: torch.Tensor,
    kind: Kind,
    where: slice,
    token_ids: torch.Tensor | None = None,
    top_k: int = 0,
    wanted: Wanted | None = None,
) -> RowScores:
    """Scores of R tokens from their logits; with `wanted` the gradient replaces them.

    Args:
        student: [R, V], overwritten with the gradient if it is wanted.
        teacher: [R, V], then overwritten too.
        kind: The divergence that is the loss.
        where: The place of the R tokens among all, for weights per token.
        token_ids: [R] int64, or None: log-probabilities are NaN.
        top_k: How many of the teacher's likeliest tokens the masses are of; 0: NaN.
        wanted: Which gradient, or None.
    """
    rows, vocab = student.shape
    scratch = _Scratch(student.device)
    start = where.start or 0
    found = torch.full((9, rows), torch.nan, dtype=torch.float64, device=student.device)
    for group in scratch.groups(rows, vocab):
        z_s, z_t, out = student[group], teacher[group], found[:, group, None]
        (total_t, out[3]), (total_s, out[4]) = (_normaliser(z, scratch) for z in (z_t, z_s))
        if token_ids is not None:
            index = token_ids[group, None]
            out[1], out[2] = (z.gather(-1, index) - total for z, total in ((z_t, total_t), (z_s, total_s)))
        if top_k:
            index = z_t.topk(min(top_k, vocab), dim=-1).indices
            for row, z, total in ((7, z_t, total_t), (8, z_s, total_s)):
                out[row] = (z.gather(-1, index) - total).exp().sum(-1, keepdim=True)
        mixture = kind.mixture()
        place = slice(start + group.start, start + group.stop)
        weights = (0.0, 0.0) if mixture else kind.weights(out[3], place)
        local = wanted
        if wanted is not None and isinstance(wanted.factor, torch.Tensor):
            local = wanted._replace(factor=wanted.factor[group])
        out[5], out[6], mixed = _compare(z_s, z_t, total_s, total_t, weights, mixture, local, scratch)
        out[0] = mixed if mixture else _weighted(weights[0], out[5]) + _weighted(weights[1], out[6])
    return RowScores(found[0], TokenScores(*found[1:7]), found[7], found[8])


def _weighted(weight: Weight, value: torch.Tensor) -> torch.Tensor:
    # A weight of 0 leaves an infinite divergence out.
    return torch.zeros_like(value) if isinstance(weight, float) and weight == 0 else weight * value


def _normaliser(logits: torch.Tensor, scratch: _Scratch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-sum-exp and entropy, [R, 1] float64."""
    top = logits.amax(-1, keepdim=True).double()
    total, weighted = torch.zeros_like(top), torch.zeros_like(top)
    for (tile,) in scratch.tiles(logits):
        z, e, *_ = scratch.like(tile)
        z.copy_(tile).sub_(top)
        total += _sum(torch.exp(z, out=e))
        weighted += _inner(e, z, e)
    log_total = total.log()
    return top + log_total, log_total - weighted / total


def _sum(values: torch.Tensor) -> torch.Tensor:
    return values.sum(-1, keepdim=True)


def _inner(left: torch.Tensor, right: torch.Tensor, space: torch.Tensor) -> torch.Tensor:
    """Σ left · right of each row; `space` may be written over."""
    if len(left) == 1:
        return torch.dot(left[0], right[0])
    return _sum(torch.mul(left, right, out=space))


def _compare(
    student: torch.Tensor,
    teacher: torch.Tensor,
    total_s: torch.Tensor,
    total_t: torch.Tensor,
    weights: tuple[Weight, Weight],
    mixture: Mixture | None,
    wanted: Wanted | None,
    scratch: _Scratch,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both KLs and the divergence from a mixture, [R, 1]; the gradient q · (slope − Σ q · slope) over the logits.

    The slope is the derivative of the divergence's generator: of Σ p · f(q / p), it is f'(q / p).
    """
    forward, reverse, mixed, mean = (torch.zeros_like(total_s) for _ in range(4))
    pulls_forward, pulls_reverse = (isinstance(w, torch.Tensor) or w != 0 for w in weights)
    centred = mixture is not None or pulls_reverse
    for z_s, z_t in scratch.tiles(student, teacher):
        p, q, d, w, *rest = scratch.like(z_s)
        q.copy_(z_s).sub_(total_s)
        p.copy_(z_t).sub_(total_t)
        torch.sub(q, p, out=d)
        q.exp_()
        p.exp_()
        forward -= _inner(p, d, w)
        if wanted is None or not pulls_reverse:
            reverse += _inner(q, d, w)
        else:
            reverse += _sum(torch.mul(q, d, out=w))
        if mixture is not None:
            mixed += _mix(p, q, d, w, rest, mixture, mean)
        if wanted is None:
            continue
        if mixture is not None:
            _scale(w, wanted.factor)
        elif pulls_reverse:
            _scale(w, weights[1] * wanted.factor)
        if pulls_forward or not centred:
            _scale(torch.sub(q, p, out=p), weights[0] * wanted.factor)
            w = w.add_(p) if centred else p
        if wanted.bound is not None:
            slope = rest[0].copy_(z_s).div_(wanted.bound).square_().neg_().add_(1)  # of bound · tanh(z / bound)
            w.mul_(slope)
            q.mul_(slope)
        z_s.copy_(w)
        if centred:
            z_t.copy_(q)
    forward, reverse, mixed = (x.clamp_(min=0) for x in (forward, reverse, mixed))
    if wanted is not None and centred:
        centre = (mean if mixture is not None else weights[1] * reverse) * wanted.factor
        student.addcmul_(teacher, _as(centre, student), value=-1)
    return forward, reverse, mixed


def _scale(tile: torch.Tensor, factor: Weight) -> None:
    if isinstance(factor, torch.Tensor) or factor != 1:
        tile.mul_(factor)


def _as(value: Weight, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _mix(
    p: torch.Tensor,
    q: torch.Tensor,
    d: torch.Tensor,
    w: torch.Tensor,
    rest: list[torch.Tensor],
    mixture: Mixture,
    mean: torch.Tensor,
) -> torch.Tensor:
    """Add a tile to a divergence from a mixture m: returns its part, leaves q · slope in w and its sum in mean.

    log(m/p) = log(λ + (1 − λ) · e^d) is exactly 0 where p = q. Where |d| exceeds 700 one of p and q is 0, and
    either logarithm is right for the other at 700.
    """
    share, a, b, scale = mixture
    log_qm, log_mp = rest
    torch.clamp(d, min=-700, max=700, out=log_qm)
    torch.exp(log_qm, out=log_mp).mul_(1 - share).add_(share).log_()
    log_qm.sub_(log_mp)
    found = torch.zeros_like(mean)
    if a:
        found -= _inner(p, log_mp, w) * (a * scale)
    torch.mul(q, log_qm, out=w)
    if b:
        part = _sum(w) * (b * scale)
        found += part
    if a and b:  # jsd
        w.mul_(b * scale)
        mean += part
        return found
    if a:  # skew_forward_kl: (1 − α) · (1 − p/m)
        torch.exp(log_mp.neg_(), out=w).neg_().add_(1).mul_(q).mul_((1 - share) * scale)
    else:  # skew_reverse_kl: log(q/m) + α · (1 − q/m), α = 1 − λ
        w.add_(log_qm.exp_().neg_().add_(1).mul_(1 - share).mul_(q)).mul_(scale)
    mean += _sum(w)
    return found
