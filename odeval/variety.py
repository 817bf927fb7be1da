"""How varied the right completions of two runs are, at equal numbers of them, for comparison.json."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from heapq import nsmallest
from typing import Any

import numpy as np
import pandas as pd

from odeval.completions import per_prompt
from odeval.measure import Measured
from odeval.metrics.classes import class_counts
from odeval.metrics.coverage import distinct_at_k
from odeval.metrics.diversity import (
    LEAST,
    Correction,
    answer_entropy,
    hash_of,
    matched_distinct,
    matched_sample,
    split,
)
from odeval.pairing import number
from odeval.rows import UNBOUNDED, Entry, Intervals, VarietySettings, described, head_of, thinned
from odeval.store import RunFolder
from odeval.texts import TEXT_METRICS, measure_texts
from odeval.types import PerPrompt

_HURLBERT = "rarefaction, Hurlbert 1971"
_AMONG = Entry("distinct answers among k right completions", "answers", "higher", (0, UNBOUNDED), _HURLBERT)
_MATCHED = {
    "distinct": Entry(
        "distinct answers among equally many right completions", "answers", "higher", (1, UNBOUNDED), _HURLBERT
    ),
    "entropy": Entry("entropy of right answers, as counted", "nats", "higher", (0, UNBOUNDED)),
    "entropy_miller_madow": Entry(
        "entropy of right answers, corrected", "nats", "higher", (0, UNBOUNDED), "Miller 1955"
    ),
    "entropy_chao_shen": Entry(
        "entropy of right answers, corrected", "nats", "higher", (0, UNBOUNDED), "Chao and Shen 2003"
    ),
}
_CORRECTIONS: dict[str, Correction] = {
    "entropy": "none",
    "entropy_miller_madow": "miller_madow",
    "entropy_chao_shen": "chao_shen",
}
_KAROUZOS = "after Karouzos et al. 2026, arXiv 2604.16027"
_ANY = (-UNBOUNDED, UNBOUNDED)
_SPLIT = {
    "whole": Entry("change in distinct answers, right and wrong", "answers", "neutral", _ANY, _KAROUZOS),
    "quality_control": Entry("quality control: right more or less often", "answers", "neutral", _ANY, _KAROUZOS),
    "fewer_wrong": Entry("quality control: distinct wrong answers", "answers", "lower", _ANY, _KAROUZOS),
    "more_right": Entry("quality control: answers that more right completions bring", "answers", "higher", _ANY),
    "narrowing": Entry("narrowing: among equally many right completions", "answers", "higher", _ANY, _KAROUZOS),
}


def diversity_of(
    reference: Measured,
    candidate: Measured,
    reference_folder: RunFolder,
    candidate_folder: RunFolder,
    ks: Sequence[int],
    settings: VarietySettings | None = None,
) -> dict[str, Any]:
    """Say how varied the right completions are, at equal numbers of them, and what a loss of variety consists of.

    Args:
        reference: Usually the teacher.
        candidate: The run under audit, same prompts.
        reference_folder: Where the reference's completions are; read part by part.
        candidate_folder: Where the candidate's are.
        ks: Grid of the curve among right completions; a long one is thinned.
        settings: Confidence, limits of the text measures.

    Returns:
        JSON-able: "matched" (how many prompts allow it), "answers" (distinct ones, entropies), "among_right" (a curve),
        "split" (the change in distinct answers and its parts, which add up), "text" (secondary, never gated).
    """
    settings = settings or VarietySettings()
    head = head_of(reference, candidate)
    if head["note"]:
        return {**head, "matched": None, "answers": {}, "among_right": None, "split": {}, "text": None}
    intervals, ks = Intervals(reference, settings.confidence), thinned(ks)
    runs = (reference.completions, candidate.completions)
    sums = per_prompt(partial(_answers, seed=settings.seed), *runs)
    matched = int(np.isfinite(sums["distinct 0"].numerator).sum())
    answers = {name: intervals.row(entry, sums[f"{name} 0"], sums[f"{name} 1"]) for name, entry in _MATCHED.items()}
    parts = {name: intervals.one(sums[name], entry.bounds) for name, entry in _SPLIT.items()}
    del sums
    among = per_prompt(partial(_among, ks=ks), *runs)
    return {
        **head,
        "matched": {
            "rule": f"as many right completions of either run as the one with fewer has, at least {LEAST}",
            "prompts": matched,
            "of": len(reference.prompts),
        },
        "answers": answers,
        "among_right": intervals.curves(_AMONG, among["0"], among["1"]),
        "split": {name: {**described(_SPLIT[name]), **number(part)} for name, part in parts.items()},
        "text": _texts(reference, candidate, reference_folder, candidate_folder, intervals, settings),
    }


def _answers(*frames: pd.DataFrame, seed: int) -> dict[str, PerPrompt]:
    """Measures of either run at equal numbers of right completions, and the parts of the change."""
    pairs = {"distinct": matched_distinct(*class_counts(*frames, pool="outputs"))}
    own, other = class_counts(*matched_sample(*frames, seed=seed), pool="outputs")
    for name, correction in _CORRECTIONS.items():
        pairs[name] = answer_entropy(own, correction), answer_entropy(other, correction)
    sums = {f"{name} {side}": sums for name, pair in pairs.items() for side, sums in enumerate(pair)}
    return sums | split(*frames)


def _among(*frames: pd.DataFrame, ks: Sequence[int]) -> dict[str, PerPrompt]:
    runs = class_counts(*frames, pool="outputs")
    return {str(side): distinct_at_k(run, ks) for side, run in enumerate(runs)}


def _texts(
    reference: Measured,
    candidate: Measured,
    reference_folder: RunFolder,
    candidate_folder: RunFolder,
    intervals: Intervals,
    settings: VarietySettings,
) -> dict[str, Any]:
    """Text measures on as many right completions of either run, on some prompts."""
    runs = (reference.completions, candidate.completions)
    fewer = np.minimum(*(run.counts["c"].reindex(runs[0].prompt_ids) for run in (reference, candidate)))
    allowed = [str(name) for name in fewer.index[fewer >= LEAST]]
    names = nsmallest(settings.text_prompts, allowed, key=lambda name: hash_of(settings.seed, name))
    chosen = matched_sample(
        *(run.of(names) for run in runs),
        by="digest",
        seed=settings.seed,
        most=settings.text_samples,
    )
    words: dict[str, int] | None = None if _same_tokens(reference, candidate, chosen) else {}
    folders = (reference_folder, candidate_folder)
    found = [measure_texts(folder, own, words) for folder, own in zip(folders, chosen, strict=True)]
    vocabulary = settings.vocabulary or len(found[0].vocabulary | found[1].vocabulary)
    sums = [run.per_prompt(vocabulary) for run in found]
    return {
        "gated": False,
        "rule": f"at most {settings.text_prompts} prompts in the order of a hash, and {settings.text_samples} right "
        "completions of either run on each",
        "prompts": len(names),
        "of": len(allowed),
        "reads": "token ids" if words is None else "words, since token ids of both runs are not known to agree",
        "vocabulary": vocabulary,
        "metrics": {name: intervals.row(entry, sums[0][name], sums[1][name]) for name, entry in TEXT_METRICS.items()},
    }


def _same_tokens(reference: Measured, candidate: Measured, chosen: Sequence[pd.DataFrame]) -> bool:
    """Whether both runs hold token ids of one vocabulary."""
    vocabularies = {run.meta["model"].get("vocabulary") or "" for run in (reference, candidate)}
    known = all(run["num_tokens"].notna().all() for run in chosen)
    return known and len(vocabularies) == 1 and vocabularies != {""}
