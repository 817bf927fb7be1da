"""Which prompts changed: solved-set overlap, and per-prompt exact tests under a false discovery rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from odeval.curves import Counts
from odeval.metrics.hypergeometric import log_choose


@dataclass(frozen=True, eq=False)
class Overlap:
    """Prompts by who solves them at least once, and those that changed beyond chance.

    Attributes:
        both, baseline_only, candidate_only, neither: Counts of prompts.
        lost: [P] bool, solve rate lower beyond chance.
        gained: [P] bool, higher beyond chance.
        p_lost: [P] one-sided p values of a lower rate, before adjustment.
    """

    both: int
    baseline_only: int
    candidate_only: int
    neither: int
    lost: np.ndarray
    gained: np.ndarray
    p_lost: np.ndarray


def overlap(baseline: Counts, candidate: Counts, rate: float = 0.05) -> Overlap:
    """Compare solved sets, and test every prompt.

    Args:
        baseline: Counts of the reference.
        candidate: Counts of the run under audit, same prompts.
        rate: False discovery rate within the lost, and within the gained.

    Returns:
        See Overlap. A prompt never solved in a few samples may still be solvable: hence the tests. A prompt that
        one of the runs has no graded completion of is in none of the four sets.

    Source:
        Fisher's exact test per prompt; Benjamini and Hochberg 1995 over prompts.
    """
    asked = (baseline.n > 0) & (candidate.n > 0)
    old, new = (baseline.c > 0)[asked], (candidate.c > 0)[asked]
    p_lost = fisher_less(baseline, candidate)
    p_gained = fisher_less(candidate, baseline)
    return Overlap(
        int((old & new).sum()),
        int((old & ~new).sum()),
        int((~old & new).sum()),
        int((~old & ~new).sum()),
        benjamini_hochberg(p_lost, rate),
        benjamini_hochberg(p_gained, rate),
        p_lost,
    )


def fisher_less(baseline: Counts, candidate: Counts) -> np.ndarray:
    """One-sided exact p values, [P], that the candidate's solve rate is not lower; 1 where either run is empty.

    P(C <= c_C),   C ~ hypergeometric: the n_C completions' share of the c_B + c_C correct ones
    """
    right, total = baseline.c + candidate.c, baseline.n + candidate.n
    c = np.arange(int(candidate.c.max(initial=0)) + 1)[None, :]
    # log C(right, c) + log C(total − right, n_C − c) − log C(total, n_C), −inf outside the support
    with np.errstate(invalid="ignore"):
        log_mass = (
            log_choose(right[:, None], c)
            + log_choose((total - right)[:, None], candidate.n[:, None] - c)
            - log_choose(total, candidate.n)[:, None]
        )
    mass = np.where(c <= candidate.c[:, None], np.exp(log_mass), 0.0)
    empty = (baseline.n == 0) | (candidate.n == 0)
    return np.where(empty, 1.0, np.minimum(mass.sum(1), 1.0))


def benjamini_hochberg(p_values: np.ndarray, rate: float, times: np.ndarray | None = None) -> np.ndarray:
    """Mark the discoveries, [P] bool, at a false discovery rate; each p value stands for so many times.

    Example:
        >>> benjamini_hochberg(np.array([0.001, 0.02, 0.04, 0.9]), 0.05).tolist()
        [True, True, False, False]
    """
    count = len(p_values)
    if not count:
        return np.zeros(0, dtype=bool)
    order = np.argsort(p_values, kind="stable")
    rank = np.arange(1, count + 1) if times is None else np.cumsum(times[order])
    passing = np.flatnonzero(p_values[order] <= rate * rank / rank[-1])
    found = np.zeros(count, dtype=bool)
    if len(passing):
        found[order[: passing[-1] + 1]] = True
    return found
