"""The right answer to every case, written from the papers with fractions and 40 digits; nothing of odeval is used."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction
from math import ceil, comb
from typing import Any

from mpmath import mp, mpf

mp.dps = 40
Answer = float | list[float] | None  # None where nothing is defined


def pass_at_k(n: int, c: int, k: int) -> float | None:
    """Chen et al. 2021, eq. 1: the share of k-subsets that hold a right completion."""
    return None if n < k else float(1 - Fraction(comb(n - c, k), comb(n, k)))


def pass_hat_k(n: int, c: int, k: int) -> float | None:
    """Yao et al. 2024, section 5.1: the share of k-subsets that are right throughout."""
    return None if n < k else float(Fraction(comb(c, k), comb(n, k)))


def g_pass_at_k(n: int, c: int, k: int, tau: str) -> float | None:
    """Liu et al. 2024, eq. 3, with τ as the decimal it is written as."""
    least = max(1, ceil(Fraction(tau) * k))
    ways = sum(comb(c, j) * comb(n - c, k - j) for j in range(least, k + 1))
    return None if n < k else float(Fraction(ways, comb(n, k)))


def uneven(prompts: list[list[int]], k: int) -> float:
    values = [1 - Fraction(comb(n - c, k), comb(n, k)) for n, c in prompts]
    return float(sum(values) / len(values))


def grams(text: list[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def self_bleu(group: list[list[int]], nothing: Fraction = Fraction(1, 10)) -> float:
    """Papineni et al. 2002, every text against all others; `nothing` matches are counted where an order has none."""
    scores = [bleu(own, group[:i] + group[i + 1 :], nothing) for i, own in enumerate(group)]
    return float(sum(scores) / len(scores))


def bleu(own: list[int], others: list[list[int]], nothing: Fraction) -> Any:
    product = mpf(1)
    for n in (1, 2, 3, 4):
        mine = grams(own, n)
        matches = Fraction(sum(min(count, max(grams(one, n)[gram] for one in others)) for gram, count in mine.items()))
        if n == 1 and not matches:
            return mpf(0)
        share = (matches or nothing) / max(1, sum(mine.values()))
        product *= mpf(share.numerator) / share.denominator
    closest = min((abs(len(one) - len(own)), len(one)) for one in others)[1]
    brevity = mp.exp(min(mpf(0), 1 - mpf(closest) / len(own)))
    return brevity * mp.root(product, 4)


def ead(distinct: int, total: int, vocabulary: int) -> float:
    """Liu et al. 2022: distinct over V (1 − ((V − 1) / V)^C)."""
    return float(distinct / (vocabulary * (1 - (1 - mpf(1) / vocabulary) ** total)))


def kernel(group: list[list[int]], empty: Callable[[], Counter[Any]]) -> Any:
    """Mean over n = 1 … 4 of the cosines of n-gram counts; `empty` stands for a text shorter than n."""
    matrix = mp.zeros(len(group))
    for n in (1, 2, 3, 4):
        counts = [grams(text, n) or empty() for text in group]
        norms = [mp.sqrt(sum(v * v for v in count.values())) or mpf(1) for count in counts]
        for i, one in enumerate(counts):
            for j, two in enumerate(counts):
                matrix[i, j] += sum(v * two[gram] for gram, v in one.items()) / norms[i] / norms[j] / 4
    return matrix


def vendi(group: list[list[int]], order: int = 1, empty: Callable[[], Counter[Any]] = lambda: Counter(" ")) -> float:
    """Friedman and Dieng 2022, definition 3.1, over the eigenvalues of K / S."""
    values = [x / len(group) for x in mp.eigsy(kernel(group, empty), eigvals_only=True)]
    if order == 2:
        return float(1 / sum(x * x for x in values))
    return float(mp.exp(-sum(x * mp.log(x) for x in values if x > mpf(10) ** -30)))


def softmax(row: Iterable[float | str]) -> list[Any]:
    weights = [mp.exp(mpf(x)) for x in row]
    total = mp.fsum(weights)
    return [x / total for x in weights]


def kl(p: list[Any], q: list[Any]) -> Any:
    return mp.fsum(x * mp.log(x / y) for x, y in zip(p, q, strict=True) if x)


@functools.cache
def divergence(beta: float, student: tuple[float, ...], teacher: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
    """GKD's generalized JSD, eq. 1 of Agarwal et al. 2024, and its derivative by the student's logits."""
    q, p = softmax(student), softmax(teacher)
    if beta == 0:
        return float(kl(p, q)), tuple(float(y - x) for x, y in zip(p, q, strict=True))
    m = p if beta == 1 else [mpf(beta) * x + (1 - mpf(beta)) * y for x, y in zip(p, q, strict=True)]
    own, weight = kl(q, m), 1 if beta == 1 else 1 - mpf(beta)
    loss = own if beta == 1 else mpf(beta) * kl(p, m) + weight * own
    gradient = (float(weight * y * (mp.log(y / z) - own)) if y else 0.0 for y, z in zip(q, m, strict=True))
    return float(loss), tuple(gradient)


def loss(beta: float, kind: str, student: list[float], teacher: list[float]) -> float:
    return divergence(beta, tuple(student), tuple(teacher))[0]


def gradient(beta: float, kind: str, student: list[float], teacher: list[float]) -> list[float]:
    return list(divergence(beta, tuple(student), tuple(teacher))[1])


def truth(name: str) -> Callable[..., Answer]:
    """What answers a case of a quantity."""
    if name.startswith(("forward KL", "reverse KL", "JSD")):
        return gradient if ", gradient" in name else loss
    named: dict[str, Callable[..., Answer]] = {
        "pass@k, uneven n": uneven, "pass@k": pass_at_k, "pass^k": pass_hat_k, "G-Pass@k": g_pass_at_k,
        "self-BLEU": self_bleu, "EAD": ead,
        "Vendi, order 1": vendi, "Vendi, order 2": functools.partial(vendi, order=2),
    }  # fmt: skip
    return next(function for start, function in named.items() if name.startswith(start))
