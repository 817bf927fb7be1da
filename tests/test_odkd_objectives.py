"""Every objective against a twin written from its definition: values, gradients, directions, invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from odkd_twins import EXACT, SAMPLED, V, bucketed, kl, losses, pair, probabilities, sampled

from odeval import divergence
from odkd.objectives import OBJECTIVES, loss_of


def twin(name: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Each definition, in numpy float64, at DIALS."""
    top = np.argsort(-p, axis=-1)[:, :4]
    match name:
        case "forward_kl":
            return kl(p, q)
        case "reverse_kl":
            return kl(q, p)
        case "blend":
            return 0.3 * kl(p, q) + 0.7 * kl(q, p)
        case "jsd":
            return 0.3 * kl(p, 0.3 * p + 0.7 * q) + 0.7 * kl(q, 0.3 * p + 0.7 * q)
        case "skew_forward_kl":
            return kl(p, 0.2 * p + 0.8 * q)
        case "skew_reverse_kl":
            return kl(q, 0.8 * p + 0.2 * q)
        case "entropy_gated":
            return kl(q, p) + 0.7 * (-(p * np.log(p)).sum(-1) >= 1.9) * kl(p, q)
        case "adaptive_kl":
            rows = []
            for a, b in zip(p, q, strict=True):
                head, mass = [], 0.0
                for v in np.argsort(-a, kind="stable"):
                    if mass < 0.5:
                        head.append(v)
                    mass += a[v]
                gap = np.abs(a - b)
                share = gap[head].sum() / gap.sum()
                rows.append(share * kl(a, b) + (1 - share) * kl(b, a))
            return np.array(rows)
        case "tvd":
            return np.abs(p - q).sum(-1) / 2
        case "topk_forward_kl":
            return kl(bucketed(p, top), bucketed(q, top))
        case "topk_reverse_kl":
            return kl(bucketed(q, top), bucketed(p, top))
    raise AssertionError(f"no twin for {name}: write it here before adding the objective")


def closed_form(name: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Gradient with respect to the student's logits, as `odkd objectives` prints it."""

    def centred(u: np.ndarray) -> np.ndarray:
        return q * (u - (q * u).sum(-1, keepdims=True))

    reverse, forward = centred(np.log(q / p)), q - p
    high = (-(p * np.log(p)).sum(-1, keepdims=True) >= 1.9).astype(float)
    top = np.argsort(-p, axis=-1)[:, :4]
    inside = np.zeros(p.shape, dtype=bool)
    np.put_along_axis(inside, top, True, -1)
    p_tail, q_tail = ((~inside * x).sum(-1, keepdims=True) for x in (p, q))
    match name:
        case "forward_kl" | "sampled_forward_kl":
            return forward
        case "reverse_kl" | "pg_reverse_kl" | "sampled_reverse_kl":
            return reverse
        case "blend":
            return 0.3 * forward + 0.7 * reverse
        case "jsd":
            return 0.7 * centred(np.log(q / (0.3 * p + 0.7 * q)))
        case "skew_forward_kl":
            return -0.8 * centred(p / (0.2 * p + 0.8 * q))
        case "skew_reverse_kl":
            m = 0.8 * p + 0.2 * q
            return centred(np.log(q / m) - 0.2 * q / m)
        case "entropy_gated":
            return reverse + 0.7 * high * forward
        case "eopd":
            kept = inside * p
            return reverse + 0.7 * high * (q - kept / kept.sum(-1, keepdims=True))
        case "adaptive_kl":
            share = (twin(name, p, q) - kl(q, p)) / (kl(p, q) - kl(q, p))
            return share[:, None] * forward + (1 - share[:, None]) * reverse
        case "tvd":
            return centred(np.sign(q - p)) / 2
        case "topk_forward_kl":
            return np.where(inside, q - p, q - q * p_tail / q_tail)
        case "topk_reverse_kl":
            loss = twin(name, p, q)[:, None]
            return q * (np.where(inside, np.log(q / p), np.log(q_tail / p_tail)) - loss)
    raise AssertionError(f"no closed form for {name}: write it here before adding the objective")


@pytest.mark.parametrize("name", EXACT)
def test_value_and_gradient_equal_the_definition(name: str) -> None:
    student, teacher = pair()
    student.requires_grad_(True)
    loss = losses(name, student, teacher)
    p, q = probabilities(teacher), probabilities(student)
    np.testing.assert_allclose(loss.detach().numpy(), twin(name, p, q), rtol=1e-12, atol=1e-14)
    loss.sum().backward()
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), closed_form(name, p, q), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", SAMPLED)
def test_expected_gradient_of_a_sampled_loss(name: str) -> None:
    """Every token once, weighted by its probability: the exact expectation of the gradient, no Monte Carlo."""
    student, teacher = pair()
    student.requires_grad_(True)
    q = student.detach().softmax(-1)
    for token in range(V):
        tokens = torch.full((len(student),), token)
        old = divergence.log_prob(student.detach(), tokens)
        (losses(name, student, teacher, sampled(tokens, old)) * q[:, token]).sum().backward()
    assert student.grad is not None
    expected = closed_form(name, probabilities(teacher), q.numpy())
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=0, atol=1e-13)


def test_the_k1_estimator_would_learn_nothing_as_a_loss() -> None:
    """Why it is not among OBJECTIVES: its value is the reverse KL, and its expected gradient is 0."""
    student, teacher = pair()
    student.requires_grad_(True)
    q = student.detach().softmax(-1)
    value = torch.zeros(len(student), dtype=torch.float64)
    for token in range(V):
        tokens = torch.full((len(student),), token)
        k1 = divergence.log_prob(student, tokens) - divergence.log_prob(teacher, tokens)
        value += (q[:, token] * k1).detach()
        (k1 * q[:, token]).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-15
    np.testing.assert_allclose(value.numpy(), kl(q.numpy(), probabilities(teacher)), rtol=1e-12)


def test_the_control_variate_keeps_the_gradient_and_lowers_its_variance() -> None:
    student, teacher = pair(rows=4, spread=1.0)
    q = student.softmax(-1)
    gradients = {}
    for step in ("sampled", "baseline", "exact"):
        rows = []
        for token in range(V):
            own = student.clone().requires_grad_(True)
            tokens = torch.full((len(own),), token)
            seen = sampled(tokens, divergence.log_prob(student, tokens))
            loss_of("pg_reverse_kl", {"single_step": step})(own, teacher, seen).sum().backward()
            assert own.grad is not None
            rows.append(own.grad)
        gradients[step] = torch.stack(rows, 1)  # [4, tokens, V]
    means = {step: (q[:, :, None] * own).sum(1) for step, own in gradients.items()}
    torch.testing.assert_close(means["baseline"], means["sampled"], atol=1e-14, rtol=0)
    torch.testing.assert_close(means["exact"], means["sampled"], atol=1e-14, rtol=0)
    spread = {step: float((q[:, :, None] * (own - means[step][:, None]) ** 2).sum()) for step, own in gradients.items()}
    assert spread["exact"] < 1e-20 < spread["baseline"] < spread["sampled"]


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("cross_entropy", "eopd")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_student_that_is_the_teacher_has_loss_zero_exactly(name: str, dtype: torch.dtype) -> None:
    student = torch.randn(64, 50, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_(True)
    tokens = torch.arange(64) % 50
    loss = losses(
        name, student, student.detach().clone(), sampled(tokens, divergence.log_prob(student, tokens).detach())
    )
    assert loss.abs().max() == 0
    loss.sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < (1e-6 if dtype != torch.float64 else 1e-15)


def test_the_renormalised_teacher_of_eopd_pulls_a_perfect_student_away() -> None:
    """As published. The tail bucket, and the exact form of `entropy_gated`, leave such a student alone."""
    teacher = torch.linspace(0.4, 0.0, V, dtype=torch.float64)[None]  # entropy 2.55
    student = teacher.clone().requires_grad_(True)
    losses("eopd", student, teacher).sum().backward()
    assert student.grad is not None
    p = probabilities(teacher)[0]
    np.testing.assert_allclose(student.grad[0, :4], 0.7 * (p[:4] - p[:4] / p[:4].sum()), rtol=1e-12)
