"""odeval's own answers to the same cases."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from typing import Any

import numpy as np
import torch
from agreement_fixtures import SAMPLES
from agreement_truth import Answer

from odeval.curves import Counts, PairedCurve, paired_curve
from odeval.divergence import jsd
from odeval.metrics.ngrams import Texts, take_apart
from odeval.metrics.passk import pass_at_k
from odeval.metrics.reliability import g_pass_at_k, pass_hat_k
from odeval.metrics.textdiversity import ead, self_bleu, vendi


def known(value: Any) -> float | None:
    return None if isnan(value) else float(value)


def of_count(metric: Callable[..., np.ndarray]) -> Callable[..., Answer]:
    return lambda n, c, k, *tau: known(metric(np.array([n]), np.array([c]), [k], *map(float, tau))[0, 0])


def uneven(prompts: list[list[int]], k: int) -> Answer:
    n, c = np.array(prompts).T
    return known(pass_at_k(n, c, [k]).mean())


def apart(group: list[list[int]]) -> Texts:
    return take_apart([np.array(text, dtype=np.int64) for text in group])


def divergence(beta: float, kind: str, student: list[Any], teacher: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    s, t = (torch.tensor([float(x) for x in row], dtype=getattr(torch, kind)) for row in (student, teacher))
    s.requires_grad_()
    found = jsd(s, t, beta)
    torch.autograd.backward(found)
    assert s.grad is not None
    return found.detach(), s.grad


def ours(name: str) -> Callable[..., Answer]:
    """What answers a case of a quantity."""
    if name.startswith(("forward KL", "reverse KL", "JSD")):
        part = 1 if ", gradient" in name else 0
        return lambda *case: divergence(*case)[part].tolist()
    named: dict[str, Callable[..., Answer]] = {
        "pass@k, uneven n": uneven,
        "pass@k": of_count(pass_at_k),
        "pass^k": of_count(pass_hat_k),
        "G-Pass@k": of_count(g_pass_at_k),
        "self-BLEU": lambda group: self_bleu(apart(group)),
        "EAD": lambda distinct, total, size: float(ead(np.array([distinct]), np.array([total]), size)),
        "Vendi, order 1": lambda group: vendi(apart(group))[0],
        "Vendi, order 2": lambda group: vendi(apart(group))[1],
    }
    return next(function for start, function in named.items() if name.startswith(start))


def curve(c0: list[int], c1: list[int], ks: list[int]) -> PairedCurve:
    """The paired curve of two runs, as `odeval compare` makes it."""
    n = np.full(len(c0), SAMPLES)
    return paired_curve(Counts(n, np.array(c0)), Counts(n, np.array(c1)), ks)
