"""What is minimised: OBJECTIVES, name → per-token loss with its formula, gradient, direction and names elsewhere.

A loss maps logits [N, V] of both models at the same prefixes to [N]; masking and reduction are the loop's business.
p is the teacher, q the student, y the sampled token, sg what no gradient flows through; nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from odeval import divergence
from odeval.errors import OdevalError, unknown
from odeval.fused import Kind
from odeval.fused.kind import KINDS
from odkd import losses

Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Objective:
    """One entry of OBJECTIVES.

    Attributes:
        loss: (student_logits, teacher_logits, [sampled,] **dials) -> per-token loss.
        formula: What is computed at one position.
        gradient: With respect to the student's logit z_v; for a sampled loss, its expectation over y ~ q.
        direction: Which way it pulls.
        source: Where it comes from.
        dials: The settings of TrainConfig it reads, with their defaults; passed to `loss` by name.
        loop_dials: Those of the dials that the loop reads instead, since they concern more than one position.
        takes_samples: Whether `loss` takes a `Sampled`.
        on_policy: Whether it is right only on completions the student sampled.
        elsewhere: Tool → its name and dial there.
    """

    loss: Loss
    formula: str
    gradient: str
    direction: str
    source: str
    dials: Mapping[str, Any] = field(default_factory=dict)
    loop_dials: tuple[str, ...] = ()
    takes_samples: bool = False
    on_policy: bool = False
    elsewhere: Mapping[str, str] = field(default_factory=dict)


_RKL = "q_v · (log(q_v / p_v) − KL(q‖p))"
_FKL = "q_v − p_v"
_GATE = {"gate": "absolute", "gate_threshold": 0.8, "gate_quantile": 0.8, "gate_width": 0.1, "gate_weight": 1.0}

OBJECTIVES: dict[str, Objective] = {
    "reverse_kl": Objective(
        loss=divergence.reverse_kl,
        formula="Σ q · log(q / p)",
        gradient=_RKL,
        direction="mode-seeking: punishes what the teacher would not say, not what is left out",
        source="MiniLLM (arXiv 2306.08543); on-policy distillation's default",
        elsewhere={"TRL": "beta: 1.0", "NeMo-RL": "kl_type: reverse", "Liger": "LigerFusedLinearJSD jsd_beta=1.0"},
    ),
    "forward_kl": Objective(
        loss=divergence.forward_kl,
        formula="Σ p · log(p / q)",
        gradient=_FKL,
        direction="mass-covering: punishes what the student leaves out",
        source="Hinton et al. 2015 (arXiv 1503.02531)",
        elsewhere={"TRL": "beta: 0.0", "NeMo-RL": "kl_type: forward", "Liger": "LigerFusedLinearJSD jsd_beta=0.0"},
    ),
    "blend": Objective(
        loss=losses.blend,
        formula="w · Σ p · log(p / q) + (1 − w) · Σ q · log(q / p), w = forward_weight",
        gradient=f"w · ({_FKL}) + (1 − w) · {_RKL}",
        direction="between the two: forward_weight 0 is reverse KL, 1 is forward KL",
        source="NeMo-RL's mixed KL",
        dials={"forward_weight": 0.5},
        elsewhere={"NeMo-RL": "kl_type: mixed, mixed_kl_weight = forward_weight"},
    ),
    "entropy_gated": Objective(
        loss=losses.entropy_gated,
        formula="Σ q · log(q / p) + gate_weight · g(H(p)) · Σ p · log(p / q) / s",
        gradient=f"{_RKL} + gate_weight · g / s · ({_FKL})",
        direction="mode-seeking where the teacher is sure, covering as well where it is undecided",
        source="ours, after EOPD: exact in both directions, over the full vocabulary",
        dials={**_GATE, "gate_normalizer": "valid"},
        loop_dials=("gate_quantile", "gate_normalizer"),
        takes_samples=True,
    ),
    "eopd": Objective(
        loss=losses.eopd,
        formula="−min(r A, clip(r, 1 ± ε) A) + gate_weight · 1[H(p) ≥ τ] · Σ_topK p̃ · log(p̃ / q) / s",
        gradient=f"{_RKL} + gate_weight · 1[H(p) ≥ τ] / s · (q_v − p̃_v)",
        direction="mode-seeking everywhere, covering the teacher's K likeliest tokens as well where it is undecided",
        source="EOPD (arXiv 2603.07079)",
        dials={"gate_threshold": 0.8, "gate_weight": 1.0, "loss_top_k": 16, "epsilon": 0.2, "gate_normalizer": "valid"},
        loop_dials=("gate_normalizer",),
        takes_samples=True,
        on_policy=True,
    ),
    "jsd": Objective(
        loss=losses.jsd,
        formula="β · KL(p‖m) + (1 − β) · KL(q‖m), m = β · p + (1 − β) · q; unit scale: / (β (1 − β))",
        gradient="(1 − β) · q_v · (log(q_v / m_v) − KL(q‖m))",
        direction="β near 0 is forward, near 1 reverse KL; raw scale vanishes towards both ends, unit does not",
        source="GKD (arXiv 2306.13649), eq. 1",
        dials={"beta": 0.5, "jsd_scale": "raw"},
        elsewhere={"TRL": "beta = beta, raw scale", "Liger": "LigerFusedLinearJSD jsd_beta = beta"},
    ),
    "skew_forward_kl": Objective(
        loss=lambda student, teacher, skew_alpha: divergence.skew_forward_kl(student, teacher, skew_alpha),
        formula="KL(p ‖ α · p + (1 − α) · q), α = skew_alpha",
        gradient="−(1 − α) · q_v · (r_v − Σ q · r), r = p / (α · p + (1 − α) · q)",
        direction="covering, with a bounded pull: a mode below q ≈ α · p is given up",
        source="DistiLLM (arXiv 2402.03898)",
        dials={"skew_alpha": 0.1},
    ),
    "skew_reverse_kl": Objective(
        loss=lambda student, teacher, skew_alpha: divergence.skew_reverse_kl(student, teacher, skew_alpha),
        formula="KL(q ‖ (1 − α) · p + α · q), α = skew_alpha",
        gradient="q_v · (u_v − Σ q · u), u = log(q / m) − α · q / m, m = (1 − α) · p + α · q",
        direction="mode-seeking, with a bounded penalty",
        source="DistiLLM (arXiv 2402.03898); its code detaches m, here it is differentiated",
        dials={"skew_alpha": 0.1},
    ),
    "adaptive_kl": Objective(
        loss=losses.adaptive_kl,
        formula="a · KL(p‖q) + (1 − a) · KL(q‖p), a = sg share of Σ |p − q| on the teacher's head",
        gradient=f"a · ({_FKL}) + (1 − a) · {_RKL}",
        direction="covering where the models differ on the teacher's likeliest tokens, seeking where on its tail",
        source="AKL (arXiv 2404.02657)",
        dials={"head_mass": 0.5},
    ),
    "tvd": Objective(
        loss=divergence.total_variation,
        formula="½ Σ |p − q|",
        gradient="½ q_v · (s_v − Σ q · s), s = sign(q − p)",
        direction="symmetric; no pull on a mode whose probability is far too low",
        source="f-distill (arXiv 2307.15190)",
    ),
    "pg_reverse_kl": Objective(
        loss=losses.pg_reverse_kl,
        formula="−r · sg[log p(y) − log q_old(y) + γ-discounted later terms], r = q(y) / q_old(y), clipped to 1 ± ε",
        gradient=f"{_RKL} in expectation, with future_weight 0",
        direction="mode-seeking, from the sampled token alone",
        source="Thinking Machines 2025, On-Policy Distillation; MiniLLM with future_weight and single_step: exact",
        dials={"epsilon": None, "future_weight": 0.0, "future_normalize": False, "single_step": "sampled"},
        loop_dials=("future_weight", "future_normalize"),
        takes_samples=True,
        on_policy=True,
        elsewhere={"verl": "use_policy_gradient: true, kl loss k1", "TRL": "experimental.iw_opd, without its weights"},
    ),
    "sampled_reverse_kl": Objective(
        loss=losses.sampled_reverse_kl,
        formula="½ log²(q(y) / p(y)), the k2 estimator",
        gradient=f"{_RKL} in expectation",
        direction="mode-seeking",
        source="Schulman 2020's k2 as a loss; KDRL (arXiv 2506.02208)",
        takes_samples=True,
        on_policy=True,
        elsewhere={"verl": "kl loss k2 / mse"},
    ),
    "sampled_forward_kl": Objective(
        loss=losses.sampled_forward_kl,
        formula="p(y) / q(y) − 1 − log(p(y) / q(y)), the k3 estimator",
        gradient=f"{_FKL} in expectation",
        direction="mass-covering, although its value estimates the reverse KL",
        source="Schulman 2020's k3 as a loss",
        takes_samples=True,
        on_policy=True,
        elsewhere={"verl": "kl loss k3 / low_var_kl, there clamped"},
    ),
    "topk_forward_kl": Objective(
        loss=lambda student, teacher, loss_top_k: divergence.topk_kl(student, teacher, loss_top_k, forward=True),
        formula="Σ_S p · log(p / q) + P_T · log(P_T / Q_T), S = teacher's top loss_top_k, T = the rest",
        gradient="q_v − p_v on S; q_v − q_v · P_T / Q_T on T",
        direction="mass-covering; a lower bound of forward KL, short by P_T · KL(p_T‖q_T)",
        source="tail bucket: TA-OPD (arXiv 2608.14728)",
        dials={"loss_top_k": 16},
        elsewhere={"TRL": "experimental.iw_opd loss_top_k, beta: 0.0", "verl": "forward_kl_topk, without the tail"},
    ),
    "topk_reverse_kl": Objective(
        loss=lambda student, teacher, loss_top_k: divergence.topk_kl(student, teacher, loss_top_k, forward=False),
        formula="Σ_S q · log(q / p) + Q_T · log(Q_T / P_T), S = teacher's top loss_top_k, T = the rest",
        gradient="q_v · (log(q_v / p_v) − ℓ) on S; q_v · (log(Q_T / P_T) − ℓ) on T, ℓ the loss",
        direction="mode-seeking; a lower bound of reverse KL, short by Q_T · KL(q_T‖p_T)",
        source="TA-OPD (arXiv 2608.14728)",
        dials={"loss_top_k": 16},
        elsewhere={"TRL": "experimental.iw_opd loss_top_k, beta: 1.0, there on the student's top K"},
    ),
    "cross_entropy": Objective(
        loss=losses.cross_entropy,
        formula="−log q(y)",
        gradient="q_v − 1[v = y]",
        direction="mass-covering where y is the teacher's (forward KL between sequences, but for a constant)",
        source="sequence-level KD, Kim and Rush 2016 (arXiv 1606.07947)",
        takes_samples=True,
        elsewhere={"TRL": "SFTTrainer on the teacher's completions"},
    ),
}  # fmt: skip


def objective(name: str) -> Objective:
    """Return an objective by name.

    Raises:
        OdevalError: No such objective.

    Example:
        >>> dict(objective("blend").dials)
        {'forward_weight': 0.5}
    """
    if name not in OBJECTIVES:
        raise OdevalError(unknown("objective", name, OBJECTIVES))
    return OBJECTIVES[name]


def loss_of(
    name: str, dials: Mapping[str, Any]
) -> Callable[[torch.Tensor, torch.Tensor, losses.Sampled], torch.Tensor]:
    """Return an objective as (student_logits, teacher_logits, sampled) -> [N].

    Args:
        name: One of OBJECTIVES.
        dials: Overriding its defaults.
    """
    chosen = objective(name)
    values = {**chosen.dials, **dials}
    bound = partial(chosen.loss, **{dial: values[dial] for dial in chosen.dials if dial not in chosen.loop_dials})
    if chosen.takes_samples:
        return bound
    return lambda student, teacher, sampled: bound(student, teacher)


def kind_of(name: str, dials: Mapping[str, Any]) -> Kind | None:
    """Return an objective as `odeval.fused` forms it without logits; None where it does not.

    Args:
        name: One of OBJECTIVES.
        dials: Overriding its defaults.

    Example:
        >>> kind_of("blend", {"forward_weight": 0.3}).forward_weight, kind_of("tvd", {})
        (0.3, None)
    """
    values = {**objective(name).dials, **dials}
    if name == "entropy_gated":
        if values["gate"] == "quantile" or values["gate_normalizer"] == "gated":
            return None  # they ask for the other tokens of the update
        width = values["gate_width"] if values["gate"] == "soft" else 0.0
        values = {"gate_threshold": values["gate_threshold"], "gate_weight": values["gate_weight"], "gate_width": width}
    return Kind(name, **values) if name in KINDS else None
