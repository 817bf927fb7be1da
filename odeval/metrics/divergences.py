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
    entropy = tokens.teacher_entropy
    return tokens.on_grid(tokens.sums_from(entropy, grid, tokens.forward_kl), tokens.sums_from(entropy, grid), grid)


def reverse_kl_off_branch_by_threshold(tokens: TokenBlock, grid: Sequence[float]) -> PerPrompt:
    """Mean KL(student‖teacher) away from branch points, for every τ of a grid."""
    entropy = tokens.teacher_entropy
    return tokens.on_grid(tokens.sums_below(entropy, grid, tokens.reverse_kl), tokens.sums_below(entropy, grid), grid)


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
    ratio = (tokens.teacher_logprob - tokens.student_logprob).astype(np.float64)
    ratio = np.add.reduceat(ratio, starts) if len(starts) else ratio
    above = ratio[:, None] >= np.log(np.asarray(grid))
    sums = np.zeros((2, len(tokens.prompt_ids), len(grid)))
    np.add.at(sums[0], tokens.prompt[starts], above)
    np.add.at(sums[1], tokens.prompt[starts], 1.0)
    return tokens.on_grid(sums[0], sums[1], grid)


def forward_kl_by_position(tokens: TokenBlock, grid: Sequence[float]) -> PerPrompt:
    """Mean KL(teacher‖student) over the tokens of each stretch of positions.

    Args:
        tokens: One block.
        grid: [J] increasing ends of the stretches: grid[j − 1] <= position < grid[j], from 0.
    """
    ends = tokens.sums_below(tokens.position, grid, tokens.forward_kl), tokens.sums_below(tokens.position, grid)
    inside = [np.diff(sums, axis=1, prepend=0.0) for sums in ends]
    return tokens.on_grid(inside[0], inside[1], grid)


def _mean(tokens: TokenBlock, values: np.ndarray, where: np.ndarray) -> PerPrompt:
    return tokens.sums(np.where(where, values, 0.0), where)
