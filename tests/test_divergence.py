"""The formulas against naive twins written from their definitions, which share no code with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odeval import divergence

INF = math.inf


# The twins: plain Python, one distribution at a time.


def naive_softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(z - top) for z in logits]
    return [w / sum(weights) for w in weights]


def naive_kl(p: list[float], q: list[float]) -> float:
    total = 0.0
    for p_v, q_v in zip(p, q, strict=True):
        if p_v > 0:
            total += INF if q_v == 0 else p_v * math.log(p_v / q_v)
    return total


def naive_entropy(p: list[float]) -> float:
    return sum(-p_v * math.log(p_v) for p_v in p if p_v > 0)


def naive_jsd(p: list[float], q: list[float], beta: float) -> float:
    mixture = [beta * p_v + (1 - beta) * q_v for p_v, q_v in zip(p, q, strict=True)]
    return beta * naive_kl(p, mixture) + (1 - beta) * naive_kl(q, mixture)


def exact_kl(p_logits: list[float], q_logits: list[float]) -> float:
    """KL of two softmaxes in 60 decimal digits."""
    with localcontext() as context:
        context.prec = 60
        weights = [[Decimal(z).exp() for z in logits] for logits in (p_logits, q_logits)]
        p, q = ([w / sum(own) for w in own] for own in weights)
        return float(sum(p_v * (p_v / q_v).ln() for p_v, q_v in zip(p, q, strict=True)))


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    size = draw(st.integers(1, 8))
    value = st.one_of(st.floats(-30, 30, width=32), st.just(-INF))
    pair = [draw(st.lists(value, min_size=size, max_size=size)) for _ in range(2)]
    for logits in pair:
        logits[draw(st.integers(0, size - 1))] = draw(st.floats(-5, 5, width=32))  # something must be possible
    return pair[0], pair[1]


@settings(max_examples=150, deadline=None)
@given(logit_pairs(), st.sampled_from([0.1, 0.5, 0.9]), st.booleans())
def test_every_formula_agrees_with_its_twin(logits: tuple[list[float], list[float]], beta: float, double: bool) -> None:
    dtype = torch.float64 if double else torch.float32
    student, teacher = (torch.tensor(z, dtype=dtype) for z in logits)
    q, p = (naive_softmax(z) for z in logits)
    precision = {"rel": 1e-11, "abs": 1e-14} if double else {"rel": 3e-7, "abs": 1e-12}

    def close(value: float) -> object:
        return pytest.approx(value, **precision)

    assert float(divergence.forward_kl(student, teacher)) == close(naive_kl(p, q))
    assert float(divergence.reverse_kl(student, teacher)) == close(naive_kl(q, p))
    assert float(divergence.jsd(student, teacher, beta)) == close(naive_jsd(p, q, beta))
    assert float(divergence.entropy(teacher)) == close(naive_entropy(p))
    for token in range(len(p)):
        found = float(divergence.log_prob(teacher, torch.tensor(token)))
        assert found == (close(math.log(p[token])) if p[token] > 0 else -INF)


def test_score_tokens_is_the_six_formulas() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 11) * 3, torch.randn(5, 11) * 3
    tokens = torch.tensor([0, 3, 10, 3, 7])
    scores = divergence.score_tokens(student, teacher, tokens)
    for n in range(5):
        q, p = naive_softmax(student[n].tolist()), naive_softmax(teacher[n].tolist())
        expected = (
            math.log(p[tokens[n]]), math.log(q[tokens[n]]), naive_entropy(p), naive_entropy(q), naive_kl(p, q),
            naive_kl(q, p),
        )  # fmt: skip
        assert [float(column[n]) for column in scores] == pytest.approx(expected, rel=1e-6)
    assert {column.dtype for column in scores} == {torch.float32}


def test_directions() -> None:
    """A student on one of two equal modes: forward KL is infinite in the limit, reverse KL is log 2."""
    teacher = torch.tensor([0.5, 0.5, 1e-9]).log()
    student = torch.tensor([1.0, 1e-9, 1e-9]).log()
    assert float(divergence.forward_kl(student, teacher)) == pytest.approx(
        0.5 * math.log(0.5e9) - 0.5 * math.log(2), 1e-4
    )
    assert float(divergence.reverse_kl(student, teacher)) == pytest.approx(math.log(2), 1e-4)
    # TRL's direction: a small beta weighs like forward KL, a large one like reverse KL
    forward, reverse = naive_kl([0.5, 0.5], [0.9, 0.1]), naive_kl([0.9, 0.1], [0.5, 0.5])
    teacher, student = torch.tensor([0.5, 0.5]).log().double(), torch.tensor([0.9, 0.1]).log().double()
    assert float(divergence.jsd(student, teacher, 1e-6)) / 1e-6 == pytest.approx(forward, 1e-3)
    assert float(divergence.jsd(student, teacher, 1 - 1e-6)) / 1e-6 == pytest.approx(reverse, 1e-3)
    assert float(divergence.jsd(student, teacher, 0)) == pytest.approx(forward, 1e-6)
    assert float(divergence.jsd(student, teacher, 1)) == pytest.approx(reverse, 1e-6)


def test_closed_form_gradients() -> None:
    torch.manual_seed(1)
    z = (torch.randn(4, 9, dtype=torch.float64) * 2).requires_grad_()
    teacher = torch.randn(4, 9, dtype=torch.float64) * 2
    with torch.no_grad():
        rest = [0, 1, 2, 3, 5, 6, 7, 8]
        teacher[:, rest] += torch.log1p(-z.softmax(-1)[:, 4:5]) - teacher[:, rest].logsumexp(-1, keepdim=True)
        teacher[:, 4] = z[:, 4] - z.logsumexp(-1)  # one token that is as likely for both
    q, p = z.detach().softmax(-1), teacher.softmax(-1)
    m = 0.3 * p + 0.7 * q
    rkl = (q * (q / p).log()).sum(-1, keepdim=True)
    kl_qm = (q * (q / m).log()).sum(-1, keepdim=True)
    h = -(q * q.log()).sum(-1, keepdim=True)
    cases = {
        "forward": (divergence.forward_kl(z, teacher), q - p),
        "reverse": (divergence.reverse_kl(z, teacher), q * ((q / p).log() - rkl)),
        "jsd": (divergence.jsd(z, teacher, 0.3), 0.7 * q * ((q / m).log() - kl_qm)),
        "entropy": (divergence.entropy(z), -q * (q.log() + h)),
        "log_prob": (divergence.log_prob(z, torch.full((4,), 2)), torch.eye(9, dtype=torch.float64)[2] - q),
    }
    for name, (value, expected) in cases.items():
        (gradient,) = torch.autograd.grad(value.sum(), z)
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13, msg=name)


def test_gradients_of_both_arguments_agree_with_finite_differences() -> None:
    torch.manual_seed(2)
    pair = [torch.randn(2, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    for loss in (divergence.forward_kl, divergence.reverse_kl, lambda s, t: divergence.jsd(s, t, 0.4)):
        assert torch.autograd.gradcheck(loss, pair)


@pytest.mark.parametrize("size", [2, 50, 300])
@pytest.mark.parametrize("offset", [0.0, 37.0])
@pytest.mark.parametrize("step", [1e-1, 1e-2, 1e-3, 2e-4, 5e-5])
def test_small_divergences_of_float32_logits_keep_six_digits(size: int, offset: float, step: float) -> None:
    """In float32 a KL of 1e-9 is easily wrong by a few percent, or negative; `offset` is what logits may differ by."""
    random = np.random.default_rng(size)
    teacher = (random.normal(size=(4, size)) * 3).astype(np.float32)
    student = (teacher + step * random.normal(size=(4, size)) + offset).astype(np.float32)
    for loss, (left, right) in (
        (divergence.forward_kl, (teacher, student)),
        (divergence.reverse_kl, (student, teacher)),
    ):
        found = loss(torch.from_numpy(student), torch.from_numpy(teacher))
        for n in range(4):
            exact = exact_kl(left[n].tolist(), right[n].tolist())
            if exact > 1e-9:
                assert float(found[n]) == pytest.approx(exact, rel=1e-6)
            assert float(found[n]) >= 0


def test_never_negative_and_gradient_survives_where_rounding_decides() -> None:
    torch.manual_seed(3)
    teacher = torch.randn(2000, 40, dtype=torch.float64)
    student = (teacher + 1e-9 * torch.randn(2000, 40, dtype=torch.float64)).requires_grad_()
    for loss in (divergence.forward_kl, divergence.reverse_kl):
        value = loss(student, teacher)
        assert bool((value >= 0).all())
        (gradient,) = torch.autograd.grad(value.sum(), student)
        torch.testing.assert_close(gradient, student.detach().softmax(-1) - teacher.softmax(-1), rtol=1e-3, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 977])
def test_equal_models_give_exactly_zero(dtype: torch.dtype, size: int) -> None:
    torch.manual_seed(4)
    logits = (torch.randn(50, size) * 5).to(dtype)
    for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert divergence.jsd(logits, logits.clone(), beta).eq(0).all()
    scores = divergence.score_tokens(logits, logits.clone(), torch.zeros(50, dtype=torch.long))
    assert scores.forward_kl.eq(0).all()
    assert scores.reverse_kl.eq(0).all()
    assert torch.equal(scores.teacher_entropy, scores.student_entropy)
    if size == 1:
        assert not torch.signbit(torch.stack([*scores[2:]])).any(), "a single token has entropy 0, not -0"


def test_impossible_tokens() -> None:
    some, fewer, other = (torch.tensor(z) for z in ([0.0, 1.0, -INF], [0.0, -INF, -INF], [-INF, 0.0, 0.0]))
    assert float(divergence.forward_kl(fewer, some)) == INF
    assert float(divergence.reverse_kl(fewer, some)) == pytest.approx(-math.log(1 / (1 + math.e)))
    assert float(divergence.forward_kl(fewer, other)) == INF
    assert float(divergence.jsd(fewer, torch.tensor([-INF, 0.0, -INF]), 0.5)) == pytest.approx(math.log(2))
    assert float(divergence.entropy(fewer)) == 0
    scores = divergence.score_tokens(fewer[None], some[None], torch.tensor([1]))
    assert [float(s) for s in scores[:2]] == [pytest.approx(1 - math.log(1 + math.e)), -INF]


@pytest.mark.parametrize("loss", [divergence.forward_kl, divergence.reverse_kl])
def test_tokens_that_are_masked_for_both_get_no_gradient_and_spoil_none(loss: Callable[..., torch.Tensor]) -> None:
    student = torch.tensor([0.3, -1.0, 2.0, -INF, -1e4], requires_grad=True)
    teacher = torch.tensor([1.0, 0.5, 0.0, -INF, 1.0])
    (gradient,) = torch.autograd.grad(loss(student, teacher), student)
    assert gradient.isfinite().all()
    assert gradient[3] == 0
    assert gradient.abs().sum() > 0.1


def test_probabilities_that_underflow_stay_in_the_sum() -> None:
    near, far = torch.tensor([0.0, -1000.0]), torch.tensor([-1000.0, 0.0])
    assert float(divergence.forward_kl(near, far)) == pytest.approx(1000)
    assert float(divergence.reverse_kl(near, far)) == pytest.approx(1000)
    assert float(divergence.jsd(near, far, 0.5)) == pytest.approx(math.log(2))
    assert float(divergence.log_prob(near, torch.tensor(1))) == -1000


def test_half_precision_input_is_computed_as_the_float32_numbers_it_stands_for() -> None:
    torch.manual_seed(5)
    student, teacher = ((torch.randn(64, 500) * 4).bfloat16() for _ in range(2))
    wide = student.float(), teacher.float()
    for function in (divergence.forward_kl, divergence.reverse_kl, lambda s, t: divergence.jsd(s, t, 0.5)):
        found = function(student, teacher)
        assert found.dtype == torch.float32
        assert torch.equal(found, function(*wide))
    assert torch.equal(divergence.entropy(student), divergence.entropy(wide[0]))
    # TRL's own trap: in bfloat16 the Jensen-Shannon divergence of two close models turned out negative
    close = (student.float() + 0.01 * torch.randn(64, 500)).bfloat16()
    assert bool((divergence.jsd(student, close, 0.5) >= 0).all())


def test_what_is_unknown_is_nan_and_what_is_uniform_is_log_v() -> None:
    broken = torch.tensor([0.0, math.nan, 1.0])
    assert math.isnan(float(divergence.entropy(broken)))
    assert math.isnan(float(divergence.forward_kl(broken, torch.zeros(3))))
    assert math.isnan(float(divergence.reverse_kl(torch.zeros(3), broken)))
    assert float(divergence.entropy(torch.full((150_000,), 7.0))) == pytest.approx(math.log(150_000), rel=1e-7)


def test_leading_shapes_are_kept() -> None:
    logits = torch.randn(2, 3, 5)
    assert divergence.forward_kl(logits, logits + torch.randn(2, 3, 5)).shape == (2, 3)
    assert divergence.log_prob(logits, torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3)
