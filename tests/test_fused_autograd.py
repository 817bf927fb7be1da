"""What the fused divergence costs and keeps: products, copies, precision, frozen parts, second passes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import tiny
from torch.utils._python_dispatch import TorchDispatchMode

from odeval.divergence import reverse_kl, score_tokens
from odeval.fused import Head, Kind, fused_divergence, head, rows, score_logits
from odeval.fused import loss as fused_loss

N, V, H, G = 24, 50, 6, 4


class Watch(TorchDispatchMode):
    """Count matrix products as multiples of 2 · N · V · H, and keep the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            left, right = args[-2:] if name == "mm" else args[1:3]
            self.products[name] += left.shape[0] * left.shape[1] * right.shape[1]
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.numel())
        return out


def inputs(dtype: torch.dtype = torch.float32, width: int = H) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    shapes = ((N, width), (V, width), (N, width), (V, width))
    made = tuple((torch.randn(shape) / width**0.5 * 3).to(dtype) for shape in shapes)
    for leaf in made[:2]:
        leaf.requires_grad_()
    return made


def run(parts: tuple[torch.Tensor, ...], kind: str = "blend", **options: Any) -> torch.Tensor:
    hidden, weight, teacher_hidden, teacher_weight = parts
    return fused_divergence(hidden, Head(weight), teacher_hidden, Head(teacher_weight), Kind(kind), **options).loss


@pytest.mark.parametrize(
    ("frozen", "recompute", "weighed", "products"),
    [(False, False, False, 4), (False, True, False, 6), (False, False, True, 8), (True, False, False, 3)],
)
def test_the_matrix_products(
    frozen: bool, recompute: bool, weighed: bool, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rows._TILE, "cpu", V)
    parts = inputs()
    parts[1].requires_grad_(not frozen)
    with Watch() as watch:
        loss = run(parts, chunk_tokens=8, recompute=recompute)
        (loss * torch.arange(float(N)) if weighed else loss).sum().backward()
    assert sum(watch.products.values()) == products * N * V * H
    assert watch.largest < N * V, "no tensor as large as the logits of all tokens"
    assert (parts[1].grad is None) == frozen


def test_without_gradient_there_are_two_products() -> None:
    for context in (torch.no_grad, torch.enable_grad):
        parts = inputs()
        for leaf in parts[:2]:
            leaf.requires_grad_(context is torch.no_grad)
        with context(), Watch() as watch:
            loss = run(parts, chunk_tokens=8)
        assert sum(watch.products.values()) == 2 * N * V * H
        assert not loss.requires_grad


@pytest.mark.parametrize(("needs", "tokens"), [(True, 24), (True, 240), (False, 240)])
def test_logits_and_the_gradient_of_the_states_share_one_budget(
    needs: bool, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_loss, "_CHUNK_BYTES", {"cpu": 4 * V * 60})
    monkeypatch.setattr(fused_loss, "_MIN_CHUNK", 1)
    hidden, *rest = inputs()
    states = hidden.detach().repeat(tokens // N, 1).requires_grad_(needs)
    sizes: list[int] = []

    def look(here: slice, student: torch.Tensor, teacher: torch.Tensor) -> None:
        sizes.append(student.nbytes + teacher.nbytes)

    parts = (states, rest[0], rest[1].repeat(tokens // N, 1), rest[2])
    run(parts, look=look)
    assert sum(sizes) == 2 * 4 * V * tokens
    assert max(sizes) + (states.nbytes if needs else 0) <= 2 * 4 * V * 60
    assert max(sizes) - min(sizes) <= 2 * 4 * V * len(sizes), "chunks are alike"
    assert len(sizes) == {(True, 24): 1, (True, 240): 6, (False, 240): 4}[needs, tokens]


def test_a_second_backward_pass_is_as_right_as_the_first() -> None:
    parts = inputs()
    loss = run(parts).mean()
    for _ in range(2):
        parts[0].grad = parts[1].grad = None
        loss.backward(retain_graph=True)
        first = [leaf.grad.clone() for leaf in parts[:2] if leaf.grad is not None]
        twice = torch.autograd.grad(run(parts).mean(), parts[:2])
        torch.testing.assert_close(first, list(twice))


def test_the_gradient_of_the_matrix_is_handed_over_and_not_copied() -> None:
    parts = inputs()
    run(parts).sum().backward()
    assert parts[1].grad is not None
    made: list[int] = []

    class Clones(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.overloadpacket.__name__ == "clone":
                made.append(args[0].numel())
            return function(*args, **(kwargs or {}))

    parts[1].grad = parts[0].grad = None
    loss = run(parts).sum()
    with Clones():
        loss.backward()
    assert V * H not in made


def test_tied_weights_and_scaled_hidden_states_get_both_gradients() -> None:
    """An embedding that is also the head, and a norm between: what a real model does."""
    parts = inputs()
    ids = torch.arange(N)

    def loss(divergence: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, ...]:
        weight = parts[1].detach().clone().requires_grad_()
        hidden = torch.nn.functional.layer_norm(weight[ids], (H,))
        return torch.autograd.grad(divergence(hidden, weight).mean(), (weight,))

    def full(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        q, p = (hidden @ weight.T).log_softmax(-1), (parts[2] @ parts[3].T).log_softmax(-1)
        return (q.exp() * (q - p)).sum(-1)

    fused = loss(lambda hidden, weight: run((hidden, weight, *parts[2:]), "reverse_kl"))
    torch.testing.assert_close(fused, loss(full), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_bfloat16_comes_in_and_float32_is_computed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_WIDENED", 7)  # several pieces
    half = inputs(torch.bfloat16, width=32)
    wide = tuple(x.detach().double().requires_grad_(x.requires_grad) for x in half)
    found, expected = run(half, kind, chunk_tokens=10), run(wide, kind)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    gradients = [torch.autograd.grad(x.sum(), y) for x, y in ((found, half[:2]), (expected, wide[:2]))]
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == torch.bfloat16  # rounded once, at the end
        torch.testing.assert_close(ours.double(), theirs, rtol=5e-3, atol=5e-3 * float(theirs.abs().max()) * 1e-2)


def test_autocast_does_not_round_the_logits() -> None:
    parts = inputs(width=32)
    plain = run(parts)
    gradients = torch.autograd.grad(plain.sum(), parts[:2])
    with torch.autocast("cpu", torch.bfloat16):
        under = run(parts)
        own = torch.autograd.grad(run(parts, recompute=True).sum(), parts[:2])
    assert torch.equal(plain, under)
    torch.testing.assert_close(own, gradients)


def test_a_matrix_changed_between_the_passes_is_noticed_when_it_matters() -> None:
    parts = inputs()
    loss = run(parts, recompute=True).sum()
    with torch.no_grad():
        parts[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_tokens_are_no_loss() -> None:
    parts = inputs()
    loss = run((parts[0][:0], parts[1], parts[2][:0], parts[3]))
    assert loss.shape == (0,)
    loss.sum().backward()
    assert parts[1].grad is not None
    assert parts[1].grad.eq(0).all()


def test_the_teacher_gets_no_gradient() -> None:
    parts = inputs()
    teacher_hidden, teacher_weight = (x.requires_grad_() for x in parts[2:])
    run(parts).sum().backward()
    assert teacher_hidden.grad is None
    assert teacher_weight.grad is None


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "cohere", "granite"])
def test_real_models_train_through_their_own_heads(architecture: str) -> None:
    """Scalings, caps and tied matrices are the model's; the loss and every gradient are those of full logits."""
    student, teacher = tiny(architecture, seed=1), tiny(architecture, seed=2)
    student.model.requires_grad_(True)
    ids, mask = torch.arange(4, 20).view(2, 8), torch.ones(2, 8, dtype=torch.long)
    student_hidden = student.hidden(ids, mask).flatten(0, 1)
    with torch.no_grad():
        teacher_hidden = teacher.hidden(ids, mask).flatten(0, 1)
    head, other = student.head(), teacher.head()
    assert head is not None
    assert other is not None
    tokens = ids.flatten()
    found = fused_divergence(student_hidden, head, teacher_hidden, other, Kind("reverse_kl"),
                             vocab_size=student.vocab_size, token_ids=tokens, chunk_tokens=5)  # fmt: skip
    logits = student.logits_at(student_hidden), teacher.logits_at(teacher_hidden)
    torch.testing.assert_close(found.loss, reverse_kl(*logits), rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(found.scores, score_tokens(*logits, tokens), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    weights = [parameter for parameter in student.model.parameters() if parameter.requires_grad]
    totals = found.loss.mean(), reverse_kl(*logits).mean()
    gradients = [torch.autograd.grad(total, weights, retain_graph=True) for total in totals]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


def test_a_head_that_is_not_one_matrix_is_none() -> None:
    model = tiny(seed=1)
    assert model.head() is not None
    model.plain_head = False
    assert model.head() is None


def test_score_logits_is_score_tokens() -> None:
    torch.manual_seed(3)
    for dtype, precision in ((torch.float64, 1e-11), (torch.float32, 3e-7), (torch.bfloat16, 3e-7)):
        student, teacher = ((3 * torch.randn(50, 97)).to(dtype) for _ in range(2))
        student[3, 5], teacher[3, 5], teacher[7, 1], student[9, 2] = -math.inf, -math.inf, -math.inf, -math.inf
        student[11, 0] = math.nan
        tokens = torch.arange(50)
        for ours, theirs in zip(
            score_logits(student, teacher, tokens), score_tokens(student, teacher, tokens), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=precision, atol=1e-12, equal_nan=True)
