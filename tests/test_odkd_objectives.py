"""Every objective against a twin written from its definition: values, gradients, directions, invariances."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from odeval import divergence
from odeval.errors import OdevalError
from odkd.losses import Sampled, gate_of
from odkd.objectives import OBJECTIVES, loss_of, objective
from odkd.update import later

V = 13
DIALS: dict[str, dict[str, Any]] = {
    "blend": {"forward_weight": 0.3},
    "jsd": {"beta": 0.3},
    "entropy_gated": {"gate_threshold": 1.9, "gate_weight": 0.7},
    "eopd": {"gate_threshold": 1.9, "gate_weight": 0.7, "loss_top_k": 4},
    "skew_forward_kl": {"skew_alpha": 0.2},
    "skew_reverse_kl": {"skew_alpha": 0.2},
    "topk_forward_kl": {"loss_top_k": 4},
    "topk_reverse_kl": {"loss_top_k": 4},
}
SAMPLED = [name for name, entry in OBJECTIVES.items() if entry.on_policy]
EXACT = [name for name in OBJECTIVES if name not in SAMPLED and name != "cross_entropy"]


def pair(rows: int = 6, spread: float = 2.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, V, dtype=torch.float64, generator=generator) * spread
    return student, teacher * torch.linspace(0.1, 1.0, rows, dtype=torch.float64)[:, None]  # some entropies high


def sampled(tokens: torch.Tensor, old: torch.Tensor | None = None, **more: Any) -> Sampled:
    nothing = torch.full(tokens.shape, math.nan, dtype=torch.float64)
    return Sampled(tokens, nothing if old is None else old, torch.zeros(tokens.shape), **more)


def probabilities(logits: torch.Tensor) -> np.ndarray:
    weights = np.exp(logits.detach().numpy())
    return weights / weights.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(-1)


def bucketed(p: np.ndarray, order: np.ndarray) -> np.ndarray:
    kept = np.take_along_axis(p, order, -1)
    return np.concatenate([kept, 1 - kept.sum(-1, keepdims=True)], -1)


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


def losses(name: str, student: torch.Tensor, teacher: torch.Tensor, seen: Sampled | None = None) -> torch.Tensor:
    seen = seen or sampled(teacher.argmax(-1))
    return loss_of(name, DIALS.get(name, {}))(student, teacher, seen)


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


def test_directions_are_the_documented_ones() -> None:
    wide = torch.tensor([[0.5, 0.5, 1e-6]]).log()
    narrow = torch.tensor([[1.0, 1e-6, 1e-6]]).log()
    lost_mode = {name: losses(name, narrow, wide).item() for name in EXACT}
    assert lost_mode["forward_kl"] > 5 > 1 > lost_mode["reverse_kl"]
    assert lost_mode["forward_kl"] != losses("forward_kl", wide, narrow).item()  # it is no symmetric formula
    assert losses("forward_kl", wide, narrow).item() == pytest.approx(lost_mode["reverse_kl"], rel=1e-6)
    assert [loss_of("blend", {"forward_weight": w})(narrow, wide, None).item() for w in (0.0, 1.0)] == [
        lost_mode["reverse_kl"],
        lost_mode["forward_kl"],
    ]
    for scale in ("raw", "unit"):
        ends = [loss_of("jsd", {"beta": b, "jsd_scale": scale})(narrow, wide, None).item() for b in (1.0, 0.0)]
        assert ends == [lost_mode["reverse_kl"], lost_mode["forward_kl"]]
    for name, limit in (("skew_forward_kl", "forward_kl"), ("skew_reverse_kl", "reverse_kl")):
        assert loss_of(name, {"skew_alpha": 0.0})(narrow, wide, None).item() == lost_mode[limit]


@pytest.mark.parametrize("beta", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_unit_scale_makes_jsd_continuous_with_its_ends(beta: float) -> None:
    """Raw, the gradient at β = .999 is a thousandth of reverse KL's, which looks like a run that has converged."""
    student, teacher = pair(spread=0.5)

    def norm(name: str, **dials: Any) -> float:
        own = student.clone().requires_grad_(True)
        loss_of(name, dials)(own, teacher, sampled(teacher.argmax(-1))).sum().backward()
        assert own.grad is not None
        return float(own.grad.norm())

    ends = sorted([norm("forward_kl"), norm("reverse_kl")])
    assert 0.8 * ends[0] < norm("jsd", beta=beta, jsd_scale="unit") < 1.25 * ends[1]
    raw = norm("jsd", beta=beta, jsd_scale="raw")
    assert raw == pytest.approx(beta * (1 - beta) * norm("jsd", beta=beta, jsd_scale="unit"), rel=1e-9)


def test_the_tail_bucket_is_a_lower_bound_with_a_known_gap() -> None:
    student, teacher = pair(rows=40)
    p, q = probabilities(teacher), probabilities(student)
    tail = np.argsort(-p, axis=-1)[:, 4:]
    p_rest, q_rest = (np.take_along_axis(x, tail, -1) for x in (p, q))
    p_mass, q_mass = p_rest.sum(-1), q_rest.sum(-1)
    inside = kl(p_rest / p_mass[:, None], q_rest / q_mass[:, None])
    gap = losses("forward_kl", student, teacher) - losses("topk_forward_kl", student, teacher)
    np.testing.assert_allclose(gap.numpy(), p_mass * inside, rtol=1e-9)
    back = kl(q_rest / q_mass[:, None], p_rest / p_mass[:, None])
    gap = losses("reverse_kl", student, teacher) - losses("topk_reverse_kl", student, teacher)
    np.testing.assert_allclose(gap.numpy(), q_mass * back, rtol=1e-9)
    for name, whole in (("topk_forward_kl", "forward_kl"), ("topk_reverse_kl", "reverse_kl")):
        everything = loss_of(name, {"loss_top_k": V})(student, teacher, None)
        torch.testing.assert_close(everything, losses(whole, student, teacher), atol=0, rtol=0)


def test_gates() -> None:
    _, teacher = pair()
    entropy = divergence.entropy(teacher)
    seen = sampled(teacher.argmax(-1), threshold=float(entropy.median()))
    assert gate_of(teacher, seen, "absolute", 1.9).tolist() == (entropy >= 1.9).double().tolist()
    assert gate_of(teacher, seen, "absolute", float(entropy[0])).tolist()[0] == 1  # the threshold itself is beyond it
    assert gate_of(teacher, seen, "quantile", 99.0).tolist() == (entropy >= entropy.median()).double().tolist()
    soft = gate_of(teacher, seen, "soft", 1.9, 0.1)
    np.testing.assert_allclose(soft, 1 / (1 + np.exp(-(entropy.numpy() - 1.9) / 0.1)), rtol=1e-12)


def test_the_normaliser_gated_makes_the_second_term_a_mean_over_gated_tokens() -> None:
    student, teacher = pair()
    open_ = divergence.entropy(teacher) >= 1.9
    assert 0 < open_.double().mean() < 1
    seen = sampled(teacher.argmax(-1), gated_fraction=float(open_.double().mean()))
    loss = losses("entropy_gated", student, teacher, seen).mean()
    first = losses("reverse_kl", student, teacher).mean()
    second = losses("forward_kl", student, teacher)[open_].mean()
    torch.testing.assert_close(loss, first + 0.7 * second)


def test_clipping_stops_the_push_and_the_future_adds_to_the_advantage() -> None:
    student, teacher = pair()
    tokens = teacher.argmax(-1)
    log_p, log_q = (divergence.log_prob(logits, tokens) for logits in (teacher, student))
    old, ahead = log_q - 0.5, torch.linspace(-2, 2, len(tokens), dtype=torch.float64)
    found = loss_of("pg_reverse_kl", {"epsilon": 0.2})(student, teacher, Sampled(tokens, old, ahead))
    advantage, ratio = (log_p - old + ahead).numpy(), math.exp(0.5)
    expected = -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_cross_entropy_is_the_log_probability_of_the_token() -> None:
    student, teacher = pair()
    tokens = torch.arange(len(student))
    found = losses("cross_entropy", student, teacher, sampled(tokens)).numpy()
    np.testing.assert_allclose(found, -np.log(probabilities(student)[np.arange(len(student)), tokens]), rtol=1e-12)


def test_impossible_tokens_leave_skewed_losses_finite() -> None:
    student = torch.tensor([[0.0, 1.0, -math.inf, -math.inf]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.5, -math.inf, 1.0, -math.inf]], dtype=torch.float64)
    for name in ("jsd", "skew_forward_kl", "skew_reverse_kl"):
        loss = losses(name, student, teacher)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all(), name


def test_every_entry_is_whole() -> None:
    for name, entry in OBJECTIVES.items():
        assert set(entry.loop_dials) <= set(entry.dials), name
        assert entry.formula, name
        assert entry.gradient, name
        assert entry.direction, name
        assert entry.source, name
        assert not entry.on_policy or entry.takes_samples, name
    with pytest.raises(OdevalError, match=r"^unknown objective 'reverse-kl': expected one of .*mean 'reverse_kl'\?\)$"):
        objective("reverse-kl")


def test_with_an_undiscounted_future_the_gradient_is_that_of_the_kl_between_sequences() -> None:
    """MiniLLM's claim, by enumeration: every sequence of three tokens, of two models given by tables of logits."""
    size, length = 3, 3
    generator = torch.Generator().manual_seed(5)
    prefixes = [p for t in range(length) for p in itertools.product(range(size), repeat=t)]
    student, teacher = torch.randn(2, len(prefixes), size, dtype=torch.float64, generator=generator)
    student.requires_grad_(True)
    place = {prefix: i for i, prefix in enumerate(prefixes)}
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    for step in ("sampled", "baseline", "exact"):
        total, divergence_of_sequences = torch.zeros(()), torch.zeros(())
        for sequence in itertools.product(range(size), repeat=length):
            rows = [place[sequence[:t]] for t in range(length)]
            tokens = torch.tensor(sequence)
            own, other = log_q[rows, tokens], log_p[rows, tokens]
            chance = own.sum().exp()
            divergence_of_sequences = divergence_of_sequences + chance * (own.sum() - other.sum())
            old = own.detach()
            ahead = later((other - old).detach(), torch.zeros(length, dtype=torch.long), 1.0, False)
            seen = Sampled(tokens, old, ahead)
            loss = loss_of("pg_reverse_kl", {"single_step": step})(student[rows], teacher[rows], seen)
            total = total + chance.detach() * loss.sum()
        (found,) = torch.autograd.grad(total, student, retain_graph=True)
        (expected,) = torch.autograd.grad(divergence_of_sequences, student, retain_graph=True)
        torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)
