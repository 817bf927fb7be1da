"""What `rows.score_rows` does, as Triton kernels: three readings of the logits and one writing.

Most GPUs run float64 at 1/64 of float32's rate, so only d and the sums of blocks are in it. What float32 would lose:

- Sums are of the nonnegative form of a divergence, Σ p · (f(q/p) − f'(1) · (q/p − 1)), by series where d is small.
- Log-sum-exps are 1e-7 off. The second reading also tells by how much Σ q exceeds Σ p. An excess δ adds f''(1) · δ²/2
  to a divergence, which is taken off; in the third reading the student's logarithms are right by δ.

Letters: R tokens, V vocabulary. p is the teacher, q the student, d = log q − log p, m = λ · p + (1 − λ) · q.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl

from odeval.divergence import TokenScores
from odeval.fused.kind import Kind, Weight
from odeval.fused.rows import RowScores, Wanted

BLOCK = 2048  # logits of one model that a program holds at a time
_WARPS = 8


def score_rows(
    student: torch.Tensor,
    teacher: torch.Tensor,
    kind: Kind,
    where: slice,
    token_ids: torch.Tensor | None = None,
    top_k: int = 0,
    wanted: Wanted | None = None,
) -> RowScores:
    """Scores of R tokens from their logits; with `wanted` the gradient replaces those of the student.

    Arguments and results are those of `rows.score_rows`, of logits [R, V] that are float32 and contiguous. Impossible
    tokens count as in `divergence.score_tokens`.
    """
    rows, vocab = student.shape
    mixture = kind.mixture()
    share = 0.5 if mixture is None else mixture.teacher_share
    normal, sums = (torch.empty((n, rows), dtype=torch.float64, device=student.device) for n in (6, 6))
    _launch(_normalise, student, student, normal, rows, vocab)
    _launch(_normalise, student, teacher, normal[3:], rows, vocab)
    top, total, weighted = normal[::3], normal[1::3], normal[2::3]
    totals = top + total.log()
    student_entropy, teacher_entropy = total.log() - weighted / total
    _launch(_sum_up, student, student, teacher, totals, sums, rows, vocab, share, 1 - share, MIXED=mixture is not None)
    excess, *parts, apart = sums
    totals[0] += excess.log1p()
    curved = (1.0, 1.0, (1 - share) ** 2, share**2)  # f''(1)
    forward, reverse, to_teacher, to_student = (
        (part - f * excess.square() / 2).clamp_(min=0) for part, f in zip(parts, curved, strict=True)
    )
    if mixture is None:
        weights = kind.weights(teacher_entropy[:, None], where)
        of_gap, of_slope = (w[:, 0] if isinstance(w, torch.Tensor) else w for w in weights)
        loss = _times(of_gap, forward) + _times(of_slope, reverse)
        slope, centre = "none" if isinstance(of_slope, float) and of_slope == 0 else "reverse_kl", reverse
    else:
        _, a, b, scale = mixture
        of_gap, of_slope = 0.0, scale * (b or 1 - share)
        loss = scale * (_times(a, to_teacher) + _times(b, to_student))
        if a and b:
            slope, centre = "jsd", to_student
        elif a:
            slope, centre = "skew_forward_kl", share * (1 - share) * apart
        else:
            slope, centre = "skew_reverse_kl", to_student - (1 - share) * share**2 * apart
    unknown = torch.full_like(loss, torch.nan)
    models = [(teacher, totals[1]), (student, totals[0])]
    logprob_t = logprob_s = mass_t = mass_s = unknown
    if token_ids is not None:
        logprob_t, logprob_s = (z.gather(1, token_ids[:, None])[:, 0] - sum_ for z, sum_ in models)
    if top_k:
        likeliest = teacher.topk(min(top_k, vocab), dim=1).indices
        mass_t, mass_s = ((z.gather(1, likeliest) - sum_[:, None]).exp().sum(1) for z, sum_ in models)
    if wanted is not None:
        factor = wanted.factor[:, 0] if isinstance(wanted.factor, torch.Tensor) else wanted.factor
        numbers = torch.empty((3, rows), dtype=torch.float32, device=student.device)
        for own, value in zip(numbers, (of_gap * factor, of_slope * factor, centre), strict=True):
            own[:] = value
        _launch(
            _write_gradient, student, student, teacher, totals, numbers, rows, vocab, share, 1 - share,
            wanted.bound or 1.0, SLOPE=slope, CAPPED=wanted.bound is not None,
        )  # fmt: skip
    scores = TokenScores(logprob_t, logprob_s, teacher_entropy, student_entropy, forward, reverse)
    return RowScores(loss, scores, mass_t, mass_s)


def _launch(kernel: Any, logits: torch.Tensor, *arguments: object, **options: object) -> None:
    """Run a kernel on the device of logits [R, V]: a program for each row, or for each of its blocks."""
    rows, vocab = logits.shape
    block = min(BLOCK, triton.next_power_of_2(vocab))
    grid = (rows, triton.cdiv(vocab, block)) if kernel is _write_gradient else (rows,)
    with torch.cuda.device(logits.device) if logits.is_cuda else nullcontext():
        kernel[grid](*arguments, **options, BLOCK=block, num_warps=_WARPS)


def _times(weight: Weight, value: torch.Tensor) -> torch.Tensor:
    # A weight of 0 leaves an infinite divergence out.
    return torch.zeros_like(value) if isinstance(weight, float) and weight == 0 else weight * value


@triton.jit
def _normalise(logits: tl.tensor, found: tl.tensor, rows: tl.tensor, vocab: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Write the largest logit of a row, Σ e^(z − largest) and Σ e^(z − largest) · (z − largest), [3, R]."""
    row = tl.program_id(0).to(tl.int64)
    top = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float64)
    weighted = tl.full([], 0.0, tl.float64)
    for start in range(0, vocab, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(logits + row * vocab + at, mask=at < vocab, other=float("-inf"))
        higher = tl.maximum(top, tl.max(z, 0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        x = z - base
        e = tl.exp(x)
        step = tl.where(top == float("-inf"), 0.0, top - base)
        shrink = tl.exp(step).to(tl.float64)
        weighted = shrink * (weighted + step * total) + tl.sum(tl.where(e == 0, 0.0, e * x), 0)
        total = shrink * total + tl.sum(e, 0)
        top = higher
    tl.store(found + row, top)
    tl.store(found + rows + row, total)
    tl.store(found + 2 * rows + row, weighted)


@triton.jit
def _sum_up(
    student: tl.tensor,
    teacher: tl.tensor,
    totals: tl.tensor,
    found: tl.tensor,
    rows: tl.tensor,
    vocab: tl.tensor,
    share: tl.tensor,
    rest: tl.tensor,
    MIXED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Write Σ q − Σ p, KL(p‖q), KL(q‖p), KL(p‖m), KL(q‖m) and Σ (q − p)²/m of a row, [6, R]."""
    row = tl.program_id(0).to(tl.int64)
    total_s = tl.load(totals + row)
    total_t = tl.load(totals + rows + row)
    excess = tl.full([], 0.0, tl.float64)
    forward = tl.full([], 0.0, tl.float64)
    reverse = tl.full([], 0.0, tl.float64)
    to_teacher = tl.full([], 0.0, tl.float64)
    to_student = tl.full([], 0.0, tl.float64)
    apart = tl.full([], 0.0, tl.float64)
    for start in range(0, vocab, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z_s = tl.load(student + row * vocab + at, mask=at < vocab, other=float("-inf"))
        z_t = tl.load(teacher + row * vocab + at, mask=at < vocab, other=float("-inf"))
        p, q, d = _probabilities(z_s, z_t, total_s, total_t)
        gap = _gap(p, q, d)
        excess += tl.sum(gap, 0)
        forward += tl.sum(_of_kl(p, q, d), 0)
        reverse += tl.sum(_of_kl(q, p, -d), 0)
        if MIXED:
            m = share * p + rest * q
            to_teacher += tl.sum(_of_mixed(p, gap, d, rest, share), 0)
            to_student += tl.sum(_of_mixed(q, -gap, -d, share, rest), 0)
            apart += tl.sum(tl.where(m == 0, 0.0, gap * (gap / m)), 0)
    tl.store(found + row, excess)
    tl.store(found + rows + row, forward)
    tl.store(found + 2 * rows + row, reverse)
    tl.store(found + 3 * rows + row, to_teacher)
    tl.store(found + 4 * rows + row, to_student)
    tl.store(found + 5 * rows + row, apart)


@triton.jit
def _write_gradient(
    student: tl.tensor,
    teacher: tl.tensor,
    totals: tl.tensor,
    numbers: tl.tensor,
    rows: tl.tensor,
    vocab: tl.tensor,
    share: tl.tensor,
    rest: tl.tensor,
    bound: tl.tensor,
    SLOPE: tl.constexpr,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Write of_gap · (q − p) + of_slope · q · (slope − centre) over a block of the student; numbers are [3, R]."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    z_s = tl.load(student + row * vocab + at, mask=at < vocab, other=float("-inf"))
    z_t = tl.load(teacher + row * vocab + at, mask=at < vocab, other=float("-inf"))
    p, q, d = _probabilities(z_s, z_t, tl.load(totals + row), tl.load(totals + rows + row))
    gradient = tl.load(numbers + row) * _gap(p, q, d)
    if SLOPE != "none":
        if SLOPE == "reverse_kl":
            slope = d
        elif SLOPE == "skew_forward_kl":  # 1 − p/m
            x, m_over_p, _ = _mix(d, rest, share)
            slope = x / m_over_p
        else:  # log(q/m)
            y, m_over_q, log_mq = _mix(-d, share, rest)
            slope = -log_mq
            if SLOPE == "skew_reverse_kl":  # and α · (1 − q/m), α = 1 − λ
                slope += rest * (y / m_over_q)
        centred = tl.where(q == 0, 0.0, q * (slope - tl.load(numbers + 2 * rows + row)))
        gradient += tl.load(numbers + rows + row) * centred
    if CAPPED:  # the slope of bound · tanh(z / bound)
        capped = z_s / bound
        gradient *= (1 - capped) * (1 + capped)
    tl.store(student + row * vocab + at, gradient, mask=at < vocab)


@triton.jit
def _probabilities(z_s: tl.tensor, z_t: tl.tensor, total_s: tl.tensor, total_t: tl.tensor) -> tuple[tl.tensor, ...]:
    """Tell p, q and d = log q − log p, which is 0 where both are."""
    high_s = total_s.to(tl.float32)
    high_t = total_t.to(tl.float32)
    q = tl.exp((z_s - high_s) - (total_s - high_s).to(tl.float32))
    p = tl.exp((z_t - high_t) - (total_t - high_t).to(tl.float32))
    d = ((z_s.to(tl.float64) - z_t.to(tl.float64)) - (total_s - total_t)).to(tl.float32)
    return p, q, tl.where((p == 0) & (q == 0), 0.0, d)


@triton.jit
def _beyond(d: tl.tensor) -> tl.tensor:
    """Tell e^d − 1 − d for |d| <= 1, by its series."""
    s = 1 / 120 + d * (1 / 720 + d * (1 / 5040 + d * (1 / 40320 + d * (1 / 362880 + d * (1 / 3628800)))))
    return d * d * (1 / 2 + d * (1 / 6 + d * (1 / 24 + d * s)))


@triton.jit
def _gap(p: tl.tensor, q: tl.tensor, d: tl.tensor) -> tl.tensor:
    """The gap q − p."""
    return tl.where(tl.abs(d) <= 1, p * (d + _beyond(d)), q - p)


@triton.jit
def _of_kl(p: tl.tensor, q: tl.tensor, d: tl.tensor) -> tl.tensor:
    """A term p · (e^d − 1 − d), q being p · e^d; p is 0 where d exceeds 87."""
    return tl.where(tl.abs(d) <= 1, p * _beyond(d), q - p * (1 + tl.minimum(d, 87.0)))


@triton.jit
def _of_mixed(p: tl.tensor, gap: tl.tensor, d: tl.tensor, w: tl.tensor, v: tl.tensor) -> tl.tensor:
    """A term p · (x − log(1 + x)), x = w · (e^d − 1), v = 1 − w; gap is p · (e^d − 1)."""
    x, _, log = _mix(d, w, v)
    s = x / (2 + x)
    near = x * s - 2 * s * _atanh(s * s)
    return tl.where((x >= -0.5) & (x <= 1), p * near, w * gap - p * log)


@triton.jit
def _mix(d: tl.tensor, w: tl.tensor, v: tl.tensor) -> tuple[tl.tensor, ...]:
    """Tell x = w · (e^d − 1), 1 + x and log(1 + x), v being 1 − w."""
    d = tl.minimum(tl.maximum(d, -87.0), 87.0)
    e = tl.exp(d)
    x = w * tl.where(tl.abs(d) <= 1, d + _beyond(d), e - 1)
    m = v + w * e
    s = x / (2 + x)
    return x, m, tl.where((x >= -0.5) & (x <= 1), 2 * s * (1 + _atanh(s * s)), tl.log(m))


@triton.jit
def _atanh(t: tl.tensor) -> tl.tensor:
    """Tell atanh(s)/s − 1 of t = s², for |s| <= 1/3."""
    return t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t * (1 / 13))))))
