"""Can the run be trusted? Facts about the completions themselves, not estimates of a population.

Every function takes `completions`: one row a completion with prompt_id, sample_id, correct (1, 0, NaN), answer,
finish_reason, num_tokens, entropy (summed over its tokens) and digest (a hash of them).
"""

from __future__ import annotations

import pandas as pd

from odeval.types import PerPrompt


def truncated_fraction(completions: pd.DataFrame) -> PerPrompt:
    """Share of completions that ran into max_tokens, among those whose log says how they ended."""
    told = completions["finish_reason"].where(completions["finish_reason"] != "unknown")
    return _share(completions, (told == "length").astype("float64").where(told.notna()))


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


def sampled_entropy(completions: pd.DataFrame) -> PerPrompt:
    """Mean entropy of the model over the tokens it drew, as the engine saw it while sampling; nothing is scored."""
    known = completions["entropy"].notna()
    sums = completions[["entropy", "num_tokens"]].where(known, 0.0).groupby(completions["prompt_id"], sort=True).sum()
    return PerPrompt(sums.index.to_numpy(), sums["entropy"].to_numpy(), sums["num_tokens"].to_numpy())


def distinct_correct(completions: pd.DataFrame) -> PerPrompt:
    """Distinct correct answers per prompt among its n completions, by the grader's canonical answer.

    Prompts with a correct completion whose answer was not recorded are left out.
    """
    right = completions.loc[completions["correct"] == 1, ["prompt_id", "answer"]]
    found = right.groupby("prompt_id")["answer"].nunique()
    prompts = completions.groupby("prompt_id", sort=True).size().index
    known = right["answer"].notna().groupby(right["prompt_id"]).all()
    told = known.reindex(prompts, fill_value=True).to_numpy(dtype=bool)
    return PerPrompt(prompts.to_numpy(), found.reindex(prompts, fill_value=0).to_numpy() * told, told.astype(float))


def _share(completions: pd.DataFrame, flag: pd.Series) -> PerPrompt:
    grouped = flag.groupby(completions["prompt_id"], sort=True)
    return PerPrompt(grouped.sum().index.to_numpy(), grouped.sum().to_numpy(), grouped.count().to_numpy())
