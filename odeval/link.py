"""From tokens to outcomes: does entropy lost at branch points go with pass@k lost, and do errors compound?

Letters: P prompts, J stretches of positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from odeval.stats import Linearised, estimate
from odeval.types import Estimate, PerPrompt, PromptIds

_FEW = 20  # prompts
_RESAMPLES = 1000
_DRAWN = 2**15  # ranked at once


def rank_link(
    x: np.ndarray, y: np.ndarray, controls: Sequence[np.ndarray] = (), confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Spearman's correlation of two quantities per prompt, with what else goes with them taken out.

    Ranks of x and y are regressed on the ranks of the controls, and the residuals correlated. The interval is that of
    a bootstrap over prompts.

    Args:
        x: [P], NaN where a prompt says nothing.
        y: [P].
        controls: Each [P]; none gives the plain rank correlation.
        confidence: Of the interval.
        seed: Of the bootstrap.

    Returns:
        In [−1, 1]; NaN where fewer than 20 prompts are left or one side does not vary.

    Source:
        Spearman 1904; partial rank correlation by residuals of ranks.
    """
    table = np.stack([x, y, *controls])
    table = table[:, np.isfinite(table).all(0)]
    count = table.shape[1]
    if count < _FEW:
        return Estimate(math.nan, n=count, caution=f"{count} prompts have both; {_FEW} are needed")
    value = float(_partial(table[:, None])[0])
    if not math.isfinite(value):
        return Estimate(math.nan, n=count, caution="one side does not vary")
    generator = np.random.default_rng(seed)
    step = max(1, _DRAWN // count)
    sizes = [min(step, _RESAMPLES - done) for done in range(0, _RESAMPLES, step)]
    drawn = np.concatenate([_partial(table[:, generator.integers(0, count, (size, count))]) for size in sizes])
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(value, float(low), float(high), count, se=float(drawn.std(ddof=1)), degrees=count - 2)


def _partial(tables: np.ndarray) -> np.ndarray:
    """Partial rank correlation of rows 0 and 1 given the others, for R tables at once: [C, R, P] -> [R]."""
    from scipy.stats import rankdata  # loaded only where there are token scores

    ranks = np.moveaxis(rankdata(tables, axis=-1), 0, 1)  # [R, C, P]
    ranks -= ranks.mean(-1, keepdims=True)
    pair, controls = ranks[:, :2], ranks[:, 2:]
    if controls.shape[1]:
        gram = np.linalg.pinv(controls @ controls.transpose(0, 2, 1), hermitian=True)
        pair = pair - (pair @ controls.transpose(0, 2, 1)) @ gram @ controls
    scale = np.sqrt((pair[:, 0] ** 2).sum(-1) * (pair[:, 1] ** 2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.where(
            scale > 1e-9 * tables.shape[-1] ** 3, (pair[:, 0] * pair[:, 1]).sum(-1) / scale, np.nan
        )
    return found


def ratio_per_prompt(metric: PerPrompt, prompt_ids: PromptIds) -> np.ndarray:
    """A metric's value on each prompt, [P]; NaN where it says nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = metric.numerator / metric.denominator
    found: np.ndarray = pd.Series(values, metric.prompt_ids).reindex(prompt_ids).to_numpy()
    return found


def exposure_bias(
    on_student: Linearised, on_teacher: Linearised, ends: Sequence[float], confidence: float = 0.95
) -> list[Estimate]:
    """How much of the error after l tokens comes from the student's own earlier tokens.

        ExAccErr(l) = (R(l) − l ε(l)) / (l ε(l)),
        R(l) = Σ_{t <= l} KL_t in the student's contexts,  l ε(l) = the same in the teacher's contexts

    0 means that errors add up as if each context were the teacher's; 0.5 that compounding adds half as much again.

    Args:
        on_student: Mean KL(teacher‖student) by stretch of positions, [J], on the student's completions.
        on_teacher: The same on the teacher's.
        ends: [J] end of each stretch, as in `forward_kl_by_position`.
        confidence: Of the intervals.

    Returns:
        One estimate a stretch end; NaN from where either side has no tokens, or the divisor is not clearly above 0.

    Source:
        Arora et al. 2022, https://arxiv.org/abs/2204.01171, eq. 12; means over stretches instead of single positions.
    """
    widths = np.diff([0.0, *ends])
    totals = [_running(curve, widths) for curve in (on_student, on_teacher)]
    ratio = totals[0].over(totals[1])
    shifted = Linearised(ratio.value - 1.0, ratio.psi, ratio.n, ratio.clusters)
    return estimate(shifted, confidence, (-1.0, np.inf))


def _running(curve: Linearised, widths: np.ndarray) -> Linearised:
    """Sums over stretches up to each end; unknown from the first stretch that has no tokens."""
    value = np.cumsum(np.where(np.isfinite(curve.value), curve.value, np.nan) * widths)
    psi = np.cumsum(np.nan_to_num(curve.psi) * widths, axis=1)
    return Linearised(value, psi, np.minimum.accumulate(curve.n), curve.clusters)
