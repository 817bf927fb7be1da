"""Can these runs be compared, and believed? Checks that come before any conclusion.

A check is "ok", "warn" or "block"; a blocked comparison has no verdict. A check that could not be made says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from odeval.attrition import pass_bounds
from odeval.completions import blocks
from odeval.errors import OdevalError
from odeval.measure import Measured
from odeval.streams import copied_streams, excess_repeats, repeated_seeds
from odeval.types import PerPrompt

Status = Literal["ok", "warn", "block", "unknown"]

FEW_PROMPTS, TOO_FEW_PROMPTS = 100, 50
_TRUNCATED = _UNGRADED = 0.02
_DEEPER = 4  # a stored baseline is paid for once and used often: its noise should not be what decides
_COPIED = 1e-6  # p value under which a stream is called a copy
_COMPARED = 2000  # prompts on which streams are compared
_CHANCE = 1e-4  # one-sided probability under which repeats are called suspicious


@dataclass(frozen=True, slots=True)
class Trust:
    """One line of the trust panel."""

    check: str
    status: Status
    detail: str


def check_comparable(reference: Measured, other: Measured, allowed: tuple[str, ...] = ()) -> None:
    """Refuse to compare runs that were asked different questions, or in different ways.

    Args:
        reference: A run.
        other: Another.
        allowed: Names of sampling settings that may differ.

    Raises:
        OdevalError: They differ; the text names the setting and how to go on.
    """
    ours, theirs = (run.meta["sampling"] for run in (other, reference))
    for key in ("temperature", "top_p", "top_k", "max_tokens"):
        known = ours.get(key) is not None and theirs.get(key) is not None
        if known and ours[key] != theirs[key] and key not in allowed:
            raise OdevalError(
                f"{other.label}: {key} {ours.get(key)} differs from {reference.label}'s {theirs.get(key)}; coverage is "
                f"comparable only under equal sampling: resample one, or pass --allow-mismatch {key}"
            )
    graders = {run.meta["task"]["grader"] for run in (reference, other)} - {""}
    if len(graders) > 1:
        raise OdevalError(
            f"{other.label}: graded by {other.meta['task']['grader']}, {reference.label} by "
            f"{reference.meta['task']['grader']}; grade both alike with `odeval grade`"
        )
    ids = reference.prompts.ids
    if not np.array_equal(ids, other.prompts.ids):
        missing = sorted(reference.prompts.keys() - other.prompts.keys())
        extra = sorted(other.prompts.keys() - reference.prompts.keys())
        named = (missing or extra)[0]
        raise OdevalError(
            f"{other.label} and {reference.label} were asked different prompts: {len(missing)} only in "
            f"{reference.label}, {len(extra)} only in {other.label} (first {named}); sample both on the same task"
        )
    known = (reference.contents != b"") & (other.contents != b"")
    if len(changed := ids[known & (reference.contents != other.contents)]):
        raise OdevalError(
            f"prompt {changed[0]} reads differently in {other.label} and {reference.label}; "
            "sample both on the same task"
        )


def examine(runs: list[Measured]) -> list[Trust]:
    """Make every check that does not stop a comparison by itself."""
    sampled = [run for run in runs if run.completions]
    counted = [
        Trust("Samples", "unknown", f"{run.label}: counts only; nothing below is known of it")
        for run in runs
        if not run.completions
    ]
    if not sampled:
        return [_prompts(runs), *counted, *(_depth(run) for run in runs if _uneven(run)), _distribution(runs)]
    return [
        _prompts(runs),
        *counted,
        _templates(runs),
        *(_depth(run) for run in runs if _uneven(run)),
        _share("Truncated at max_tokens", "truncated_fraction", sampled, _TRUNCATED),
        _attrition(sampled),
        _seeds(sampled),
        _streams(sampled),
        *(_repeats(run) for run in sampled),
        _distribution(runs),
        _entropy(sampled),
    ]


def depth_of_baseline(baseline: Measured, candidates: Sequence[Measured]) -> list[Trust]:
    """Warn of a stored baseline (counts) with fewer samples per prompt than 4 times a candidate's."""
    if not candidates:
        return []
    n = int(baseline.counts["n"].min())
    deepest = max(candidates, key=lambda run: int(run.counts["n"].max()))
    wanted = _DEEPER * int(deepest.counts["n"].max())
    if baseline.completions or n >= wanted:
        return []
    text = f"{baseline.label}: {n} samples a prompt, under {_DEEPER} times the {wanted // _DEEPER} of {deepest.label}"
    advice = "its own noise is in every difference; it is paid for once, so sample it deeper"
    return [Trust("Depth of the stored baseline", "warn", f"{text}; {advice}")]


def _prompts(runs: list[Measured]) -> Trust:
    count = len(runs[0].prompts)
    detail = f"{count} prompts, identical in all {len(runs)} runs"
    groups = runs[0].prompts.num_clusters
    if groups < count:
        count, detail = groups, f"{detail}, in {groups} clusters, which are what is independent"
    if count < TOO_FEW_PROMPTS:
        return Trust("Prompts", "warn", f"{detail}; under {TOO_FEW_PROMPTS} no PASS is given")
    if count < FEW_PROMPTS:
        return Trust("Prompts", "warn", f"{detail}; under {FEW_PROMPTS} intervals are only roughly right")
    return Trust("Prompts", "ok", detail)


def _templates(runs: list[Measured]) -> Trust:
    templates = {run.meta["model"].get("template", "") for run in runs}
    vocabularies = {run.meta["model"].get("vocabulary", "") for run in runs}
    if len(templates) > 1:
        chat = runs[0].prompts.chat
        return Trust(
            "Chat template",
            "warn" if chat else "ok",
            "templates differ" + ("" if chat else ", but none is used"),
        )
    if len(vocabularies) > 1:
        return Trust("Tokenizer and chat template", "warn", "vocabularies differ; token metrics need one vocabulary")
    return Trust("Tokenizer and chat template", "ok", "identical hashes")


def _uneven(run: Measured) -> bool:
    return bool(run.counts["n"].nunique() > 1)


def _depth(run: Measured) -> Trust:
    low, high = int(run.counts["n"].min()), int(run.counts["n"].max())
    return Trust(
        f"Samples per prompt, {run.label}",
        "warn",
        f"{low} to {high} graded; pass@k is unknown above {low} for some",
    )


def _share(name: str, metric: str, runs: list[Measured], limit: float) -> Trust:
    values = {run.label: _value(run.sums[metric]) for run in runs}
    detail = " · ".join(f"{label} {'not recorded' if math.isnan(v) else f'{v:.1%}'}" for label, v in values.items())
    if any(value > limit for value in values.values()):
        return Trust(name, "warn", detail)
    return Trust(name, "unknown" if any(map(math.isnan, values.values())) else "ok", detail)


def _attrition(runs: list[Measured]) -> Trust:
    """The share, and what pass@1 would be if all of them were wrong, or right."""
    found = _share("Not graded (attrition)", "ungraded_fraction", runs, _UNGRADED)
    bounds = [(run.label, pass_bounds(run, run.prompts.ids, [1])) for run in runs]
    between = "{}: pass@1 between {:.3f} and {:.3f}, whatever they are"
    told = [between.format(label, b["low"][0], b["high"][0]) for label, b in bounds if b]
    return Trust(found.check, found.status, " · ".join([found.detail, *told]))


def _value(metric: PerPrompt) -> float:
    total = metric.denominator.sum()
    return float(metric.numerator.sum() / total) if total else math.nan


def _seeds(runs: list[Measured]) -> Trust:
    name = "Every completion has its own seed"
    for run in runs:
        if not run.completions.knows_all("seed"):
            return Trust(name, "unknown", f"{run.label}: seeds were not recorded")
        if repeated := repeated_seeds(run.completions):
            return Trust(name, "block", f"{run.label}: {repeated} completions share a seed with another")
    return Trust(name, "ok", "all distinct, hashed from (seed, prompt, sample)")


def _streams(runs: list[Measured]) -> Trust:
    name = "No sample is a copy of another across prompts"
    for run in runs:
        first, second, p_value = copied_streams(run.completions.of(run.completions.prompt_ids[:_COMPARED]))
        if p_value < _COPIED:
            return Trust(
                name, "block", f"{run.label}: samples {first} and {second} agree on too many prompts (p {p_value:.0e})"
            )
    return Trust(name, "ok", "no two sample numbers agree more often than the answers' frequencies explain")


def _repeats(run: Measured) -> Trust:
    """Compare exact repeats with what the model's own probabilities predict, when sampled from the plain model."""
    name = f"Repeats no more than chance, {run.label}"
    sampling = run.meta["sampling"]
    if (sampling["temperature"], sampling["top_p"], sampling["top_k"]) != (1.0, 1.0, 0):
        return Trust(name, "unknown", "not checked: sampling was not from the model's own distribution")
    if not run.completions.knows_all("logprob"):
        return Trust(name, "unknown", "not checked: the engine gave no log-probabilities")
    z = excess_repeats(frame for (frame,) in blocks(run.completions))
    share = _value(run.sums["duplicate_fraction"])
    detail = f"{share:.1%} repeats, {z:+.1f} standard errors from what its probabilities imply"
    return Trust(name, "warn" if special.ndtr(-z) < _CHANCE else "ok", detail)


def _distribution(runs: list[Measured]) -> Trust:
    name = "Sampled from the whole distribution"
    unsaid = [run.label for run in runs if run.meta["sampling"].get("temperature") is None]
    if unsaid:
        return Trust(name, "unknown", f"{', '.join(unsaid)}: the log does not say how it was sampled")
    cut = {
        run.label: f"temperature {s['temperature']}, top_p {s['top_p']}, top_k {s['top_k'] or 'off'}"
        for run in runs
        if (s := run.meta["sampling"])["temperature"] != 1 or s["top_p"] != 1 or s["top_k"] != 0
    }
    if cut:
        return Trust(name, "warn", " · ".join(f"{label}: {text}" for label, text in cut.items()))
    return Trust(name, "ok", "temperature 1, top_p 1, top_k off")


def _entropy(runs: list[Measured]) -> Trust:
    if bounded := [run.label for run in runs if run.bounds]:
        return Trust("Entropies", "warn", f"{', '.join(bounded)}: bounds from the likeliest tokens, not values")
    if not any(run.survival for run in runs):
        return Trust("Entropies", "unknown", "no run is scored: branch points and divergences are not known")
    return Trust("Entropies", "ok", "exact, full vocabulary, at temperature 1")
