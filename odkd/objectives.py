"""What is minimised: per-token losses between a student's and a teacher's next-token distributions.

Every loss maps logits [..., V] of both models at the same prefixes to [...] nats; it is neither masked nor
reduced, which is the loop's business. The KL formulas themselves live in `odeval.divergence`, so what is
trained and what is measured cannot differ.

p is the teacher, q the student.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from odeval import divergence
from odeval.errors import OdevalError, unknown

Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Objective:
    """One entry of OBJECTIVES.

    Attributes:
        loss: (student_logits, teacher_logits, **dials) -> per-token loss.
        formula: What is computed at one position.
        gradient: With respect to the student's logit z_v.
        direction: Which way it pulls.
        source: Where it comes from, and its name elsewhere.
        dials: The settings of TrainConfig it reads, passed to `loss` by name.
    """

    loss: Loss
    formula: str
    gradient: str
    direction: str
    source: str
    dials: tuple[str, ...] = ()


def blend(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, forward_weight: float) -> torch.Tensor:
    """Linear mixture of both KL divergences: w · KL(p‖q) + (1 − w) · KL(q‖p).

    Unlike a generalized JSD it keeps pulling at a mode the student has lost: there the gradient is −w · p_v.

    Args:
        student_logits: [..., V]; gradients flow.
        teacher_logits: [..., V].
        forward_weight: w in [0, 1]: 0 is reverse KL, 1 is forward KL.

    Returns:
        [...] nats, >= 0.
    """
    forward = divergence.forward_kl(student_logits, teacher_logits)
    reverse = divergence.reverse_kl(student_logits, teacher_logits)
    return forward_weight * forward + (1 - forward_weight) * reverse


OBJECTIVES: dict[str, Objective] = {
    "reverse_kl": Objective(
        loss=divergence.reverse_kl,
        formula="Σ q · log(q / p)",
        gradient="q_v · (log(q_v / p_v) − KL(q‖p))",
        direction="mode-seeking: punishes what the teacher would not say, not what is left out",
        source="MiniLLM (arXiv 2306.08543); on-policy distillation's default; TRL beta=1",
    ),
    "forward_kl": Objective(
        loss=divergence.forward_kl,
        formula="Σ p · log(p / q)",
        gradient="q_v − p_v",
        direction="mass-covering: punishes what the student leaves out",
        source="Hinton et al. 2015 (arXiv 1503.02531); TRL beta=0",
    ),
    "blend": Objective(
        loss=blend,
        formula="w · Σ p · log(p / q) + (1 − w) · Σ q · log(q / p), w = forward_weight",
        gradient="w · (q_v − p_v) + (1 − w) · q_v · (log(q_v / p_v) − KL(q‖p))",
        direction="between the two: forward_weight 0 is reverse KL, 1 is forward KL",
        source="NeMo-RL's mixed KL (mixed_kl_weight = forward_weight)",
        dials=("forward_weight",),
    ),
    "jsd": Objective(
        loss=divergence.jsd,
        formula="β · KL(p‖m) + (1 − β) · KL(q‖m), m = β · p + (1 − β) · q",
        gradient="(1 − β) · q_v · (log(q_v / m_v) − KL(q‖m))",
        direction="β near 0 is forward, near 1 reverse KL; not rescaled, so it vanishes towards both ends",
        source="GKD (arXiv 2306.13649), eq. 1; TRL beta, same direction",
        dials=("beta",),
    ),
}


def objective(name: str) -> Objective:
    """Return an objective by name.

    Raises:
        OdevalError: No such objective.

    Example:
        >>> objective("blend").dials
        ('forward_weight',)
    """
    if name not in OBJECTIVES:
        raise OdevalError(unknown("objective", name, OBJECTIVES))
    return OBJECTIVES[name]
