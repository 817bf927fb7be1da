"""Which divergence is differentiated, with its dials, and what they come to at each token.

p is the teacher, q the student; nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from odeval.errors import OdevalError, unknown

_LINEAR = ("forward_kl", "reverse_kl", "blend", "entropy_gated")
_MIXED = ("jsd", "skew_forward_kl", "skew_reverse_kl")
KINDS = (*_LINEAR, *_MIXED)

Weight = float | torch.Tensor


class Mixture(NamedTuple):
    """A divergence from m = λ · p + (1 − λ) · q:  scale · (a · KL(p‖m) + b · KL(q‖m)).

    Attributes:
        teacher_share: λ, in (0, 1).
        from_teacher: a.
        from_student: b.
        scale: Of value and gradient.
    """

    teacher_share: float
    from_teacher: float
    from_student: float
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One divergence and its dials; those that it does not read are ignored.

        forward_kl         KL(p‖q)
        reverse_kl         KL(q‖p)
        blend              forward_weight · KL(p‖q) + reverse_weight · KL(q‖p)
        entropy_gated      KL(q‖p) + gate_weight · g(H(p)) · KL(p‖q)
        jsd                β · KL(p‖m) + (1 − β) · KL(q‖m), m = β · p + (1 − β) · q
        skew_forward_kl    KL(p‖α · p + (1 − α) · q)
        skew_reverse_kl    KL(q‖(1 − α) · p + α · q), gradient through the mixture too

    Args:
        name: One of the above.
        forward_weight: A number, or [N], one a token.
        reverse_weight: The same; None is 1 − forward_weight.
        gate_threshold: τ in nats of teacher entropy.
        gate_weight: Of the forward part where the gate is open.
        gate_width: 0: the gate is 1[H(p) >= τ]. Above: sigmoid((H(p) − τ) / gate_width).
        beta: In [0, 1]: 0 is forward, 1 is reverse KL, TRL's direction.
        jsd_scale: "raw", or "unit", which divides by β(1 − β) and so is continuous with both ends.
        skew_alpha: α in [0, 1).

    Raises:
        OdevalError: No such divergence, or a dial out of its range.

    Example:
        >>> Kind("jsd", beta=0.0).weights(torch.tensor([1.0]), slice(None))  # the limit: forward KL
        (1.0, 0.0)
    """

    name: str
    forward_weight: Weight = 0.5
    reverse_weight: Weight | None = None
    gate_threshold: float = 0.8
    gate_weight: float = 1.0
    gate_width: float = 0.0
    beta: float = 0.5
    jsd_scale: str = "raw"
    skew_alpha: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise OdevalError(unknown("divergence", self.name, KINDS))
        if self.jsd_scale not in ("raw", "unit"):
            raise OdevalError(unknown("jsd_scale", self.jsd_scale, ("raw", "unit")))
        if not 0 <= self.beta <= 1:
            raise OdevalError(f"beta {self.beta}: must be in [0, 1]; 0 is forward KL, 1 is reverse KL")
        if not 0 <= self.skew_alpha < 1:
            raise OdevalError(f"skew_alpha {self.skew_alpha}: must be in [0, 1); 0 is the plain KL")
        if not self.gate_width >= 0:
            raise OdevalError(f"gate_width {self.gate_width}: must be >= 0; 0 is a hard gate")

    def check(self, tokens: int) -> None:
        """Refuse weights of another number of tokens.

        Raises:
            OdevalError: A weight is a tensor of some other shape than [tokens].
        """
        for name in ("forward_weight", "reverse_weight"):
            weight = getattr(self, name)
            if isinstance(weight, torch.Tensor) and weight.shape != (tokens,):
                raise OdevalError(
                    f"{name}: has shape {list(weight.shape)} for {tokens} tokens; give one number, or [{tokens}]"
                )

    def mixture(self) -> Mixture | None:
        """Tell the mixture this is a divergence from; None where it is a sum of both KLs."""
        if self.name == "jsd" and 0 < self.beta < 1:
            scale = 1 / (self.beta * (1 - self.beta)) if self.jsd_scale == "unit" else 1.0
            return Mixture(self.beta, self.beta, 1 - self.beta, scale)
        if self.name == "skew_forward_kl" and self.skew_alpha > 0:
            return Mixture(self.skew_alpha, 1.0, 0.0, 1.0)
        if self.name == "skew_reverse_kl" and self.skew_alpha > 0:
            return Mixture(1 - self.skew_alpha, 0.0, 1.0, 1.0)
        return None

    def weights(self, teacher_entropy: torch.Tensor, rows: slice) -> tuple[Weight, Weight]:
        """Weights of both KLs at some tokens; not asked of a mixture.

        Args:
            teacher_entropy: [R, 1].
            rows: Where in all N tokens they stand.

        Returns:
            Of KL(p‖q) and of KL(q‖p): a number, or [R, 1].
        """
        if self.name == "entropy_gated":
            if self.gate_width > 0:
                gate = torch.sigmoid((teacher_entropy - self.gate_threshold) / self.gate_width)
            else:
                gate = (teacher_entropy >= self.gate_threshold).to(teacher_entropy.dtype)
            return self.gate_weight * gate, 1.0
        if self.name == "blend":
            forward, reverse = self.forward_weight, self.reverse_weight
            if reverse is None:
                reverse = 1 - forward
            like = teacher_entropy
            return _rows_of(forward, rows, like), _rows_of(reverse, rows, like)
        is_forward = self.name in ("forward_kl", "skew_forward_kl") or (self.name == "jsd" and self.beta == 0)
        return (1.0, 0.0) if is_forward else (0.0, 1.0)


def _rows_of(weight: Weight, rows: slice, like: torch.Tensor) -> Weight:
    if isinstance(weight, torch.Tensor):
        return weight.detach().to(like.device, like.dtype)[rows, None]
    return float(weight)
