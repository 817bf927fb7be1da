"""A ratio and its error from running sums: what `stats.linearise` finds, without keeping a row for every prompt.

    R = Σ N / Σ D,   Var R = G/(G−1) · Σ_g (N_g − R · D_g)² / (Σ D)²

Only Σ N, Σ D and three second moments stay, so memory does not grow with the prompts. They are taken of the residual
against the first block's own ratio, or the squares of a metric that hardly varies would drown in rounding.

Letters: J grid points of a curve, G groups (clusters of prompts, or the prompts themselves).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from odeval.types import PerPrompt


@dataclass(frozen=True, eq=False)
class Moments:
    """A curve with its error; `stats.estimate` turns it into intervals.

    Attributes:
        grid: [J].
        value: [J]; NaN where no prompt says anything.
        variance: [J] of the value, robust to clusters; NaN with fewer than two groups.
        n: [J] prompts that say something about each point.
        degrees: G − 1.
    """

    grid: tuple[float, ...]
    value: np.ndarray
    variance: np.ndarray
    n: np.ndarray
    degrees: int


class RunningRatio:
    """Adds up blocks of whole prompts.

    Args:
        prompts: How many the run asks; one that never comes says nothing and still counts as a group.
        groups: Prompt id → cluster 0 … G − 1; None when prompts are independent. Clusters are held until the end.

    Example:
        >>> import numpy as np
        >>> running = RunningRatio(prompts=4)
        >>> for start in (0, 2):
        ...     names, right = np.array(["a", "b", "c", "d"])[start : start + 2], np.array([1.0, 0.0, 1.0, 1.0])
        ...     running.add(PerPrompt(names, right[start : start + 2, None], np.ones((2, 1)), (1.0,)))
        >>> found = running.result()
        >>> found.value.tolist(), found.variance.tolist(), found.n.tolist()
        ([0.75], [0.0625], [4])
    """

    def __init__(self, prompts: int, groups: Mapping[str, int] | None = None) -> None:
        self._groups = groups
        self._count = prompts if groups is None else len(set(groups.values()))
        self._grid: tuple[float, ...] = ()

    def add(self, block: PerPrompt) -> None:
        """Take in a block; a prompt whose sums are not finite says nothing."""
        numerator, denominator = block.numerator.copy(), block.denominator.copy()
        unusable = ~np.isfinite(numerator) | ~np.isfinite(denominator)
        numerator[unusable] = denominator[unusable] = 0.0
        if not self._grid:
            self._start(block.grid, numerator.sum(0), denominator.sum(0))
        self._n += (denominator != 0).sum(0)
        if self._groups is None:
            self._square(numerator, denominator)
        else:
            place = [self._groups[name] for name in block.prompt_ids]
            np.add.at(self._held[0], place, numerator)
            np.add.at(self._held[1], place, denominator)

    def _start(self, grid: tuple[float, ...], numerator: np.ndarray, denominator: np.ndarray) -> None:
        self._grid, width = grid, len(grid)
        self._near = np.divide(numerator, denominator, out=np.zeros(width), where=denominator != 0)
        self._n = np.zeros(width, dtype=np.int64)
        self._sums = np.zeros((5, width))  # Σ e, Σ D, Σ e², Σ e D, Σ D² with e = N − near · D
        self._held = np.zeros((2, 0 if self._groups is None else self._count, width))

    def _square(self, numerator: np.ndarray, denominator: np.ndarray) -> None:
        rest = numerator - self._near * denominator
        products = (rest, denominator, rest * rest, rest * denominator, denominator * denominator)
        self._sums += np.stack([product.sum(0) for product in products])

    def result(self) -> Moments:
        """The ratio over everything added; nothing may be added afterwards."""
        if self._groups is not None:
            self._square(*self._held)
        rest, total, squares, mixed, weights = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            shift = rest / total
            spread = np.maximum(squares - 2 * shift * mixed + shift**2 * weights, 0.0) / total**2
            factor = self._count / (self._count - 1) if self._count > 1 else np.nan
        value = np.where(total != 0, self._near + shift, np.nan)
        return Moments(self._grid, value, factor * spread, self._n, self._count - 1)
