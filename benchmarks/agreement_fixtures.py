"""The cases every package is asked about: counts, texts, logits and simulated runs, as plain JSON values.

Letters: n graded completions, c correct ones, k drawn, τ the share of the k that must be right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

BETAS = {"forward KL": (0.0,), "reverse KL": (1.0,), "JSD": (0.1, 0.5, 0.9)}
VOCAB = 50
KS = [1, 2, 4, 8, 16]
SAME_KS = [1, 4, 16]  # of the change on the same prompts
SAMPLES = 32
SHARPENED = 1.5  # what the second model does to the odds of the first
REPETITIONS = 1000
KINDS = ("float64", "float32", "float64, near", "float32, near", "float64, peaked", "float32, peaked", "float32, −inf")


@dataclass(frozen=True)
class Quantity:
    """What is asked.

    Attributes:
        cases: Arguments, one list a case.
        tolerance: Largest difference that is rounding.
        relative: Differences are over the largest value of the case, not absolute.
    """

    cases: list[Any]
    tolerance: float = 1e-12
    relative: bool = False


def quantities() -> dict[str, Quantity]:
    """All with exact answers, by name."""
    found = {
        "pass@k": Quantity(cells()),
        "pass@k, n < k": Quantity(UNDEFINED),
        "pass@k, uneven n": Quantity(UNEVEN),
        "pass^k": Quantity(cells(), 1e-13),
        "pass^k, n < k": Quantity(UNDEFINED),
        "G-Pass@k": Quantity(thresholds(), 1e-13),
        "G-Pass@k, τ·k whole": Quantity(WHOLE, 1e-13),
        "G-Pass@k, n < k": Quantity([[*cell, "0.5"] for cell in UNDEFINED]),
        "self-BLEU": Quantity([[group] for group in texts(60, 0)]),
        "EAD": Quantity([[*draws, vocabulary] for draws in distinct() for vocabulary in (16, 50_000, 151_936)]),
        "Vendi, order 1": Quantity([[group] for group in texts(12, 4)], 1e-9),
        "Vendi, order 1, short texts": Quantity([[group] for group in SHORT], 1e-9),
        "Vendi, order 1, no 4-gram": Quantity([[[[3], [3, 1], [1, 3, 3], [2]]]], 1e-9),
        "Vendi, order 2": Quantity([[group] for group in texts(12, 4)], 1e-9),
    }
    for name, betas in BETAS.items():
        for kind in KINDS:
            rows = logits(kind)
            cases = [[beta, kind.split(",")[0], *pair] for beta in betas for pair in rows]
            tolerance = {"float64": 1e-12, "float64, near": 1e-5, "float64, peaked": 1e-5}.get(kind, 1e-4)
            for part in ("loss", "gradient"):
                found[f"{name}, {part}, {kind}"] = Quantity(cases, tolerance, relative=True)
    return found


UNDEFINED = [[2, 0, 5], [3, 3, 4], [1, 0, 2]]
UNEVEN = [[[[10, 3], [5, 2]], 2], [[[16, 1], [8, 8], [4, 0]], 4], [[[4, 1], [16, 5]], 3]]
WHOLE = [
    [n, c, k, tau]
    for n, k, tau in ((40, 20, "0.55"), (50, 25, "0.28"), (200, 100, "0.07"), (20, 10, "0.3"), (60, 30, "0.1"))
    for c in range(0, n + 1, max(1, n // 10))
]
SHORT = [[[1, 2, 3, 4, 5], [1, 2], [1, 2, 3, 4]], [[7, 7, 7], [7, 7, 8], [9, 9, 9, 9]]]


def cells(seed: int = 0) -> list[list[int]]:
    """n, c, k: small and large, with every corner of small n."""
    generator = np.random.default_rng(seed)
    found = [[n, c, k] for n in (1, 2, 4, 7) for c in range(n + 1) for k in range(1, n + 1)]
    for _ in range(400):
        n = int(generator.choice([16, 64, 100, 256, 1000]))
        found.append([n, int(generator.integers(0, n + 1)), int(generator.integers(1, n + 1))])
    return [*found, [1000, 1, 1], [1000, 1, 1000], [1000, 999, 1]]


def thresholds(seed: int = 1) -> list[list[Any]]:
    """n, c, k and τ as a decimal, such that τ·k is not a whole number but for τ of 0, ½ and 1."""
    generator = np.random.default_rng(seed)
    taus = ["0", "0.21", "0.5", "0.77", "1"]
    found = []
    for n, c, k in cells(seed):
        tau = str(generator.choice(taus))
        if tau in ("0", "0.5", "1") or k % 100:
            found.append([n, c, k, tau])
    return found


def texts(groups: int, shortest: int, seed: int = 0) -> list[list[list[int]]]:
    """Groups of token ids, from near copies to noise, with copies among them."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(groups):
        kinds, longest = int(generator.choice([2, 4, 50])), int(generator.choice([5, 9, 25]))
        size = int(generator.integers(2, 8))
        group = [generator.integers(0, kinds, generator.integers(shortest, longest + 1)).tolist() for _ in range(size)]
        found.append([*group, list(group[0])] if generator.random() < 0.5 else group)
    return found


def distinct(seed: int = 2) -> list[list[int]]:
    """Distinct and all n-grams of one order."""
    total = np.random.default_rng(seed).integers(1, 200_000, 30)
    return [[int(one // 3 + 1), int(one)] for one in total]


def logits(kind: str, seed: int = 3) -> list[tuple[list[Any], list[Any]]]:
    """Rows of student and teacher, all exact in float32.

    near: the models' logits differ by 1e-4. peaked: one token has nearly all of either model's probability.
    −inf: the last token is impossible for both models; otherwise the first rows.
    """
    generator = np.random.default_rng(seed)
    near = "near" in kind
    rows = []
    for scale in (20.0,) if "peaked" in kind else (0.3, 1.0, 5.0):
        for _ in range(2):
            teacher = generator.normal(scale=scale, size=VOCAB)
            student = teacher + generator.normal(scale=1e-4 if near else scale / 2, size=VOCAB)
            parts = [part.astype(np.float32).astype(float).tolist() for part in (student, teacher)]
            if "−inf" in kind:
                parts = [[*part[:-1], "-inf"] for part in parts]
            rows.append((parts[0], parts[1]))
    return rows


def simulated(prompts: int, seed: int, rates: str = "from 0 to 1") -> tuple[list[int], list[int], np.ndarray]:
    """Counts of two models on the same prompts, and their true solve rates, [2, P].

    from 0 to 1: Beta(0.7, 1), and a sharpened student, so that many prompts are hardly ever or nearly always solved.
    uniform: both uniform and independent, which is exactly what a Bayesian with the prior Beta(1, 1) believes.
    """
    generator = np.random.default_rng([prompts, seed])
    if rates == "uniform":
        both = generator.random((2, prompts))
    else:
        own = generator.beta(0.7, 1.0, prompts)
        odds = (own / (1 - own)) ** SHARPENED
        both = np.stack([own, odds / (1 + odds)])
    counts = generator.binomial(SAMPLES, both)
    return counts[0].tolist(), counts[1].tolist(), both
