"""What guessing would score: small models reach a high pass@16 by luck, so every curve is drawn over this floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from odeval.measure import Measured
from odeval.pairing import plain
from odeval.trust import Trust

QUESTION = "what would guessing from the task's answer space score?"
CHECK = "Better than guessing"
METHOD = "1 - (1 - p)^k, p the chance that one guess is right, averaged over prompts"


def chance_floor(chances: Sequence[float] | np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Share of prompts that k independent guesses solve.

        floor(k) = mean over prompts of 1 − (1 − p_i)^k,    p_i = Σ over right answers a of P(a guess is a)

    The task states p_i: its right answers over its answer space where guesses are uniform. Guesses are independent, as
    samples are, so the floor and pass@k answer the same question about two solvers.

    Args:
        chances: [P] p_i in [0, 1]; NaN where the task does not state it.
        ks: [K], each >= 1.

    Returns:
        [K] in [0, 1], not falling with k; all NaN where any p_i is unknown or there is no prompt, because a mean over
        some of the prompts would be compared with a curve over all.

    Source:
        Ours; pass@k of a solver with known solve rates, Chen et al. 2021 (https://arxiv.org/abs/2107.03374), section 2.

    Example:
        >>> chance_floor([0.5, 0.25], [1, 2]).tolist()
        [0.375, 0.59375]
    """
    p = np.asarray(chances, dtype=np.float64)
    if not len(p):
        return np.full(len(ks), np.nan)
    with np.errstate(divide="ignore"):
        found: np.ndarray = -np.expm1(np.log1p(-p)[:, None] * np.asarray(ks, dtype=np.float64)).mean(0)
    return found


def chance_of(runs: Sequence[Measured], ks: Sequence[int]) -> dict[str, Any] | None:
    """The floor as it stands in the comparison: k and value beside each other; None where it is not known.

    Args:
        runs: Of the same prompts; what one of them states holds for all.
        ks: The comparison's grid.
    """
    stated = runs[0].prompts.chances
    for run in runs[1:]:
        stated = np.where(np.isnan(stated), run.prompts.chances, stated)
    floor = chance_floor(stated, ks)
    if not np.isfinite(floor).all():
        return None
    return {"question": QUESTION, "method": METHOD, "k": list(ks), "value": plain(floor)}


def check_chance(found: dict[str, Any] | None, runs: Sequence[dict[str, Any]]) -> list[Trust]:
    """Say of each run where it does no better than guessing: where its interval does not lie above the floor.

    Args:
        found: From `chance_of`.
        runs: Those of the comparison, with label and pass_at_k.

    Returns:
        One line, or none where the floor is not known.
    """
    if found is None:
        return []
    told = []
    for run in runs:
        curve = run["pass_at_k"]
        rows = zip(found["k"], found["value"], curve["value"], curve["low"], strict=True)
        # An interval that cannot be given says nothing for the run.
        under = [(k, f, v) for k, f, v, low in rows if v is not None and not (low is not None and low > f)]
        if under:
            ks = ", ".join(str(k) for k, _, _ in under)
            k, floor, value = under[-1]
            told.append(
                f"{run['label']} is not clearly above chance at k = {ks}: pass@{k} {value:.3f}, chance {floor:.3f}"
            )
    if told:
        return [Trust(CHECK, "warn", "; ".join(told))]
    k, floor = found["k"][-1], found["value"][-1]
    return [
        Trust(CHECK, "ok", f"every run, at every k; chance alone is {found['value'][0]:.3f} at 1, {floor:.3f} at {k}")
    ]
