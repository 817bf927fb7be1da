"""How far is the student from the teacher, on and off the teacher's branch points? Means over tokens, in nats."""

from __future__ import annotations

from collections.abc import Sequence

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


def forward_kl_on_branch_by_threshold(tokens: TokenBlock, grid: Sequence[float]) -> PerPrompt:
    """Mean KL(teacher‖student) at branch points, for every τ of a grid."""
    branch = tokens.teacher_entropy[:, None] >= np.asarray(grid)
    return tokens.grid_sums(np.where(branch, tokens.forward_kl[:, None], 0.0), branch, grid)


def reverse_kl_off_branch_by_threshold(tokens: TokenBlock, grid: Sequence[float]) -> PerPrompt:
    """Mean KL(student‖teacher) away from branch points, for every τ of a grid."""
    elsewhere = tokens.teacher_entropy[:, None] < np.asarray(grid)
    return tokens.grid_sums(np.where(elsewhere, tokens.reverse_kl[:, None], 0.0), elsewhere, grid)


def coverage_profile(tokens: TokenBlock, grid: Sequence[float]) -> PerPrompt:
    """Share of completions that are at least M times as likely under the teacher as under the student.

        P_{y ~ trajectory}[ p_T(y) / p_S(y) >= M ]

    On the teacher's trajectory it is the tail that a student would need more than M samples to cover.

    Args:
        tokens: One block.
        grid: [J] values of M.

    Source:
        Coverage profile, https://arxiv.org/abs/2510.15020.
    """
    starts = tokens.sequence_starts()
    if not len(starts):
        return tokens.grid_sums(np.zeros((0, len(grid))), np.zeros((0, len(grid))), grid, np.zeros(0, dtype=np.int64))
    ratio = np.add.reduceat((tokens.teacher_logprob - tokens.student_logprob).astype(np.float64), starts)
    above = ratio[:, None] >= np.log(np.asarray(grid))
    return tokens.grid_sums(above, np.ones_like(above), grid, tokens.prompt[starts])


def forward_kl_by_position(tokens: TokenBlock, grid: Sequence[float]) -> PerPrompt:
    """Mean KL(teacher‖student) over the tokens of each stretch of positions.

    Args:
        tokens: One block.
        grid: [J] increasing ends of the stretches: grid[j − 1] <= position < grid[j], from 0.
    """
    place = np.searchsorted(np.asarray(grid), tokens.position, side="right")
    inside = place[:, None] == np.arange(len(grid))
    return tokens.grid_sums(np.where(inside, tokens.forward_kl[:, None], 0.0), inside, grid)


def _mean(tokens: TokenBlock, values: np.ndarray, where: np.ndarray) -> PerPrompt:
    return tokens.sums(np.where(where, values, 0.0), where)
