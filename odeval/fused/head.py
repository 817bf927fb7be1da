"""The output matrix of a model with what it does to logits, and the products of it that are needed.

    z = soft_cap · tanh(scale · (h Wᵀ + b) / soft_cap) / temperature

Letters: R tokens of a chunk, V vocabulary, H hidden size. Products of half precision leave in float32: a logit that is
rounded to bfloat16 makes a small divergence wrong by a multiple.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

_WIDENED = 2**13  # rows of a half precision matrix that stand in float32 at a time


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What turns hidden states into logits.

    Args:
        weight: [V, H], float; rows beyond the common vocabulary are cut.
        bias: [V] or None.
        scale: Factor of the logits (Cohere's logit_scale; 1 / logits_scaling of Granite).
        soft_cap: Bound of the logits (Gemma's final_logit_softcapping), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def bound(self, temperature: float) -> float | None:
        """Tell the largest logit there can be."""
        return None if self.soft_cap is None else self.soft_cap / temperature

    def project(self, hidden: torch.Tensor, out: torch.Tensor, temperature: float) -> torch.Tensor:
        """Write the logits of some hidden states.

        Args:
            hidden: [R, H].
            out: [R, V] float32, or float64 for float64 states; V may be less than the matrix has rows.
            temperature: Above 0.

        Returns:
            out.
        """
        vocab = out.shape[1]
        for columns in _pieces(self.weight, out.dtype, vocab):
            _multiply(hidden, self.weight[columns].T, out[:, columns])
        if self.bias is not None:
            out.add_(self.bias[:vocab])
        factor = self.scale / temperature
        if factor != 1:
            out.mul_(factor)
        bound = self.bound(temperature)
        if bound is not None:
            out.div_(bound).tanh_().mul_(bound)
        return out

    def pull_back(self, gradient: torch.Tensor, out: torch.Tensor) -> None:
        """Write the gradient of the hidden states: gradient [R, V] of h Wᵀ + b, times W, into out [R, H]."""
        vocab = gradient.shape[1]
        pieces = list(_pieces(self.weight, out.dtype, vocab))
        for columns in pieces:
            _multiply(gradient[:, columns], self.weight[columns], out, add=columns is not pieces[0])


def outer(gradient: torch.Tensor, hidden: torch.Tensor, out: torch.Tensor, add: bool) -> None:
    """Write or add gradientᵀ · hidden to out [V', H], whose rows beyond V stay: the gradient of the output matrix."""
    vocab = gradient.shape[1]
    pieces = _pieces(hidden, out.dtype, vocab) if hidden.is_cuda else iter([slice(0, vocab)])
    for columns in pieces:
        _multiply(gradient[:, columns].T, hidden, out[columns], add)


def _pieces(matrix: torch.Tensor, dtype: torch.dtype, rows: int) -> Iterator[slice]:
    """All rows where a product takes the matrix as it is, else so many as may be widened at a time."""
    step = rows if matrix.dtype == dtype else _WIDENED
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, add: bool = False) -> None:
    """Write left · right to out, or add it, in the precision of out."""
    if right.is_cuda and right.dtype in (torch.bfloat16, torch.float16):  # tensor cores, accumulated in float32
        product = torch.mm(left.to(right.dtype), right, out_dtype=torch.float32)
        if add:
            out.add_(product)
        else:
            out.copy_(product)
        return
    left, right = left.to(out.dtype), right.to(out.dtype)
    if add:
        out.addmm_(left, right)
    else:
        torch.mm(left, right, out=out)
