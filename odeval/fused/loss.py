"""A divergence as a loss with autograd, from the hidden states of both models.

Four matrix products in all: the logits of both models, then the gradients of hidden states and output matrix, formed
chunk by chunk while the logits are there. Beside inputs and gradients one chunk of logits of each model is held.

Letters: N tokens, R of a chunk, V vocabulary, H hidden size. p is the teacher, q the student.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from odeval.divergence import TokenScores
from odeval.errors import OdevalError
from odeval.fused.head import Head, outer
from odeval.fused.kernels import ScoreRows, score_rows_by
from odeval.fused.kind import Kind
from odeval.fused.rows import Wanted

_CHUNK_BYTES = {"cpu": 2**26}  # of one model's logits
_CHUNK_BYTES_ELSEWHERE = 2**30
_MIN_CHUNK = 256  # tokens; with fewer, reading and writing the matrices costs more than multiplying them

Look = Callable[[slice, torch.Tensor, torch.Tensor], None]


class Fused(NamedTuple):
    """What is known of N tokens; all [N], nats or probabilities, float32 (float64 for float64 states).

    Attributes:
        loss: With gradient to the student's hidden states and head. Neither masked nor reduced.
        scores: What an audit stores, without gradient; log-probabilities are NaN without token ids.
        teacher_top_mass: Teacher mass of its own top_k likeliest tokens; NaN with top_k 0.
        student_top_mass: Student mass of the same tokens.
    """

    loss: torch.Tensor
    scores: TokenScores
    teacher_top_mass: torch.Tensor
    student_top_mass: torch.Tensor


def fused_divergence(
    student_hidden: torch.Tensor,
    student_head: Head,
    teacher_hidden: torch.Tensor,
    teacher_head: Head,
    kind: Kind,
    *,
    token_ids: torch.Tensor | None = None,
    vocab_size: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    chunk_tokens: int | None = None,
    recompute: bool = False,
    look: Look | None = None,
    kernel: str = "auto",
) -> Fused:
    """A divergence of two models at each token, and everything else that its logits tell, in one pass.

    The gradient is formed in the forward pass, as if the N losses were summed. A backward pass that weighs them all
    alike (`.sum()`, `.mean()`) only scales it; any other starts again, and costs four products more, or two with
    `recompute`. The teacher gets no gradient; a student's weight with requires_grad False costs no product.

    Args:
        student_hidden: [N, H] of positions that predict a token; any float type, computed in float32 at least.
        student_head: Of the student.
        teacher_hidden: [N, H'] at the same positions.
        teacher_head: Of the teacher.
        kind: Which divergence.
        token_ids: [N] int64, the tokens that followed.
        vocab_size: Tokens both models know; later rows of either head are padding and cut before the softmax. None:
            as many as the smaller head has rows.
        temperature: Above 0; divides the logits of both.
        top_k: Of the top masses.
        chunk_tokens: R; None fits the device. It changes no result beyond rounding.
        recompute: Form no gradient in the forward pass: six products, and no gradients held in between.
        look: Shown each chunk of the forward pass: where its tokens stand in all N, and the logits of student and
            teacher [R, V], divided by the temperature, which are written over afterwards.
        kernel: What the logits are read by: "torch", "triton", or "auto", which is Triton on a GPU where it is
            installed and agrees with PyTorch on a small case. It changes no result beyond rounding.

    Returns:
        See Fused.

    Raises:
        OdevalError: Shapes that do not fit, a setting out of its range, or Triton asked for where it does not run.

    Source:
        Ours; chunks as in Liger's fused linear losses (arXiv 2410.10989), the gradient of a linear blend with a weight
        per token, the scores, and float64 tiles are not there.

    Example:
        >>> student, teacher = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
        >>> identity = Head(torch.eye(2))
        >>> round(float(fused_divergence(student, identity, teacher, identity, Kind("forward_kl")).loss), 4)
        0.5108
    """
    vocab = _check(student_hidden, student_head, teacher_hidden, teacher_head, token_ids, vocab_size, temperature)
    kind.check(len(student_hidden))
    if chunk_tokens is None:
        formed = student_hidden.numel() * student_hidden.element_size() if student_hidden.requires_grad else 0
        most = fitting_chunk(vocab, student_hidden.device.type, formed)
        chunk_tokens = max(1, -(-len(student_hidden) // max(1, -(-len(student_hidden) // most))))  # all alike
    if chunk_tokens < 1:
        raise OdevalError(f"chunk_tokens {chunk_tokens}: must be at least 1")
    score_rows = score_rows_by(kernel, student_hidden, kind, student_head.soft_cap is not None)
    job = _Job(teacher_hidden.detach(), student_head, teacher_head, kind, token_ids, vocab, temperature, top_k,
               chunk_tokens, recompute or not torch.is_grad_enabled(), look, score_rows)  # fmt: skip
    columns = _Divergence.apply(  # type: ignore[no-untyped-call]
        student_hidden, student_head.weight, student_head.bias, job
    )
    return Fused(columns[0], TokenScores(*columns[1:7]), columns[7], columns[8])


def fitting_chunk(vocab_size: int, device: str, beside: int = 0) -> int:
    """Tokens whose logits, of both models, are held at once on a type of device.

    Args:
        vocab_size: V.
        device: "cpu", or another.
        beside: Bytes held at the same time that grow with the tokens; what all of it takes together does not.
    """
    budget = 2 * _CHUNK_BYTES.get(device, _CHUNK_BYTES_ELSEWHERE) - beside
    return max(_MIN_CHUNK, budget // (8 * vocab_size))


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    teacher_hidden: torch.Tensor
    student_head: Head
    teacher_head: Head
    kind: Kind
    token_ids: torch.Tensor | None
    vocab: int
    temperature: float
    top_k: int
    chunk: int
    recompute: bool
    look: Look | None
    score_rows: ScoreRows


_Gradients = list[torch.Tensor | None]  # of hidden states, weight, bias


def _run(
    hidden: torch.Tensor, job: _Job, upstream: torch.Tensor | float | None, needed: tuple[bool, ...]
) -> tuple[list[torch.Tensor], _Gradients]:
    """Score all tokens chunk by chunk.

    Args:
        hidden: [N, H] of the student.
        job: The rest.
        upstream: Weights [N] of the losses in what is differentiated, 1.0 for their sum; None forms no gradient.
        needed: Whether the gradient of hidden states, of the weight, of the bias is.

    Returns:
        Nine columns [N], and the gradients in the types of what they belong to.
    """
    device, student, teacher = hidden.device, job.student_head, job.teacher_head
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    parts = (hidden, student.weight, student.bias)
    sums: _Gradients = [None, None, None]
    if upstream is not None:
        for i, (part, need) in enumerate(zip(parts, needed, strict=True)):
            if need and part is not None:
                sums[i] = made = torch.empty(part.shape, dtype=part.dtype if i == 0 else wide, device=device)
                if i > 0:  # the first chunk writes, the others add
                    made[job.vocab if len(hidden) else 0 :] = 0
    rows = min(job.chunk, len(hidden))
    space = [torch.empty((rows, job.vocab), dtype=wide, device=d) for d in (device, job.teacher_hidden.device)]
    found: list[torch.Tensor] = [torch.empty((9, 0), dtype=wide, device=device)]
    with torch.autocast(device.type, enabled=False):
        for start in range(0, len(hidden), job.chunk):
            here = slice(start, min(start + job.chunk, len(hidden)))
            length = here.stop - start
            z_s = student.project(hidden[here], space[0][:length], job.temperature)
            z_t = teacher.project(job.teacher_hidden[here], space[1][:length], job.temperature).to(device)
            ids = None if job.token_ids is None else job.token_ids[here].to(device)
            if job.look is not None:
                job.look(here, z_s, z_t)
            wanted = None
            if upstream is not None:
                slope = student.scale / job.temperature
                factor = slope if isinstance(upstream, float) else upstream[here, None].double() * slope
                wanted = Wanted(factor, student.bound(job.temperature))
            scores = job.score_rows(z_s, z_t, job.kind, here, ids, job.top_k, wanted)
            columns = (scores.loss, *scores.scores, scores.teacher_top_mass, scores.student_top_mass)
            found.append(torch.stack(columns).to(wide))
            if upstream is not None:
                _add_gradients(z_s, hidden[here], here, student, sums)
    gradients = [None if s is None or part is None else s.to(part.dtype) for s, part in zip(sums, parts, strict=True)]
    return list(torch.cat(found, dim=1)), gradients


def _add_gradients(gradient: torch.Tensor, hidden: torch.Tensor, here: slice, head: Head, sums: _Gradients) -> None:
    of_hidden, of_weight, of_bias = sums
    if of_hidden is not None:
        out = of_hidden[here]
        if of_hidden.dtype == gradient.dtype:
            head.pull_back(gradient, out)
        else:
            own = torch.empty(out.shape, dtype=gradient.dtype, device=out.device)
            head.pull_back(gradient, own)
            out.copy_(own)
    if of_weight is not None:
        outer(gradient, hidden, of_weight, add=here.start > 0)
    if of_bias is not None:
        own = gradient.sum(0)
        of_bias[: len(own)] = own + of_bias[: len(own)] if here.start > 0 else own


class _Divergence(torch.autograd.Function):
    """The columns of `_run` as a differentiable function of the student's hidden states, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, job: _Job
    ) -> tuple[torch.Tensor, ...]:
        needed = ctx.needs_input_grad[:3]
        forms = any(needed) and not job.recompute
        columns, gradients = _run(hidden, job, 1.0 if forms else None, needed)
        ctx.save_for_backward(hidden, weight, bias)  # also what notices that one was changed in between
        ctx.job, ctx.formed = replace(job, look=None), gradients if forms else None
        ctx.mark_non_differentiable(*columns[1:])
        return tuple(columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        # The context must not hold on to a gradient that is handed out, or autograd copies it: of the matrix, H · V.
        formed: _Gradients | None = ctx.formed
        ctx.formed = None
        if formed is not None and _is_uniform(upstream):
            scale = upstream[:1]
            for gradient in formed if len(upstream) and bool(scale != 1) else ():
                if gradient is not None:
                    gradient.mul_(scale.to(gradient.dtype))
        else:
            hidden, *_ = ctx.saved_tensors
            formed = None  # before others are made
            formed = _run(hidden, ctx.job, upstream, ctx.needs_input_grad[:3])[1]
        return (*formed, None)


def _is_uniform(values: torch.Tensor) -> bool:
    return values.stride(0) == 0 or bool((values == values[:1]).all())


def _check(
    student_hidden: torch.Tensor,
    student_head: Head,
    teacher_hidden: torch.Tensor,
    teacher_head: Head,
    token_ids: torch.Tensor | None,
    vocab_size: int | None,
    temperature: float,
) -> int:
    """Refuse what does not fit; tell V."""
    for name, hidden, head in (("student", student_hidden, student_head), ("teacher", teacher_hidden, teacher_head)):
        if hidden.dim() != 2 or head.weight.dim() != 2 or hidden.shape[1] != head.weight.shape[1]:
            raise OdevalError(
                f"{name}: hidden states {list(hidden.shape)} do not fit the head {list(head.weight.shape)}; "
                "give [N, H] and [V, H]"
            )
        if head.bias is not None and head.bias.shape != head.weight.shape[:1]:
            raise OdevalError(
                f"{name}: bias {list(head.bias.shape)} does not fit the head {list(head.weight.shape)}; give [V]"
            )
    if len(student_hidden) != len(teacher_hidden):
        raise OdevalError(
            f"{len(student_hidden)} tokens of the student but {len(teacher_hidden)} of the teacher; "
            "give both models' hidden states at the same positions"
        )
    smaller = min(len(student_head.weight), len(teacher_head.weight))
    vocab = smaller if vocab_size is None else vocab_size
    if not 1 <= vocab <= smaller:
        raise OdevalError(f"vocab_size {vocab}: must be from 1 to {smaller}, the rows of the smaller head")
    if not temperature > 0:
        raise OdevalError(f"temperature {temperature}: must be above 0")
    if token_ids is not None and token_ids.shape != student_hidden.shape[:1]:
        raise OdevalError(
            f"token_ids {list(token_ids.shape)}: must be [{len(student_hidden)}], one for each hidden state"
        )
    return vocab
