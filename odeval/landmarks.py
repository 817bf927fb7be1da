"""Where a paired pass@k curve turns: first loss, crossover, and what a number of samples is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from odeval.curves import Counts, PairedCurve
from odeval.metrics.passk import pass_at_k


def first_loss(curve: PairedCurve, scope: str, confidence: float) -> tuple[int | None, int | None]:
    """Confidence set of the first k at which the candidate is worse.

    Returns:
        (earliest, latest): no smaller k than `earliest` can be the first loss, since the simultaneous band excludes
        a loss before it, and by `latest` a loss is established. None: no loss is possible; none is established.

    Source:
        Ours, from the simultaneous band; the same question as "certify" of passk-inference (arXiv 2609.22547).
    """
    low, high = curve.band(scope, confidence)
    possible = np.flatnonzero(low < 0)
    established = np.flatnonzero(high < 0)
    return (
        int(curve.ks[possible[0]]) if len(possible) else None,
        int(curve.ks[established[0]]) if len(established) else None,
    )


def crossover(curve: PairedCurve) -> float | None:
    """Return the k, interpolated on a log scale, at which an early gain turns into a loss; None if it never does."""
    difference, ks = curve.difference, np.log2(curve.ks)
    for j in range(1, len(ks)):
        if difference[j - 1] > 0 > difference[j]:
            share = difference[j - 1] / (difference[j - 1] - difference[j])
            return float(2 ** (ks[j - 1] + share * (ks[j] - ks[j - 1])))
    return None


def effective_samples(baseline: Counts, candidate: Counts, ks: Sequence[int]) -> dict[str, float | None]:
    """How many of the baseline's samples buy what the candidate's largest k buys.

    Args:
        baseline: Counts of the reference, usually the teacher.
        candidate: Counts, same prompts.
        ks: A fine grid; its last entry is the candidate's k.

    Returns:
        "k", the candidate's; "value", the smallest (log-interpolated) k of the baseline that reaches the candidate's
        pass@k, None where even its largest does not.
    """
    values = [pass_at_k(run.n, run.c, ks) for run in (baseline, candidate)]
    both = np.isfinite(values[0]).all(1) & np.isfinite(values[1]).all(1)
    if not both.any():
        return {"k": float(ks[-1]), "value": None}
    curve, reached = values[0][both].mean(0), float(values[1][both].mean(0)[-1])
    grid = np.log2(np.asarray(ks, dtype=float))
    if curve[-1] < reached:
        return {"k": float(ks[-1]), "value": None}
    j = int(np.argmax(curve >= reached))
    if j == 0:
        return {"k": float(ks[-1]), "value": float(ks[0])}
    share = (reached - curve[j - 1]) / (curve[j] - curve[j - 1])
    return {"k": float(ks[-1]), "value": float(2 ** (grid[j - 1] + share * (grid[j] - grid[j - 1])))}
