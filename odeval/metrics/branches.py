"""What became of the teacher's options at its branch points? Read from what scoring saw of both full distributions.

Scoring looks where the teacher's entropy is at or above BRANCH_FLOOR, so thresholds below it have no answer here.
Functions take one TokenBlock and τ in nats.
"""

from __future__ import annotations

import numpy as np

from odeval.metrics.tokens import TokenBlock
from odeval.types import PerPrompt


def nucleus_recall(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Mean mass of the teacher inside the student's 0.95-nucleus at branch points: what top-p sampling can reach.

    Source:
        Ours; support recall after improved recall, https://arxiv.org/abs/1904.06991.
    """
    return _mean(tokens, tokens.nucleus_recall, threshold)


def top_overlap(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Mean share of the teacher's 16 likeliest tokens that are among the student's 16, at branch points.

    Source:
        Overlap of favourites as in https://arxiv.org/abs/2604.13016.
    """
    return _mean(tokens, tokens.top_overlap, threshold)


def dropped_branches(tokens: TokenBlock, threshold: float) -> PerPrompt:
    """Tokens that the teacher gives at least 0.1 and the student less than 0.01, per 1000 branch points."""
    return _mean(tokens, 1000.0 * tokens.dropped, threshold)


def _mean(tokens: TokenBlock, values: np.ndarray, threshold: float) -> PerPrompt:
    """Over branch points; a prompt with one that was not looked at is unknown, not partly known."""
    branch = tokens.teacher_entropy >= threshold
    return tokens.sums(np.where(branch, values, 0.0), branch)
