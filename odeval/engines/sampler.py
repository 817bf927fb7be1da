"""One token per row from logits: temperature, then top-k, then top-p, then the inverse of the distribution function.

Letters: R rows (completions in flight), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

_BLOCK = 64  # uniforms drawn ahead per completion


class Streams:
    """One independent stream of uniform numbers per completion, so that a batch's make-up changes nothing.

    Args:
        seeds: One 64-bit seed per completion.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [np.random.Generator(np.random.Philox(key=int(seed))) for seed in seeds]
        self._block = np.empty((len(seeds), 0))
        self._start = 0

    def at(self, position: int) -> np.ndarray:
        """Return the uniforms of one position, [rows] in [0, 1). Positions are asked for in order."""
        if position - self._start >= self._block.shape[1]:
            self._start = position
            self._block = np.stack([generator.random(_BLOCK) for generator in self._generators])
        return self._block[:, position - self._start]

    def keep(self, rows: np.ndarray) -> None:
        """Drop all rows but these."""
        self._generators = [self._generators[row] for row in rows]
        self._block = self._block[rows]


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
        ordered = ordered[:, :top_k]
        order = order[:, :top_k]
    if top_p < 1:
        before = torch.cumsum(ordered, -1) - ordered
        # 1e-12: 0.4 + 0.3 must reach a top_p of 0.7, which binary fractions do not quite do
        ordered = ordered.masked_fill(before >= top_p * ordered.sum(-1, keepdim=True) - 1e-12, 0.0)
    return torch.zeros_like(probs).scatter(-1, order, ordered)


def draw(
    logits: torch.Tensor, uniforms: np.ndarray, temperature: float, top_p: float, top_k: int
) -> torch.Tensor:
    """Draw one token per row, exactly from softmax(logits / temperature) after top-k and top-p.

    Args:
        logits: [R, V].
        uniforms: [R] in [0, 1), one per row.
        temperature: >= 0; 0 takes the likeliest token.
        top_p: See `truncated`.
        top_k: See `truncated`.

    Returns:
        [R] int64.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs = truncated(torch.softmax(logits.double() / temperature, dim=-1), top_p, top_k)
    cumulative = torch.cumsum(probs, -1)
    total = cumulative[:, -1]
    target = torch.from_numpy(uniforms).to(cumulative.device) * total
    # Rounding may lift the target to the total itself, beyond which no token lies.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target.unsqueeze(-1), right=True).squeeze(-1)
