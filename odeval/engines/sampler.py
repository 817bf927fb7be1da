"""One token per row: temperature, then top-k, then top-p, then the inverse of the distribution function.

Letters: R rows (completions in flight), V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch

from odeval.divergence import entropy_of

_STEP, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_TILE = 2**17  # probabilities that are multiplied at a time, out of a core's cache
_ROUNDING = 1e-12  # 0.4 + 0.3 must reach a top_p of 0.7, which binary fractions do not quite do


def uniforms(seeds: np.ndarray, position: int) -> np.ndarray:
    """Return one uniform number per completion, a function of its own seed and the position alone.

    So a completion's random numbers do not depend on what else is in the batch, and need no state.

    Args:
        seeds: [R] uint64; hashes, see `odeval.sampling.completion_seed`.
        position: Of the token in its completion, from 0.

    Returns:
        [R] float64 in [0, 1), multiples of 2⁻⁵³.

    Source:
        SplitMix64: Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators.

    Example:
        >>> uniforms(np.array([7, 7, 8], dtype=np.uint64), position=0).round(4).tolist()
        [0.3898, 0.3898, 0.6185]
    """
    z = seeds + _STEP * np.full(1, position + 1, dtype=np.uint64)  # arrays wrap around silently, scalars warn
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return np.asarray(((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53)


def entropies(log_probs: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row, nats [R].

    Args:
        log_probs: [R, V] float64, normalised at temperature 1.
    """
    rows = max(1, _TILE // log_probs.shape[-1])
    return torch.cat([entropy_of(tile.exp(), tile) for tile in torch.split(log_probs, rows)])


def truncated(probs: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """Set to zero what top-k and then top-p cut away. Not renormalised.

    Ties are broken by the smaller token id, so exactly k tokens stay, and top-p keeps the smallest prefix of the
    sorted tokens whose mass, as a share of what top-k left, reaches top_p.

    Args:
        probs: [R, V] float64, rows sum to 1.
        top_p: In (0, 1]; 1 keeps all.
        top_k: >= 0; 0 keeps all.

    Returns:
        [R, V] float64.

    Example:
        >>> truncated(torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64), top_p=0.7, top_k=0).tolist()
        [[0.4, 0.3, 0.0, 0.0]]
    """
    keep_all_k = top_k == 0 or top_k >= probs.shape[-1]
    if keep_all_k and top_p >= 1:
        return probs
    ordered, order = torch.sort(probs, dim=-1, descending=True, stable=True)
    if not keep_all_k:
        ordered, order = ordered[:, :top_k], order[:, :top_k]
    if top_p < 1:
        before = torch.cumsum(ordered, -1) - ordered
        # The likeliest token has nothing before it, and stays however small top_p is.
        cut = (before > 0) & (before >= top_p * ordered.sum(-1, keepdim=True) - _ROUNDING)
        ordered = ordered.masked_fill(cut, 0.0)
    return torch.zeros_like(probs).scatter(-1, order, ordered)


def draw(log_probs: torch.Tensor, uniforms: np.ndarray, temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    """Draw one token per row, exactly from softmax(log_probs / temperature) after top-k and top-p.

    Args:
        log_probs: [R, V] float64, normalised at temperature 1.
        uniforms: [R] in [0, 1), one per row.
        temperature: >= 0; 0 takes the likeliest token.
        top_p: See `truncated`.
        top_k: See `truncated`.

    Returns:
        [R] int64; V − 1 for a row that is not finite.
    """
    if temperature == 0:
        return log_probs.argmax(-1)
    if temperature == 1:
        probs = log_probs.exp()
    else:  # the largest becomes 0 first, or a temperature near 0 would divide −x to −inf everywhere
        probs = torch.softmax((log_probs - log_probs.amax(-1, keepdim=True)) / temperature, dim=-1)
    cumulative = torch.cumsum(truncated(probs, top_p, top_k), -1)
    # A uniform is at most 1 − 2⁻⁵³, so the product rounds to less than the total, and some token lies above it.
    target = torch.from_numpy(uniforms).to(cumulative.device) * cumulative[:, -1]
    chosen = torch.searchsorted(cumulative, target.unsqueeze(-1), right=True).squeeze(-1)
    return chosen.clamp_max(log_probs.shape[-1] - 1)
