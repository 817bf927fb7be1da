"""Can the run be trusted? Facts about the completions themselves, not estimates of a population.

Every function takes `completions`: one row a completion with prompt_id, sample_id, correct (1, 0, NaN), answer,
finish_reason, num_tokens and digest (a hash of the completion's tokens).
"""

from __future__ import annotations

import pandas as pd

from odeval.types import PerPrompt


def truncated_fraction(completions: pd.DataFrame) -> PerPrompt:
    """Share of completions that ran into max_tokens."""
    return _share(completions, completions["finish_reason"] == "length")


def ungraded_fraction(completions: pd.DataFrame) -> PerPrompt:
    """Share of completions without a grade: engine errors, grader time-outs. They are in no other metric."""
    return _share(completions, completions["correct"].isna())


def duplicate_fraction(completions: pd.DataFrame) -> PerPrompt:
    """Share of completions that repeat an earlier one of the same prompt, token by token.

    In a small answer space many repeats are chance; the trust panel compares them with the model's own
    probabilities.
    """
    return _share(completions, completions.duplicated(["prompt_id", "digest"]))


def completion_length(completions: pd.DataFrame) -> PerPrompt:
    """Mean tokens per completion, the stop token included."""
    grouped = completions.groupby("prompt_id", sort=True)["num_tokens"]
    return PerPrompt(grouped.sum().index.to_numpy(), grouped.sum().to_numpy(), grouped.count().to_numpy())


def distinct_correct(completions: pd.DataFrame) -> PerPrompt:
    """Distinct correct answers per prompt among its n completions, by the grader's canonical answer."""
    right = completions[completions["correct"] == 1]
    found = right.groupby("prompt_id")["answer"].nunique()
    prompts = completions.groupby("prompt_id", sort=True).size().index
    return PerPrompt(
        prompts.to_numpy(),
        found.reindex(prompts, fill_value=0).to_numpy(),
        pd.Series(1.0, prompts).to_numpy(),
    )


def _share(completions: pd.DataFrame, flag: pd.Series) -> PerPrompt:
    grouped = flag.groupby(completions["prompt_id"], sort=True)
    return PerPrompt(grouped.sum().index.to_numpy(), grouped.sum().to_numpy(), grouped.count().to_numpy())
