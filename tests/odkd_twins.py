"""Pairs of distributions, and what the tests of objectives share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from odkd.losses import Sampled
from odkd.objectives import OBJECTIVES, loss_of

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


def losses(name: str, student: torch.Tensor, teacher: torch.Tensor, seen: Sampled | None = None) -> torch.Tensor:
    seen = seen or sampled(teacher.argmax(-1))
    return loss_of(name, DIALS.get(name, {}))(student, teacher, seen)
