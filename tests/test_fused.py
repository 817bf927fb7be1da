"""The fused divergence against autograd through full logits in float64, which shares no code with it."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from odeval.divergence import score_tokens
from odeval.errors import OdevalError
from odeval.fused import Fused, Head, Kind, fused_divergence, rows
from odeval.fused.kind import KINDS

N, V, H, G = 23, 41, 7, 5


def naive(kind: Kind, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Each divergence as its paper writes it, from probabilities; differentiable."""
    q, p = student.softmax(-1), teacher.softmax(-1)

    def kl(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left * (left / right).log()).sum(-1)

    beta, alpha = kind.beta, kind.skew_alpha
    if kind.name == "jsd":
        m = beta * p + (1 - beta) * q
        value = beta * kl(p, m) + (1 - beta) * kl(q, m)
        return value / (beta * (1 - beta)) if kind.jsd_scale == "unit" else value
    if kind.name == "skew_forward_kl":
        return kl(p, alpha * p + (1 - alpha) * q)
    if kind.name == "skew_reverse_kl":
        return kl(q, (1 - alpha) * p + alpha * q)
    if kind.name == "entropy_gated":
        entropy = -(p * p.log()).sum(-1)
        gate = (entropy >= kind.gate_threshold).to(p.dtype)
        if kind.gate_width:
            gate = 1 / (1 + (-(entropy - kind.gate_threshold) / kind.gate_width).exp())
        return kl(q, p) + kind.gate_weight * gate * kl(p, q)
    forward = {"forward_kl": 1.0, "reverse_kl": 0.0}.get(kind.name, kind.forward_weight)
    reverse = 1 - forward if kind.name != "blend" or kind.reverse_weight is None else kind.reverse_weight
    return forward * kl(p, q) + reverse * kl(q, p)


class Case:
    """Hidden states and heads of two models, of different width and with different spare rows."""

    def __init__(self, dtype: torch.dtype = torch.float64, bias: bool = True, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.hidden = torch.randn(N, H, dtype=dtype, requires_grad=True)
        self.weight = (0.5 * torch.randn(V + 3, H, dtype=dtype)).requires_grad_()
        self.bias = torch.randn(V + 3, dtype=dtype, requires_grad=True) if bias else None
        self.teacher_hidden = torch.randn(N, G, dtype=dtype)
        self.teacher_weight = 0.5 * torch.randn(V + 9, G, dtype=dtype)

    @property
    def leaves(self) -> list[torch.Tensor]:
        return [leaf for leaf in (self.hidden, self.weight, self.bias) if leaf is not None]

    def head(self, scale: float = 1.0, soft_cap: float | None = None) -> Head:
        return Head(self.weight, self.bias, scale, soft_cap)

    def fused(self, kind: Kind, head: Head | None = None, **options: object) -> Fused:
        head = head or self.head()
        teacher = Head(self.teacher_weight)
        return fused_divergence(self.hidden, head, self.teacher_hidden, teacher, kind, vocab_size=V, **options)  # type: ignore[arg-type]

    def logits(self, head: Head | None = None, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        head = head or self.head()
        student = self.hidden.double() @ self.weight.double().T
        if self.bias is not None:
            student = student + self.bias.double()
        student = head.scale * student
        if head.soft_cap is not None:
            student = head.soft_cap * torch.tanh(student / head.soft_cap)
        teacher = self.teacher_hidden.double() @ self.teacher_weight.double().T
        return student[:, :V] / temperature, teacher[:, :V] / temperature


KIND_CASES = {
    "forward_kl": Kind("forward_kl"),
    "reverse_kl": Kind("reverse_kl"),
    "blend": Kind("blend", forward_weight=0.3),
    "blend per token": Kind("blend", forward_weight=torch.linspace(0, 1, N)),
    "blend of any weights": Kind("blend", forward_weight=2.0, reverse_weight=torch.linspace(-1, 1, N)),
    "blend of nothing": Kind("blend", forward_weight=0.0, reverse_weight=0.0),
    "entropy_gated": Kind("entropy_gated", gate_threshold=3.1, gate_weight=0.7),
    "softly gated": Kind("entropy_gated", gate_threshold=3.1, gate_width=0.2),
    "jsd": Kind("jsd", beta=0.3),
    "jsd unit": Kind("jsd", beta=0.9, jsd_scale="unit"),
    "skew_forward_kl": Kind("skew_forward_kl", skew_alpha=0.1),
    "skew_reverse_kl": Kind("skew_reverse_kl", skew_alpha=0.4),
}


def test_the_cases_leave_no_kind_out() -> None:
    assert {kind.name for kind in KIND_CASES.values()} == set(KINDS)
    _, teacher = Case().logits()
    opened = -(teacher.softmax(-1) * teacher.log_softmax(-1)).sum(-1) >= 3.1
    assert 3 < int(opened.sum()) < N - 3, "the gate's case has both"


@pytest.mark.parametrize("name", KIND_CASES)
@pytest.mark.parametrize("upstream", ["sum", "mean", "weights"])
@pytest.mark.parametrize("recompute", [False, True])
def test_value_and_gradients_equal_autograd_through_full_logits(name: str, upstream: str, recompute: bool) -> None:
    case, kind = Case(), KIND_CASES[name]
    found = case.fused(kind, chunk_tokens=10, recompute=recompute).loss
    expected = naive(kind, *case.logits())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    weights = {"sum": torch.ones(N), "mean": torch.full((N,), 1 / N), "weights": torch.linspace(-1, 2, N)}[upstream]
    totals = [x.sum() if upstream == "sum" else (x * weights).sum() for x in (found, expected)]
    for ours, theirs in zip(*(torch.autograd.grad(total, case.leaves) for total in totals), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", ["forward_kl", "blend", "jsd", "skew_reverse_kl"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    case = Case()
    with torch.no_grad():
        few = [case.hidden[:3].clone().requires_grad_(), case.weight[:6].clone().requires_grad_()]

    def loss(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        teacher = Head(case.teacher_weight[:6])
        return fused_divergence(hidden, Head(weight), case.teacher_hidden[:3], teacher, Kind(name), chunk_tokens=2).loss

    assert torch.autograd.gradcheck(loss, few)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "blend", "jsd", "skew_forward_kl"])
@pytest.mark.parametrize(("scale", "cap", "temperature"), [(0.25, None, 1.0), (1.0, 2.0, 1.0), (3.0, 1.5, 0.7)])
def test_scale_soft_cap_and_temperature(name: str, scale: float, cap: float | None, temperature: float) -> None:
    case, kind = Case(), KIND_CASES[name]
    head = case.head(scale, cap)
    found = case.fused(kind, head, temperature=temperature, chunk_tokens=8).loss
    expected = naive(kind, *case.logits(head, temperature))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    for ours, theirs in zip(*(torch.autograd.grad(x.sum(), case.leaves) for x in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_scores_are_those_an_audit_stores_and_the_top_masses() -> None:
    case, tokens = Case(), torch.arange(N) % V
    found = case.fused(Kind("jsd"), token_ids=tokens, top_k=4, chunk_tokens=6)
    student, teacher = (x.detach() for x in case.logits())
    for ours, theirs in zip(found.scores, score_tokens(student, teacher, tokens), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
        assert not ours.requires_grad
    p, q = teacher.softmax(-1).numpy(), student.softmax(-1).numpy()
    for n in range(N):
        favourites = np.argsort(p[n])[-4:]
        assert float(found.teacher_top_mass[n]) == pytest.approx(p[n][favourites].sum(), rel=1e-12)
        assert float(found.student_top_mass[n]) == pytest.approx(q[n][favourites].sum(), rel=1e-12)
    without = case.fused(Kind("jsd"))
    assert all(x.isnan().all() for x in (*without.scores[:2], *without[2:]))
    assert torch.equal(without.scores.forward_kl, found.scores.forward_kl)
    everything = case.fused(Kind("jsd"), top_k=10 * V)
    torch.testing.assert_close(everything.student_top_mass, torch.ones(N, dtype=torch.float64))


@pytest.mark.parametrize("tile", [1, 16, V, 3 * V + 1])
def test_sizes_of_chunks_and_tiles_do_not_matter(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()
    whole = {}
    for name, kind in KIND_CASES.items():
        loss = case.fused(kind).loss
        whole[name] = (loss, torch.autograd.grad(loss.sum(), case.leaves))
    monkeypatch.setitem(rows._TILE, "cpu", tile)
    for chunk in (1, 9, N, 1000):
        for name, kind in KIND_CASES.items():
            loss = case.fused(kind, chunk_tokens=chunk).loss
            torch.testing.assert_close(loss, whole[name][0], rtol=1e-11, atol=1e-14)
            for ours, theirs in zip(torch.autograd.grad(loss.sum(), case.leaves), whole[name][1], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", KIND_CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cap", [None, 5.0])
def test_equal_models_give_exactly_zero_and_no_gradient(name: str, dtype: torch.dtype, cap: float | None) -> None:
    torch.manual_seed(1)
    hidden, weight = torch.randn(N, 64).to(dtype).requires_grad_(), torch.randn(300, 64).to(dtype).requires_grad_()
    same = Head(weight.detach().clone(), soft_cap=cap)
    head = Head(weight, soft_cap=cap)
    found = fused_divergence(hidden, head, hidden.detach().clone(), same, KIND_CASES[name], token_ids=torch.arange(N))
    assert found.loss.eq(0).all()
    assert not torch.signbit(found.scores.forward_kl + found.scores.reverse_kl).any()
    assert torch.equal(found.scores.teacher_logprob, found.scores.student_logprob)
    for gradient in torch.autograd.grad(found.loss.sum(), (hidden, weight)):
        assert gradient.eq(0).all()


def exact_kl(p_logits: list[float], q_logits: list[float]) -> float:
    """KL of two softmaxes in 60 decimal digits."""
    with localcontext() as context:
        context.prec = 60
        weights = [[Decimal(z).exp() for z in logits] for logits in (p_logits, q_logits)]
        p, q = ([w / sum(own) for w in own] for own in weights)
        return float(sum(p_v * (p_v / q_v).ln() for p_v, q_v in zip(p, q, strict=True)))


@pytest.mark.parametrize("size", [2, 60])
@pytest.mark.parametrize("offset", [0.0, 37.0])
@pytest.mark.parametrize("step", [1.0, 1e-2, 2e-4, 5e-5])
def test_a_kl_of_1e_9_is_right_to_1e_5_and_none_is_negative(size: int, offset: float, step: float) -> None:
    random = np.random.default_rng(size)
    teacher = (random.normal(size=(6, size)) * 3).astype(np.float32)
    student = (teacher + step * random.normal(size=(6, size)) + offset).astype(np.float32)
    rows_of = [torch.from_numpy(x) for x in (student, teacher)]
    identity = Head(torch.eye(size))  # logits are the hidden states themselves, in float32
    found = fused_divergence(rows_of[0], identity, rows_of[1], identity, Kind("forward_kl"))
    for n in range(6):
        forward, reverse = exact_kl(teacher[n].tolist(), student[n].tolist()), 0.0
        reverse = exact_kl(student[n].tolist(), teacher[n].tolist())
        for ours, exact in (
            (found.loss, forward),
            (found.scores.forward_kl, forward),
            (found.scores.reverse_kl, reverse),
        ):
            assert float(ours[n]) >= 0
            if exact > 1e-9:
                assert float(ours[n]) == pytest.approx(exact, rel=1e-5, abs=0)


def test_a_gradient_survives_where_the_divergence_is_at_the_edge_of_float32() -> None:
    torch.manual_seed(2)
    teacher = torch.randn(50, 30)
    student = (teacher + 1e-4 * torch.randn(50, 30)).requires_grad_()
    identity = Head(torch.eye(30))
    expected = student.detach().double().softmax(-1) - teacher.double().softmax(-1)  # to first order, all three
    for kind in (Kind("forward_kl"), Kind("reverse_kl"), Kind("jsd", jsd_scale="unit")):
        loss = fused_divergence(student, identity, teacher, identity, kind).loss
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-2, atol=1e-9)


def test_distributions_far_apart_overflow_nowhere() -> None:
    student = torch.tensor([[0.0, -1000.0], [0.0, -1000.0], [3e3, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1000.0, 0.0], [0.0, -1000.0], [0.0, 3e3]])
    identity = Head(torch.eye(2))
    found = fused_divergence(student, identity, teacher, identity, Kind("jsd"))
    assert found.loss.tolist() == pytest.approx([math.log(2), 0, math.log(2)])
    assert found.scores.forward_kl.tolist() == pytest.approx([1000, 0, 3000])
    assert found.scores.reverse_kl.tolist() == pytest.approx([1000, 0, 3000])
    for name in KINDS:
        loss = fused_divergence(student, identity, teacher, identity, Kind(name)).loss
        assert torch.autograd.grad(loss.sum(), student)[0].isfinite().all()


def test_errors_say_what_does_not_fit() -> None:
    case, head = Case(), Head(torch.zeros(V, H))
    with pytest.raises(OdevalError, match=r"unknown divergence 'reverse_lk': .*did you mean 'reverse_kl'"):
        Kind("reverse_lk")
    with pytest.raises(OdevalError, match=r"unknown jsd_scale 'half': expected one of raw, unit"):
        Kind("jsd", jsd_scale="half")
    for dials, text in (
        ({"beta": 1.5}, r"beta 1.5: must be in \[0, 1\]; 0 is forward KL"),
        ({"skew_alpha": 1.0}, r"skew_alpha 1.0: must be in \[0, 1\)"),
        ({"gate_width": -1.0}, r"gate_width -1.0: must be >= 0"),
    ):
        with pytest.raises(OdevalError, match=text):
            Kind("jsd", **dials)  # type: ignore[arg-type]
    with pytest.raises(OdevalError, match=rf"forward_weight: has shape \[3\] for {N} tokens; give one number, or"):
        case.fused(Kind("blend", forward_weight=torch.ones(3)))
    with pytest.raises(OdevalError, match=r"student: hidden states \[2, 9\] do not fit the head \[41, 7\]"):
        fused_divergence(torch.zeros(2, 9), head, torch.zeros(2, H), head, Kind("jsd"))
    with pytest.raises(OdevalError, match=r"teacher: bias \[3\] does not fit the head \[41, 7\]"):
        fused_divergence(torch.zeros(2, H), head, torch.zeros(2, H), Head(head.weight, torch.zeros(3)), Kind("jsd"))
    with pytest.raises(OdevalError, match="2 tokens of the student but 1 of the teacher"):
        fused_divergence(torch.zeros(2, H), head, torch.zeros(1, H), head, Kind("jsd"))
    for options, text in (
        ({"vocab_size": V + 1}, f"vocab_size {V + 1}: must be from 1 to {V}, the rows of the smaller head"),
        ({"temperature": 0.0}, "temperature 0.0: must be above 0"),
        ({"chunk_tokens": 0}, "chunk_tokens 0: must be at least 1"),
        ({"token_ids": torch.zeros(3, dtype=torch.long)}, r"token_ids \[3\]: must be \[2\]"),
    ):
        with pytest.raises(OdevalError, match=text):
            fused_divergence(torch.zeros(2, H), head, torch.zeros(2, H), head, Kind("jsd"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("recompute", [False, True])
def test_look_is_shown_every_chunk_once_before_it_is_written_over(recompute: bool) -> None:
    case, seen = Case(), list[tuple[slice, torch.Tensor, torch.Tensor]]()

    def look(here: slice, student: torch.Tensor, teacher: torch.Tensor) -> None:
        seen.append((here, student.clone(), teacher.clone()))

    found = fused_divergence(
        case.hidden, Head(case.weight, case.bias), case.teacher_hidden, Head(case.teacher_weight), Kind("jsd"),
        chunk_tokens=10, temperature=2.0, recompute=recompute, look=look,
    )  # fmt: skip
    torch.autograd.backward((found.loss * torch.arange(N)).sum())  # weighed unequally, so the chunks are taken again
    assert [(here.start, here.stop) for here, *_ in seen] == [(0, 10), (10, 20), (20, 23)]
    assert case.bias is not None
    student = (case.hidden @ case.weight.T + case.bias).detach() / 2
    torch.testing.assert_close(torch.cat([z for _, z, _ in seen]), student[:, : V + 3])
    teacher = case.teacher_hidden @ case.teacher_weight.T / 2
    torch.testing.assert_close(torch.cat([z for *_, z in seen]), teacher[:, : V + 3])
