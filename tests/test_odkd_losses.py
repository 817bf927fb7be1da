"""Directions, limits, gates and futures of the objectives."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from odkd_twins import EXACT, V, kl, losses, pair, probabilities, sampled

from odeval import divergence
from odeval.errors import OdevalError
from odkd.losses import Sampled, gate_of
from odkd.objectives import OBJECTIVES, loss_of, objective
from odkd.update import later


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
