"""How far is the student from the teacher, on and off the teacher's branch points? Means over tokens, in nats."""

from __future__ import annotations

import numpy as np

from odeval.metrics.tokens import TokenBlock
from odeval.types import PerPrompt


def forward_kl_on_branch(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Mean KL(teacher‖student) at branch points: what the student lost of the teacher's options."""
    return _mean(tokens, tokens.forward_kl, tokens.teacher_entropy >= threshold)


def forward_kl_off_branch(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Mean KL(teacher‖student) away from branch points."""
    return _mean(tokens, tokens.forward_kl, tokens.teacher_entropy < threshold)


def reverse_kl_on_branch(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Mean KL(student‖teacher) at branch points."""
    return _mean(tokens, tokens.reverse_kl, tokens.teacher_entropy >= threshold)


def reverse_kl_off_branch(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Mean KL(student‖teacher) away from branch points: what the student invents where the teacher is sure."""
    return _mean(tokens, tokens.reverse_kl, tokens.teacher_entropy < threshold)


def _mean(tokens: TokenBlock, values: np.ndarray, where: np.ndarray) -> PerPrompt:
    return tokens.sums(np.where(where, values, 0.0), where)
