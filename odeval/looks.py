"""Spend an error rate over several looks at a growing run, so that clear cases stop early and flakes stay rare.

FAIL spends by O'Brien and Fleming, hardly anything early; PASS spends by Pocock, evenly. Each look is judged at its own
increment, so the sum over looks bounds the total error whatever their dependence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from scipy import stats as distributions

from odeval.bounds import Levels
from odeval.errors import OdevalError


def spending(alpha: float, looks: Sequence[int]) -> list[Levels]:
    """Return the levels of each look.

        FAIL: 2 − 2 Φ(z_(α/2) / √t),   PASS: α log(1 + (e − 1) t),   t = samples so far / samples at the end

    Args:
        alpha: One-sided, in total.
        looks: Increasing numbers of samples per prompt; the last is the whole run.

    Returns:
        One pair of increments a look; each sums to at most alpha.

    Raises:
        OdevalError: The looks are not increasing.

    Source:
        Lan and DeMets 1983, spending functions of O'Brien-Fleming and Pocock type.

    Example:
        >>> [round(level.fail, 4) for level in spending(0.05, [16, 32, 64])]
        [0.0001, 0.0055, 0.0444]
    """
    if any(b <= a for a, b in pairwise(looks)) or not looks or looks[0] < 2:
        raise OdevalError(f"looks {', '.join(map(str, looks))}: must increase, from at least 2 samples")
    z = distributions.norm.isf(alpha / 2)
    shares = [look / looks[-1] for look in looks]
    fail = [2 * float(distributions.norm.sf(z / math.sqrt(t))) for t in shares]
    hold = [alpha * math.log(1 + (math.e - 1) * t) for t in shares]
    return [
        Levels(fail[i] - (fail[i - 1] if i else 0.0), hold[i] - (hold[i - 1] if i else 0.0)) for i in range(len(looks))
    ]
