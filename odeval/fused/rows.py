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
_ROWS = 8  # of a group at least: what is done once for all of them costs as much as half a row
_COPIES = 5  # of a tile, in float64
_LEAST = 1e-250  # a sum of exponentials between it and its inverse neither overflowed nor lost a digit


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
    """Tiles of float64 that are written over and over, contiguous whatever their shape.

    Args:
        rows: R.
        vocab: V.
        device: Where.
    """

    def __init__(self, rows: int, vocab: int, device: torch.device) -> None:
        size = _TILE.get(device.type, _TILE_ELSEWHERE)
        self.rows = max(1, size // vocab, min(_ROWS, size, rows))
        self._pieces = -(-vocab // max(1, size // self.rows))
        self._flat = [torch.empty(size, dtype=torch.float64, device=device) for _ in range(_COPIES)]
        self._views: dict[tuple[int, int], list[torch.Tensor]] = {}

    def groups(self, rows: int) -> Iterator[slice]:
        return (slice(start, min(start + self.rows, rows)) for start in range(0, rows, self.rows))

    def tiles(self, *logits: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """Cut some tensors [R, V] into columns that fit."""
        return list(zip(*(x.chunk(self._pieces, dim=1) for x in logits), strict=True)) if self._pieces > 1 else [logits]

    def sums(self, kinds: int, rows: int) -> tuple[torch.Tensor, list[tuple[torch.Tensor, ...]]]:
        """Room for sums of each row over each tile, [kinds, tiles, R, 1], and its places [kinds, R, 1] tile by tile."""
        made = self._flat[0].new_zeros((kinds, self._pieces, rows, 1))
        return made, list(zip(*(own.unbind() for own in made.unbind()), strict=True))

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
    scratch = _Scratch(rows, vocab, student.device)
    start = where.start or 0
    found = torch.full((9, rows), torch.nan, dtype=torch.float64, device=student.device)
    for group in scratch.groups(rows):
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
    total, weighted = _exponentials(logits, None, scratch)
    if bool(((total > _LEAST) & (total < 1 / _LEAST)).all()):
        log_total = total.log()
        return log_total, log_total - weighted / total
    top = logits.amax(-1, keepdim=True).double()
    total, weighted = _exponentials(logits, top, scratch)
    log_total = total.log()
    return top + log_total, log_total - weighted / total


def _exponentials(logits: torch.Tensor, top: torch.Tensor | None, scratch: _Scratch) -> torch.Tensor:
    """Σ e^(z − top) and Σ e^(z − top) · (z − top), [2, R, 1]."""
    sums, places = scratch.sums(2, len(logits))
    for (tile,), (total, weighted) in zip(scratch.tiles(logits), places, strict=False):
        z, e, *_ = scratch.like(tile)
        z.copy_(tile)
        if top is not None:
            z.sub_(top)
        _sum(torch.exp(z, out=e), total)
        _sum(e.mul_(z), weighted)
    return sums.sum(1)


def _sum(values: torch.Tensor, out: torch.Tensor) -> None:
    torch.sum(values, -1, keepdim=True, out=out)


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

    The slope is the derivative of the divergence's generator: of Σ p · f(q / p), it is f'(q / p). A number that
    multiplies all of the gradient does so at the end.
    """
    sums, places = scratch.sums(5, len(student))  # −forward, reverse, two of the mixture, Σ q · slope
    scale, (of_forward, of_reverse) = _share(weights)
    pulls_forward, pulls_reverse = (isinstance(w, torch.Tensor) or w != 0 for w in (of_forward, of_reverse))
    centred = mixture is not None or pulls_reverse
    for (z_s, z_t), own in zip(scratch.tiles(student, teacher), places, strict=False):
        p, q, d, w, m = scratch.like(z_s)
        torch.sub(q.copy_(z_s).sub_(total_s), p.copy_(z_t).sub_(total_t), out=d)
        q.exp_()
        p.exp_()
        _sum(torch.mul(p, d, out=w), own[0])
        _sum(torch.mul(q, d, out=w), own[1])
        if mixture is not None:
            _mix(p, q, d, w, m, mixture, own[2:])
        if wanted is None:
            continue
        if mixture is None:
            _scale(w, of_reverse)
            if pulls_forward:
                _scale(torch.sub(q, p, out=p), of_forward)
                w = w.add_(p) if pulls_reverse else p
        if wanted.bound is not None:
            slope = m.copy_(z_s).div_(wanted.bound).square_().neg_().add_(1)  # of bound · tanh(z / bound)
            w.mul_(slope)
            q.mul_(slope)
        z_s.copy_(w)
        if centred:
            z_t.copy_(q)
    minus_forward, reverse, to_teacher, to_student, mean = sums.sum(1)
    forward, reverse = minus_forward.neg_().clamp_(min=0), reverse.clamp_(min=0)
    mixed = reverse
    if mixture is not None:
        scale = mixture.scale * (mixture.from_student or 1 - mixture.teacher_share)  # of all that _mix leaves
        mixed = ((mixture.from_student * to_student - mixture.from_teacher * to_teacher) * mixture.scale).clamp_(min=0)
    if wanted is not None:
        if centred:
            centre = mean if mixture is not None else of_reverse * reverse
            student.addcmul_(teacher, centre.to(student), value=-1)
        _scale(student, scale * wanted.factor)
    return forward, reverse, mixed


def _share(weights: tuple[Weight, Weight]) -> tuple[float, tuple[Weight, Weight]]:
    """Take the larger of two numbers out of both; tensors stay."""
    forward, reverse = weights
    if isinstance(forward, torch.Tensor) or isinstance(reverse, torch.Tensor):
        return 1.0, weights
    scale = max(forward, reverse, key=abs)
    return scale, (forward / scale, reverse / scale) if scale else (1.0, 0.0)


def _scale(tile: torch.Tensor, factor: Weight) -> None:
    if isinstance(factor, torch.Tensor) or factor != 1:
        tile.mul_(factor)


def _mix(
    p: torch.Tensor,
    q: torch.Tensor,
    d: torch.Tensor,
    w: torch.Tensor,
    m: torch.Tensor,
    mixture: Mixture,
    sums: tuple[torch.Tensor, ...],
) -> None:
    """Write a tile's Σ p · log(m/p), Σ q · log(q/m) and Σ q · slope to sums, and q · slope to w; d is written over.

    The slope is divided by b, or by 1 − λ where b is 0.

    log(m/p) = log(λ + (1 − λ) · e^d) is exactly 0 where p = q. Where |d| exceeds 700 one of p and q is 0, and
    either logarithm is right for the other at 700.
    """
    share, a, b, _ = mixture
    torch.exp(d.clamp_(min=-700, max=700), out=m).mul_(1 - share).add_(share).log_()
    if a:
        _sum(torch.mul(p, m, out=w), sums[0])
    log_qm = d.sub_(m)
    torch.mul(q, log_qm, out=w)
    _sum(w, sums[1])
    if a and b:  # jsd: log(q/m)
        sums[2].copy_(sums[1])
        return
    if a:  # skew_forward_kl: 1 − p/m
        torch.addcmul(q, q, m.neg_().exp_(), value=-1, out=w)
    else:  # skew_reverse_kl: log(q/m) + (1 − λ) · (1 − q/m)
        w.add_(torch.addcmul(q, q, log_qm.exp_(), value=-1, out=m), alpha=1 - share)
    _sum(w, sums[2])
