"""Tests of random draws: do they follow a distribution, and are neighbours independent? Letters: V values, N draws."""

from __future__ import annotations

import numpy as np
from scipy import special

_LEAST_EXPECTED = 5.0  # per cell; rarer values are pooled
_SHUFFLES = 200


def chi_square(counts: np.ndarray, expected: np.ndarray) -> tuple[float, int, float] | None:
    """Pearson's chi-square, the cells that are expected less than 5 times pooled into one.

    Args:
        counts: [V] observed.
        expected: [V], of the same sum.

    Returns:
        Statistic, degrees of freedom and p value; None where fewer than two cells are left.

    Source:
        Pearson 1900; the rule of 5 is Cochran's, 1952.

    Example:
        >>> statistic, degrees, p = chi_square(np.array([44, 56]), np.array([50.0, 50.0]))
        >>> round(statistic, 2), degrees, round(p, 2)
        (1.44, 1, 0.23)
    """
    large = expected >= _LEAST_EXPECTED
    seen, wanted = ([*values[large], values[~large].sum()] for values in (counts, expected))
    if wanted[-1] < _LEAST_EXPECTED:  # what is left over joins the smallest cell
        if len(wanted) < 3:
            return None
        smallest = int(np.argmin(wanted[:-1]))
        for cells in (seen, wanted):
            cells[smallest] += cells.pop()
    statistic = float(sum((s - w) ** 2 / w for s, w in zip(seen, wanted, strict=True)))
    return statistic, len(wanted) - 1, float(special.chdtrc(len(wanted) - 1, statistic))


def neighbour_agreement(values: np.ndarray) -> tuple[float, float, float]:
    """Compare how often neighbours in a series are equal with how often they are when it is shuffled.

    Args:
        values: [N] whole numbers.

    Returns:
        The share of equal neighbours, its mean over shuffles, and their difference in standard deviations.

    Source:
        A permutation test, Fisher 1935; the statistic is ours.

    Example:
        >>> share, chance, z = neighbour_agreement(np.repeat(np.arange(50), 2))
        >>> round(share, 2), chance < 0.02, z > 10
        (0.51, True, True)
    """
    rng = np.random.default_rng(0)
    chance = [_equal_share(rng.permutation(values)) for _ in range(_SHUFFLES)]
    share, mean = _equal_share(values), float(np.mean(chance))
    return share, mean, float((share - mean) / max(float(np.std(chance)), 1e-9))


def copies(answers: np.ndarray, logprobs: np.ndarray) -> float:
    """Test whether answers to a prompt equal each other more often than independent draws would.

    Given one answer y, an independent other equals it with probability p(y). Seeds are paired in S − 1 rounds, every
    seed once a round, so that a round's pairs are independent; its count of equal pairs is Poisson-binomial.

    Args:
        answers: [P, S] whole numbers, equal for equal answers; S a power of two.
        logprobs: [P, S] of whole answers.

    Returns:
        p value, Bonferroni over rounds; small when there are copies.

    Source:
        Ours; the tail is bounded by the binomial's of the mean probability (Hoeffding 1956).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> fair = rng.integers(0, 9, (50, 8))
        >>> chance = np.full((50, 8), np.log(1 / 9))
        >>> copies(fair, chance) > 0.01, copies(np.tile(fair[:, :4], 2), chance) < 1e-12
        (True, True)
    """
    prompts, seeds = answers.shape
    least = 1.0
    for shift in range(1, seeds):
        first = np.array([s for s in range(seeds) if s < s ^ shift])
        equal = int((answers[:, first] == answers[:, first ^ shift]).sum())
        chance = float(np.exp(logprobs[:, first]).mean())
        least = min(least, float(special.bdtrc(equal - 1, prompts * len(first), min(chance, 1.0))))
    bound: float = min(1.0, least * (seeds - 1))
    return bound


def _equal_share(values: np.ndarray) -> float:
    return float((values[1:] == values[:-1]).mean())
