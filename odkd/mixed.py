"""Teacher-mixed sampling: every token from α · teacher + (1 − α) · student, by the engine that samples all else."""

from __future__ import annotations

from typing import Any

import torch

from odeval.divergence import log_softmax
from odeval.engines.hf_model import HfModel


class MixedModel(HfModel):
    """Two models of one vocabulary, seen as one whose next-token distribution is their mixture.

    A token's rollout log-probability is then that of the mixture, the denominator of MiniLLM's importance weight
    w = q(y) / (α p(y) + (1 − α) q(y)).

    Args:
        student: q; sampled with the weights it has at the time.
        teacher: p.
        alpha: α in [0, 1).

    Source:
        Gu et al. 2024, MiniLLM, https://arxiv.org/abs/2306.08543, section 2.2, "teacher-mixed sampling".
    """

    def __init__(self, student: HfModel, teacher: HfModel, alpha: float) -> None:
        self.student, self.teacher, self.alpha = student, teacher, alpha
        self.model, self.tokenizer, self.device = student.model, student.tokenizer, student.device
        self.name = f"{alpha} {teacher.name} + {1 - alpha} {student.name}"
        self.vocabulary, self.vocab_size, self.stop_ids = student.vocabulary, student.vocab_size, student.stop_ids

    @property
    def max_length(self) -> int | None:
        """Positions that both models have."""
        limits = [limit for limit in (self.student.max_length, self.teacher.max_length) if limit is not None]
        return min(limits, default=None)

    def check_cache(self) -> None:
        """Check both models; see HfModel."""
        self.student.check_cache()
        self.teacher.check_cache()

    @property
    def cache_bytes(self) -> tuple[int, int]:
        """Of both caches; see HfModel."""
        (a, b), (c, d) = self.student.cache_bytes, self.teacher.cache_bytes
        return a + c, b + d

    def new_cache(self, longest: int) -> Any:
        """Return an empty cache for each model."""
        return _TwoCaches(self.student.new_cache(longest), self.teacher.new_cache(longest))

    @torch.no_grad()
    def forward(self, input_ids: torch.Tensor, cache: Any, keep: int = 1) -> torch.Tensor:
        """Return log-probabilities of the mixture, [B, V], extending both caches."""
        log_q = log_softmax(self.student.forward(input_ids, cache.student, keep))
        log_p = log_softmax(self.teacher.forward(input_ids, cache.teacher, keep))
        mixed = torch.logaddexp(log_p + torch.tensor(self.alpha).log(), log_q + torch.tensor(1 - self.alpha).log())
        return mixed


class _TwoCaches:
    def __init__(self, student: Any, teacher: Any) -> None:
        self.student, self.teacher = student, teacher

    def reorder_cache(self, index: torch.Tensor) -> None:
        self.student.reorder_cache(index)
        self.teacher.reorder_cache(index)
