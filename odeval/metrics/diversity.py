"""How varied are the right answers? Always among right completions, and at equal numbers of them in both runs.

A more accurate run has fewer distinct wrong answers, and the more completions are compared the more distinct ones there
are: a count of distinct answers that mixes right with wrong, or 60 completions with 20, says nothing about narrowing.

Letters: P prompts, M rows (a class of a prompt, see `ClassCounts`), J sizes; m completions compared in each run.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from odeval.metrics.classes import ClassCounts, class_counts
from odeval.metrics.coverage import distinct_at_k
from odeval.metrics.hypergeometric import at_least
from odeval.types import PerPrompt

LEAST = 2  # right completions that a prompt needs in both runs
Correction = Literal["none", "miller_madow", "chao_shen"]


def matched_distinct(reference: ClassCounts, candidate: ClassCounts) -> tuple[PerPrompt, PerPrompt]:
    """Estimate the distinct answers among equally many right completions of either run, without bias.

        Σ_c [1 − f_m(n, n_c)],   m = min(n^R, n^C)

    Args:
        reference: Counts with the outputs as pool.
        candidate: Counted together with the reference.

    Returns:
        [P] each, between 1 and m, denominator 1; NaN where m < 2. Given the numbers of right completions, their
        difference is 0 in expectation when both runs answer rightly with the same distribution.

    Source:
        Rarefaction, Hurlbert 1971; matching the number of right completions is ours.
    """
    size = np.minimum(reference.n, candidate.n)
    sizes = np.unique(size[size >= LEAST])
    column = np.minimum(np.searchsorted(sizes, size), max(len(sizes) - 1, 0))
    return _at(reference, size, sizes, column), _at(candidate, size, sizes, column)


def _at(run: ClassCounts, size: np.ndarray, sizes: np.ndarray, column: np.ndarray) -> PerPrompt:
    """Distinct classes among as many draws as `size` says for each prompt."""
    if not len(sizes):
        unknown = np.full(len(size), np.nan)
        return PerPrompt(run.prompt_ids, unknown, unknown)
    values = distinct_at_k(run, sizes.tolist()).numerator[np.arange(len(size)), column]
    known = size >= LEAST
    return PerPrompt(run.prompt_ids, np.where(known, values, np.nan), np.where(known, 1.0, np.nan))


def matched_sample(
    *runs: pd.DataFrame, by: str = "answer", seed: int = 0, most: int | None = None
) -> list[pd.DataFrame]:
    """Choose equally many right completions per prompt from every run, for measures without a closed form.

    A hash of (seed, prompt_id, sample_id) orders a prompt's completions, alike in every run, and the first m are taken:
    the choice depends neither on the order of rows nor on other prompts.

    Args:
        runs: One row a completion with prompt_id, sample_id, correct and the column `by`.
        by: Completions without a value there are left out.
        seed: Of the choice.
        most: Upper limit for m; None for none.

    Returns:
        The chosen rows of each run, sorted by prompt and hash; prompts with m < 2 in none.
    """
    right = [run[(run["correct"] == 1) & run[by].notna()] for run in runs]
    sizes = pd.concat([run.groupby("prompt_id").size() for run in right], axis=1).fillna(0).min(axis=1)
    size = (sizes if most is None else sizes.clip(upper=most)).astype(np.int64)
    return [_first(run, size[size >= LEAST], seed) for run in right]


def _first(run: pd.DataFrame, size: pd.Series, seed: int) -> pd.DataFrame:
    """The first size[prompt_id] rows of each prompt in hash order."""
    run = run[run["prompt_id"].isin(size.index)]
    codes, names = pd.factorize(run["prompt_id"], sort=True)
    prompts = np.array([hash_of(seed, str(name)) for name in names], dtype=np.uint64)
    mixed = prompts[codes] + run["sample_id"].to_numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the finaliser of splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    order = np.lexsort((mixed ^ (mixed >> np.uint64(31)), codes))
    rank = np.arange(len(order)) - np.searchsorted(codes[order], codes[order])
    return run.iloc[order[rank < size.reindex(names).to_numpy()[codes[order]]]]


def hash_of(seed: int, prompt_id: str) -> int:
    """64 bits that order prompts: a fair draw that does not depend on what other prompts there are."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{prompt_id}".encode(), digest_size=8).digest(), "little")


def answer_entropy(run: ClassCounts, correction: Correction = "none") -> PerPrompt:
    """Estimate the entropy of the classes.

        none          Ĥ = −Σ_c p̂_c log p̂_c,   p̂_c = n_c / m
        miller_madow  Ĥ + (classes seen − 1) / 2m
        chao_shen     −Σ_c q_c log q_c / (1 − (1 − q_c)^m),   q_c = (1 − f_1 / m) p̂_c,   f_1 classes seen once

    Ĥ is too low by about (classes − 1) / 2m. No correction is exact; the runs must be matched in m all the same.

    Args:
        run: Counts with the outputs as pool, m of them a prompt.
        correction: "none", "miller_madow" or "chao_shen".

    Returns:
        [P] nats, >= 0, denominator 1; NaN where a prompt has no output.

    Source:
        Miller 1955, Note on the bias of information estimates; Chao and Shen 2003, Nonparametric estimation of
        Shannon's index of diversity. Where every class was seen once, f_1 is taken as m − 1.
    """
    m = run.outputs()
    own = np.maximum(m, 1)[run.prompt]
    seen = run.count > 0
    share = np.where(seen, run.count / own, 1.0)  # log 1 = 0: what was not seen adds nothing
    if correction == "chao_shen":
        once = run.per_prompt(run.count == 1)
        once = np.where(once == m, m - 1, once)
        share = np.where(seen, share * (1 - (once / np.maximum(m, 1))[run.prompt]), 1.0)
        entropy = run.per_prompt(-share * np.log(share) / -np.expm1(own * np.log1p(-np.minimum(share, 1 - 1e-16))))
    else:
        entropy = run.per_prompt(-share * np.log(share))
    if correction == "miller_madow":
        entropy = entropy + np.maximum(run.per_prompt(seen) - 1, 0) / (2 * np.maximum(m, 1))
    return PerPrompt(run.prompt_ids, np.where(m > 0, entropy, np.nan), np.where(m > 0, 1.0, np.nan))


def split(reference: pd.DataFrame, candidate: pd.DataFrame, by: str = "answer") -> dict[str, PerPrompt]:
    """Split the change in distinct answers into quality control and narrowing; the parts add up exactly.

    Among k = min(n^R, n^C) graded completions of either run, with D the expected number of distinct answers, j of k
    right, and D_right(m) that among m right completions:

        whole            D^C − D^R,                        right and wrong answers together
        fewer_wrong      D_wrong^C − D_wrong^R
        narrowing        E[D_right^C(m) − D_right^R(m)],   m = min(j^R, j^C)
        more_right       D_right^C − D_right^R − narrowing,   what more (or fewer) right completions bring
        quality_control  fewer_wrong + more_right = whole − narrowing

    A whole below 0 is a loss of variety; only a narrowing below 0 is a loss of right answers that accuracy does not
    explain. A prompt that one run never solves has a narrowing of 0, as nothing can be compared there.

    Args:
        reference: One row a completion with prompt_id, correct and the column `by`.
        candidate: The same prompts.
        by: Column that names the answer.

    Returns:
        Each part by name, [P] answers, denominator 1; NaN where a run has no graded completion.

    Source:
        Quality control and residual narrowing: Karouzos et al. 2026, https://arxiv.org/abs/2604.16027; matching the
        number of right completions, and with it the third part, is ours.
    """
    right = class_counts(reference, candidate, by=by, outputs="correct")
    wrong = class_counts(reference, candidate, by=by, outputs="wrong")
    among = class_counts(reference, candidate, by=by, outputs="correct", pool="outputs")
    k = np.minimum(right[0].n, right[1].n)
    change = {name: _drawn(runs[1], k) - _drawn(runs[0], k) for name, runs in (("right", right), ("wrong", wrong))}
    narrowing = _narrowing(among, [run.n for run in right], k)
    known = k > 0
    parts = {
        "whole": change["right"] + change["wrong"],
        "quality_control": change["right"] + change["wrong"] - narrowing,
        "fewer_wrong": change["wrong"],
        "more_right": change["right"] - narrowing,
        "narrowing": narrowing,
    }
    empty = PerPrompt(right[0].prompt_ids, k * np.nan, np.where(known, 1.0, np.nan))
    return {name: replace(empty, numerator=np.where(known, value, np.nan)) for name, value in parts.items()}


def _drawn(run: ClassCounts, k: np.ndarray) -> np.ndarray:
    """Expected distinct classes among k[p] draws, [P]."""
    sizes = np.unique(k[k > 0])
    if not len(sizes):
        return np.zeros(len(k))
    column = np.minimum(np.searchsorted(sizes, k), len(sizes) - 1)
    values: np.ndarray = distinct_at_k(run, sizes.tolist()).numerator[np.arange(len(k)), column]
    return values


def _narrowing(among: list[ClassCounts], graded: list[np.ndarray], k: np.ndarray) -> np.ndarray:
    """E[D^C(m) − D^R(m)] over the number m of right completions that both draws of k have, [P]."""
    longest = int(np.minimum(among[0].n, among[1].n).max(initial=0))
    if not longest:
        return np.zeros(len(k))
    sizes = np.arange(1, longest + 1)
    tails = np.prod([at_least(longest, n, own.n, k)[:, 1:] for n, own in zip(graded, among, strict=True)], axis=0)
    chance = tails - np.append(tails[:, 1:], np.zeros((len(k), 1)), axis=1)
    change = distinct_at_k(among[1], sizes.tolist()).numerator - distinct_at_k(among[0], sizes.tolist()).numerator
    expected: np.ndarray = np.where(chance > 0, chance * np.nan_to_num(change), 0.0).sum(1)
    return expected
