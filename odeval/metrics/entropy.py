"""Did the branch points survive? Shares of high-entropy tokens and retention, from token tables.

A branch point (also called high-entropy or forking token) is a position where the teacher's entropy is at or above
a stated threshold τ in nats. Functions take one TokenBlock and τ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from odeval.metrics.tokens import TokenBlock
from odeval.types import PerPrompt


def teacher_high_entropy(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Share of tokens at which the teacher's entropy is >= τ."""
    return tokens.sums(tokens.teacher_entropy >= threshold, np.ones_like(tokens.teacher_entropy))


def student_high_entropy(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Share of tokens at which the student's entropy is >= τ."""
    return tokens.sums(tokens.student_entropy >= threshold, np.ones_like(tokens.student_entropy))


def retention(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Share of the teacher's branch points that are high-entropy for the student too, in the same context.

        R(τ) = P(H_student >= τ | H_teacher >= τ)

    Source:
        Ours; the matched-position reading of arXiv 2603.07079, section 3.
    """
    branch = tokens.teacher_entropy >= threshold
    return tokens.sums(branch & (tokens.student_entropy >= threshold), branch)


def entropy_lost_on_branch(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Mean H_teacher − H_student at branch points: how much of the choice the student gave up, in nats."""
    branch = tokens.teacher_entropy >= threshold
    return tokens.sums(np.where(branch, tokens.teacher_entropy - tokens.student_entropy, 0.0), branch)


def teacher_branches(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Effective continuations the teacher has at a branch point: mean exp(H_teacher)."""
    branch = tokens.teacher_entropy >= threshold
    return tokens.sums(np.where(branch, np.exp(tokens.teacher_entropy), 0.0), branch)


def student_branches(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Effective continuations the student has at the teacher's branch points: mean exp(H_student)."""
    branch = tokens.teacher_entropy >= threshold
    return tokens.sums(np.where(branch, np.exp(tokens.student_entropy), 0.0), branch)


def teacher_high_by_threshold(tokens: TokenBlock, grid: Sequence[float]) -> PerPrompt:
    """Share of tokens with teacher entropy >= τ, for every τ of a grid; on a fine one, the survival curve."""
    return _by_threshold(tokens, tokens.teacher_entropy, grid)


def student_high_by_threshold(tokens: TokenBlock, grid: Sequence[float]) -> PerPrompt:
    """Share of tokens with student entropy >= τ, for every τ of a grid."""
    return _by_threshold(tokens, tokens.student_entropy, grid)


def retention_by_threshold(tokens: TokenBlock, grid: Sequence[float]) -> PerPrompt:
    """Retention R(τ) for every τ of a grid."""
    both = np.minimum(tokens.teacher_entropy, tokens.student_entropy)
    return tokens.on_grid(tokens.sums_from(both, grid), tokens.sums_from(tokens.teacher_entropy, grid), grid)


def _by_threshold(tokens: TokenBlock, entropy: np.ndarray, grid: Sequence[float]) -> PerPrompt:
    all_tokens = np.bincount(tokens.prompt, minlength=len(tokens.prompt_ids)).astype(np.float64)
    return tokens.on_grid(tokens.sums_from(entropy, grid), np.repeat(all_tokens[:, None], len(grid), axis=1), grid)


def survival(tokens: TokenBlock, edges: np.ndarray) -> dict[str, np.ndarray]:
    """Count tokens by entropy, for the survival curves of both models.

    Args:
        tokens: One block.
        edges: [B + 1] increasing; values beyond the last edge fall into the last bin.

    Returns:
        "teacher" and "student", each [B] counts.
    """
    top = np.nextafter(edges[-1], edges[0])
    return {
        "teacher": np.histogram(np.minimum(tokens.teacher_entropy, top), edges)[0],
        "student": np.histogram(np.minimum(tokens.student_entropy, top), edges)[0],
    }
