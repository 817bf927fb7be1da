"""Where things stand in comparison.json: the one place that figures and reports find them. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def run_of(comparison: dict[str, Any], label: str) -> dict[str, Any]:
    """The run of this name."""
    found: dict[str, Any] = next(run for run in comparison["runs"] if run["label"] == label)
    return found


def pair_of(comparison: dict[str, Any], candidate: str, *roles: str) -> dict[str, Any] | None:
    """A candidate's pair with the first of these roles that it was compared with."""
    own = {pair["role"]: pair for pair in comparison["pairs"] if pair["candidate"] == candidate}
    return next((own[role] for role in roles if role in own), None)


def reference_pairs(comparison: dict[str, Any], candidates: Sequence[str]) -> list[dict[str, Any]]:
    """Each candidate's pair with the reference: the baseline where there is one, else the teacher."""
    return [pair for name in candidates if (pair := pair_of(comparison, name, "baseline", "teacher"))]


def band_of(pair: dict[str, Any], scope: str) -> dict[str, Any]:
    """The simultaneous band of a pair's difference: low and high [K], and the question that it answers."""
    found: dict[str, Any] = pair["pass_at_k"][scope]
    return found


def judged_ks(pair: dict[str, Any], scope: str) -> list[int]:
    """The k at which a rule is judged, those up to n/2."""
    return list(band_of(pair, scope)["judged"]["k"])


def scope_of(verdict: dict[str, Any]) -> str:
    """What the rules on the curve were judged for."""
    return str(verdict.get("scope", "population"))
