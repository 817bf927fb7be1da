"""What each candidate gained at one sample and lost at many: a joint region for the two ends of the judged curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from odeval.curves import Scope

_SCOPES = ("population", "benchmark")


def tradeoff(runs: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """Bound the difference at the smallest and the largest judged k together, for all candidates at once.

    The region of a candidate is a box. Its critical value is that of the joint distribution of its two differences, at
    level 1 − (1 − confidence) / candidates, so that all boxes hold their truth together with the confidence asked for
    (Bonferroni over candidates).

    Args:
        runs: Of the comparison.
        pairs: Of the comparison.
        confidence: That every box holds its truth.

    Returns:
        The boxes as `points`, one a pair with two or more judged k; and as `anchors` where the other reference lies.

    Example:
        >>> tradeoff([], [], 0.95)["points"]
        []
    """
    candidates = sum(run["role"] == "candidate" for run in runs)
    level = 1 - (1 - confidence) / max(candidates, 1)
    points = [point for pair in pairs if (point := _point(pair, level)) is not None]
    return {
        "confidence": confidence,
        "candidates": candidates,
        "method": "joint over both differences (sup-t), Bonferroni over candidates",
        "points": points,
        "anchors": _anchors(runs, points),
    }


def _point(pair: dict[str, Any], level: float) -> dict[str, Any] | None:
    curve = pair["pass_at_k"]
    judged = curve["population"]["judged"]["k"]
    if len(judged) < 2:
        return None
    ks = [judged[0], judged[-1]]
    value = np.array([curve["difference"][curve["k"].index(k)] for k in ks], dtype=float)
    boxes = {}
    for scope in _SCOPES:
        found = curve[scope]["judged"]
        whole = Scope(*(np.array(found[key], dtype=float) for key in ("covariance", "degrees", "trials", "scale")))
        half = whole.at([0, len(judged) - 1]).half_width(level)
        boxes[scope] = {"low": _plain(np.maximum(value - half, -1)), "high": _plain(np.minimum(value + half, 1))}
    names = {key: pair[key] for key in ("role", "baseline", "candidate")}
    return {**names, "k": ks, "difference": _plain(value), **boxes}


def _anchors(runs: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The teacher as seen from the baseline: a point without a box, which candidates are on their way to."""
    curves = {run["role"]: run for run in runs}
    if not {"teacher", "baseline"} <= set(curves) or not points:
        return []
    own, other = (curves[role]["pass_at_k"] for role in ("teacher", "baseline"))
    ends = [own["k"].index(k) for k in points[0]["k"]]
    both = [(own["value"][j], other["value"][j]) for j in ends]
    change = [None if a is None or b is None else a - b for a, b in both]
    return [{"label": curves["teacher"]["label"], "against": curves["baseline"]["label"], "difference": change}]


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
