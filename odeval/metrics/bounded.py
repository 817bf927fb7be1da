"""Branch points from top-K log-probabilities: what is proved, never a guess. Each quantity has a low and a high end.

A server that returns the K likeliest tokens bounds an entropy (`odeval.metrics.topk`). Where a threshold lies between
the bounds the position is undecidable, and counts against one end or the other. Letters: P prompts, N tokens, J
thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from odeval.metrics.tokens import flat, layout
from odeval.schemas import BOUND_COLUMNS
from odeval.types import PerPrompt

QUANTITIES = ("teacher_high_entropy", "student_high_entropy", "retention")


def bound_sums(table: pa.Table, grid: Sequence[float]) -> dict[str, PerPrompt]:
    """Sums per prompt of the lowest and highest shares that the bounds allow, and of undecidable tokens.

    With sure = (low >= τ) and possible = (high >= τ) for either model:

        high-entropy share   from Σ sure / N   to   Σ possible / N
        retention, low       Σ [T sure · S sure]  /  (Σ T sure + Σ [T undecidable · not S sure])
        retention, high      Σ [T possible · S possible]  /  (Σ T sure + Σ [T undecidable · S possible])

    Args:
        table: A part of tokens/ with BOUND_COLUMNS.
        grid: [J] thresholds τ, nats.

    Returns:
        "NAME.low" and "NAME.high" for QUANTITIES, and "NAME.undecidable" for the two shares, each [P, J].

    Source:
        Ours; the extremes of a ratio over all ways to decide the undecidable positions.
    """
    prompt_ids, prompt, _, _ = layout(table, BOUND_COLUMNS[0])
    values = {name: flat(table[name])[:, None] >= np.asarray(grid, dtype=np.float64) for name in BOUND_COLUMNS[:4]}
    t_sure, t_possible = values["teacher_entropy_low"], values["teacher_entropy_high"]
    s_sure, s_possible = values["student_entropy_low"], values["student_entropy_high"]
    t_open, s_open = t_possible & ~t_sure, s_possible & ~s_sure
    every = np.ones_like(t_sure)
    parts = {
        "teacher_high_entropy.low": (t_sure, every),
        "teacher_high_entropy.high": (t_possible, every),
        "teacher_high_entropy.undecidable": (t_open, every),
        "student_high_entropy.low": (s_sure, every),
        "student_high_entropy.high": (s_possible, every),
        "student_high_entropy.undecidable": (s_open, every),
        "retention.low": (t_sure & s_sure, t_sure | (t_open & ~s_sure)),
        "retention.high": (t_possible & s_possible, t_sure | (t_open & s_possible)),
    }

    def summed(flags: np.ndarray) -> np.ndarray:
        columns = [np.bincount(prompt, column, len(prompt_ids)) for column in flags.T]
        return np.stack(columns, axis=1)

    names = tuple(float(x) for x in grid)
    return {name: PerPrompt(prompt_ids, summed(top), summed(under), names) for name, (top, under) in parts.items()}
