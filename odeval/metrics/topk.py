"""What top-K log-probabilities still prove: rigorous bounds on entropies and divergences. Never renormalised.

Servers return the K likeliest tokens. What lies in the tail is unknown but not arbitrary: its mass is r = 1 − Σ p,
none of its tokens is likelier than the smallest kept one p_K, and there are at most V − K of them. Letters: N
positions, K kept tokens, V vocabulary; all results in nats. A backend that has no more writes the bounds as
BOUND_COLUMNS of tokens/ instead of values; comparisons then give bounds, labelled as such.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from odeval.errors import OdevalError


class Bounds(NamedTuple):
    """What a quantity at N positions is at least and at most, and the mass the bounds rest on."""

    low: np.ndarray
    high: np.ndarray
    mass: np.ndarray


def entropy_bounds(logprobs: np.ndarray, vocab_size: int) -> Bounds:
    """Bound the entropy of a distribution of which only the top K log-probabilities are known.

        low  = h − m p_K log p_K − ρ log ρ,    m = ⌊r / p_K⌋, ρ = r − m p_K     (the tail as peaked as it may be)
        high = h + r log((V − K) / r)                                            (the tail uniform)

    with h = −Σ_kept p log p.

    Args:
        logprobs: [N, K] of the kept tokens, in any order; −inf or NaN pads a row that kept fewer.
        vocab_size: V.

    Returns:
        Bounds with 0 <= low <= high <= log V.

    Raises:
        OdevalError: More tokens are kept than there are, or the kept mass exceeds 1 by more than rounding.

    Source:
        Ours; concavity of the entropy.

    Example:
        >>> found = entropy_bounds(np.log([[0.5, 0.3]]), vocab_size=10)
        >>> [round(float(x), 3) for x in (found.low[0], found.high[0])]
        [1.03, 1.446]
    """
    kept = np.isfinite(logprobs)
    count = kept.sum(1)
    if (count > vocab_size).any():
        raise OdevalError(
            f"{int(count.max())} log-probabilities of a vocabulary of {vocab_size}: the two do not belong together"
        )
    p = np.where(kept, np.exp(np.where(kept, logprobs, 0.0)), 0.0)
    mass = p.sum(1)
    if (mass > 1 + 1e-3).any():
        raise OdevalError(
            f"top-K probabilities sum to {mass.max():.4f}: they are not log-probabilities of one distribution"
        )
    tail = np.where(count == vocab_size, 0.0, np.clip(1 - mass, 0.0, 1.0))
    h = -_xlogx(p).sum(1)
    smallest = np.where(kept, p, np.inf).min(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = np.where(tail > 0, np.floor(tail / smallest), 0.0)
        rest = np.where(tail > 0, tail - whole * smallest, 0.0)
        spread = np.where(tail > 0, tail * np.log(np.maximum(vocab_size - count, 1) / tail), 0.0)
    low = h - whole * _xlogx(smallest) - _xlogx(np.clip(rest, 0.0, 1.0))
    high = np.maximum(h + spread, low)  # equal but for rounding where the tail has only one way to be
    return Bounds(np.maximum(low, 0.0), high, mass)


def tail_bucket_kl(p_logprobs: np.ndarray, q_logprobs: np.ndarray) -> Bounds:
    """Bound KL(p‖q) from below by the tokens whose probability is known under both, and one bucket for all others.

        Σ_S p log(p / q) + P_T log(P_T / Q_T),   P_T = 1 − Σ_S p,  Q_T = 1 − Σ_S q

    Merging tokens can only lower a divergence, so this is a lower bound; there is no upper one.

    Args:
        p_logprobs: [N, K] of a common support S, −inf or NaN where a token is not known under either.
        q_logprobs: [N, K] of the same tokens.

    Returns:
        Bounds with high = inf wherever a tail exists; mass is p's on S.

    Source:
        Log-sum inequality; the exact gap is P_T · KL(p_tail‖q_tail).
    """
    both = np.isfinite(p_logprobs) & np.isfinite(q_logprobs)
    p, q = (np.where(both, np.exp(np.where(both, x, 0.0)), 0.0) for x in (p_logprobs, q_logprobs))
    mass = p.sum(1)
    p_tail, q_tail = (np.clip(1 - x.sum(1), 0.0, 1.0) for x in (p, q))
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(both, p * (np.where(both, p_logprobs, 0.0) - np.where(both, q_logprobs, 0.0)), 0.0).sum(1)
        tail = np.where(p_tail > 1e-9, p_tail * np.log(p_tail / np.maximum(q_tail, 1e-12)), 0.0)
    low = np.maximum(inside + tail, 0.0)
    return Bounds(low, np.where(p_tail > 1e-6, np.inf, low), mass)


def undecidable(bounds: Bounds, threshold: float) -> np.ndarray:
    """Tell where a threshold lies inside the bounds, [N] bool: neither above nor below can be claimed there."""
    found: np.ndarray = (bounds.low < threshold) & (bounds.high >= threshold)
    return found


def _xlogx(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = np.where(p > 0, p * np.log(p), 0.0)
    return found
