"""What of the teacher's repertoire does the student still produce? Counts of completions by class, and nothing else.

Classes are any partition of a prompt's completions: by canonical answer (in the built-in worlds the whole solution), or
token by token. Two runs must be sampled independently: a run trivially covers its own samples.

Letters: P prompts, M rows, a row being one class of one prompt, K values of k; n completions of a prompt from which k
are drawn (its pool), n_c of them in class c, f_k(n, n_c) = C(n − n_c, k) / C(n, k) the chance that k of them miss c.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from odeval.metrics.classes import ClassCounts
from odeval.metrics.hypergeometric import chance
from odeval.metrics.passk import pass_at_k
from odeval.stats import rare
from odeval.types import PerPrompt

_NAME = 500  # characters of a class's name that a listing carries


def recall_at_k(reference: ClassCounts, candidate: ClassCounts, ks: Sequence[int]) -> PerPrompt:
    """Estimate how much of the reference's output the candidate still reaches, without bias.

        P(a fresh output of the reference is matched by one of k draws from the candidate)
            = Σ_c n_c^R / n^R · [1 − f_k(n^C, n_c^C)]   /   Σ_c n_c^R / n^R

    Numerator and denominator are each unbiased. Their ratio over all prompts gives a prompt the weight of the
    reference's success rate on it, and a prompt that it never solved no weight. With the arguments exchanged it is
    grounding: how much of the candidate's output the reference would produce as well.

    Args:
        reference: Whose outputs are to be found again.
        candidate: Who draws; counted together with the reference.
        ks: [K] draws, each >= 1.

    Returns:
        [P, K], in [0, 1]; NaN where the candidate has fewer than k completions or the reference none; the denominator
        is 0 where the reference has no output of the wanted kind.

    Source:
        Ours; a two-sample U-statistic.

    Example:
        >>> import pandas as pd
        >>> from odeval.metrics.classes import class_counts
        >>> run = lambda answers: pd.DataFrame({"prompt_id": "p", "correct": 1.0, "answer": list(answers)})
        >>> recall_at_k(*class_counts(run("aaab"), run("accc")), [1, 2]).numerator.round(4).tolist()
        [[0.1875, 0.375]]
    """
    weight, share = _weights(reference)
    return _curve(reference, _reached(candidate, candidate.n, candidate.count, weight, ks), share, ks)


def self_coverage_at_k(reference: ClassCounts, ks: Sequence[int]) -> PerPrompt:
    """Estimate how much of its own output a run reaches with k further draws: the ceiling of `recall_at_k`.

        Σ_c n_c / n · [1 − f_k(n − 1, n_c − 1)]   /   Σ_c n_c / n

    One completion is left out and looked for among the others, so that an independent run of the same model has this
    recall in expectation.

    Args:
        reference: The run.
        ks: [K] draws, each >= 1.

    Returns:
        [P, K], in [0, 1]; NaN where n − 1 < k; the denominator is 0 where the run has no output of the wanted kind.

    Source:
        Ours; leave-one-out.
    """
    weight, share = _weights(reference)
    others = np.maximum(reference.n - 1, 0)
    return _curve(reference, _reached(reference, others, np.maximum(reference.count - 1, 0), weight, ks), share, ks)


def coverage_gap_at_k(reference: ClassCounts, candidate: ClassCounts, ks: Sequence[int]) -> PerPrompt:
    """Estimate what the candidate misses of the reference's output and the reference itself would not, without bias.

        gap@k = self-coverage@k of the reference − recall@k of the candidate

    Args:
        reference: Usually the teacher.
        candidate: Usually the student; counted together with the reference.
        ks: [K] draws, each >= 1.

    Returns:
        [P, K], in [−1, 1]; 0 in expectation when both runs sample one model; below 0 when the candidate concentrates
        on the reference's own favourites. NaN where either part is.

    Source:
        Ours.
    """
    ceiling, recall = on_common_ground(self_coverage_at_k(reference, ks), recall_at_k(reference, candidate, ks))
    return replace(ceiling, numerator=ceiling.numerator - recall.numerator)


def distinct_at_k(run: ClassCounts, ks: Sequence[int]) -> PerPrompt:
    """Estimate how many distinct classes k draws find, without bias (rarefaction).

        Σ_c [1 − f_k(n, n_c)]

    Args:
        run: The counts.
        ks: [K] draws, each >= 1.

    Returns:
        [P, K] classes, at most k, with denominator 1; NaN where n < k.

    Source:
        Hurlbert 1971, The nonconcept of species diversity, eq. for E(S_n); NoveltyBench's distinct_k
        (https://arxiv.org/abs/2504.05228), from n >= k completions rather than from exactly k.

    Example:
        >>> import pandas as pd
        >>> from odeval.metrics.classes import class_counts
        >>> run = pd.DataFrame({"prompt_id": "p", "correct": 1.0, "answer": list("aaab")})
        >>> distinct_at_k(class_counts(run)[0], [1, 2, 4]).numerator.tolist()
        [[1.0, 1.5, 2.0]]
    """
    found = _reached(run, run.n, run.count, np.ones(len(run.count)), ks)
    return _curve(run, found, np.ones(len(run.prompt_ids)), ks)


def solution_coverage_at_k(run: ClassCounts, solutions: Mapping[str, Collection[str]], ks: Sequence[int]) -> PerPrompt:
    """Estimate the share of all existing solutions that k draws find, without bias.

        Σ_{c a solution} [1 − f_k(n, n_c)]  /  number of solutions

    Args:
        run: Counts of correct answers, the pool all graded completions.
        solutions: prompt_id → every correct canonical answer there is.
        ks: [K] draws, each >= 1.

    Returns:
        [P, K], in [0, 1], with denominator 1, so that every prompt weighs the same; NaN where n < k or no solution is
        listed.

    Source:
        Ours; its truth under a model is `odeval.testbed.exact.coverage`.
    """
    size = np.array([len(solutions.get(prompt_id, ())) for prompt_id in run.prompt_ids], dtype=np.float64)
    listed = [set(solutions.get(prompt_id, ())) for prompt_id in run.prompt_ids]
    counts = np.fromiter((name in listed[p] for p, name in zip(run.prompt, run.name, strict=True)), bool, len(run.name))
    size[size == 0] = np.nan
    found = _reached(run, run.n, run.count, counts / size[run.prompt], ks)
    return _curve(run, found, np.where(np.isnan(size), np.nan, 1.0), ks)


def on_common_ground(*curves: PerPrompt) -> list[PerPrompt]:
    """Blank every prompt and grid point that is unknown in any of the curves, so that they compare the same prompts."""
    unknown = np.any([np.isnan(curve.numerator) | np.isnan(curve.denominator) for curve in curves], axis=0)
    return [
        replace(
            curve,
            numerator=np.where(unknown, np.nan, curve.numerator),
            denominator=np.where(unknown, np.nan, curve.denominator),
        )
        for curve in curves
    ]


def lost_modes(reference: ClassCounts, candidate: ClassCounts, most: int = 20) -> list[dict[str, Any]]:
    """List classes that the reference produced and the candidate never did, the commonest first.

    Exchange the arguments for the gained ones. A rare class is missed by chance: `p` is the exact chance that all of
    its completions fall to the reference when both runs produce it equally often (one-sided Fisher), and `upper` the
    rate that 0 of the candidate's n completions still allow, with 95 % confidence.

    Args:
        reference: Counts.
        candidate: Counted together with the reference.
        most: Entries.

    Returns:
        JSON-able rows: prompt_id, name, count and n of the reference, n of the candidate, upper, p.
    """
    lost = np.flatnonzero((reference.count > 0) & (candidate.count == 0) & (candidate.n[reference.prompt] > 0))
    prompt, count = reference.prompt[lost], reference.count[lost]
    n, drawn = reference.n[prompt], candidate.n[prompt]
    order = np.argsort(-count / n, kind="stable")[:most]  # rows are sorted by prompt and name: ties are stable
    by_chance = chance(np.array(0), (n + drawn)[order], count[order], drawn[order])
    return [
        {
            "prompt_id": str(reference.prompt_ids[prompt[i]]),
            "name": str(reference.name[lost[i]])[:_NAME],
            "count": int(count[i]),
            "n": int(n[i]),
            "candidate_n": int(drawn[i]),
            "upper": rare(int(drawn[i]), 0.05),
            "p": float(p),
        }
        for i, p in zip(order, by_chance, strict=True)
    ]


def _weights(run: ClassCounts) -> tuple[np.ndarray, np.ndarray]:
    """Each row's share of the pool, [M], and their sum, [P]; NaN where the pool is empty."""
    pool = np.where(run.n > 0, run.n, np.nan)
    return run.count / pool[run.prompt], run.outputs() / pool


def _reached(run: ClassCounts, n: np.ndarray, count: np.ndarray, weight: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Σ_c weight_c · [1 − f_k(n, count_c)], [P, K]; NaN where n < k. One table entry for each pair (n, count)."""
    used = np.flatnonzero((count > 0) & (weight > 0))
    prompt, own = run.prompt[used], count[used]
    base = int(own.max(initial=0)) + 1
    pairs, which = np.unique(n[prompt] * base + own, return_inverse=True)
    table = np.nan_to_num(pass_at_k(pairs // base, pairs % base, ks))
    found = np.empty((len(run.prompt_ids), len(ks)))
    for j in range(len(ks)):
        found[:, j] = np.bincount(prompt, weights=weight[used] * table[which, j], minlength=len(found))
    found[n[:, None] < np.asarray(ks)[None, :]] = np.nan
    return found


def _curve(run: ClassCounts, found: np.ndarray, share: np.ndarray, ks: Sequence[int]) -> PerPrompt:
    known = np.isfinite(found) & np.isfinite(share)[:, None]
    return PerPrompt(
        run.prompt_ids,
        np.where(known, found, np.nan),
        np.where(known, share[:, None], np.nan),
        tuple(float(k) for k in ks),
    )
