"""Are a run's samples independent of each other? Seeds, and copies that chance does not explain."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import special

from odeval.completions import Completions, blocks
from odeval.spool import Spool

_SEEDS = 2**18  # brought together at once


def repeated_seeds(completions: Completions) -> int:
    """How many completions have the seed of an earlier one; equal seeds are brought together on disk."""
    groups = 1 + len(completions) // _SEEDS
    spool = Spool(pa.schema([("seed", pa.uint64())]))
    for (frame,) in blocks(completions):
        seeds = frame["seed"].to_numpy()
        spool.add(pa.table({"seed": seeds}), (seeds % np.uint64(groups)).astype(np.int64))
    tables = (spool.read([group]) for group in range(groups))
    return sum(len(table) - len(table["seed"].unique()) for table in tables)


def copied_streams(completions: pd.DataFrame) -> tuple[int, int, float]:
    """Find the pair of sample numbers that agree on more prompts than chance explains.

    Shards that ran with one seed, or seeds that overlap between requests, give sample i and sample j the same text on
    every prompt. Independent samples agree on prompt p with the share m_p of equal pairs there. The number of
    agreements over P prompts is then Poisson-binomial, whose upper tail is at most that of Binomial(P, mean m_p).

    Args:
        completions: With prompt_id, sample_id and digest.

    Returns:
        The two sample numbers and a p value, Bonferroni over all pairs; (0, 0, 1.0) where nothing can be tested.

    Source:
        Ours; the failure is that of vLLM issue 11953. The tail bound is Hoeffding 1956.
    """
    table = completions.pivot(index="prompt_id", columns="sample_id", values="digest").dropna()
    if len(table) < 2 or table.shape[1] < 2:
        return 0, 0, 1.0
    codes = np.stack([np.unique(row, return_inverse=True)[1] for row in table.to_numpy()])
    prompts, samples = codes.shape
    pairs = samples * (samples - 1) / 2
    equal = np.mean([(count * (count - 1) / 2).sum() / pairs for count in map(np.bincount, codes)])
    best = (0, 0, -1)
    for i in range(samples - 1):
        agreements = (codes[:, i + 1 :] == codes[:, i : i + 1]).sum(0)
        j = int(agreements.argmax())
        if agreements[j] > best[2]:
            best = (int(table.columns[i]), int(table.columns[i + 1 + j]), int(agreements[j]))
    return best[0], best[1], min(1.0, float(pairs * special.bdtrc(best[2] - 1, prompts, equal)))


def excess_repeats(frames: Iterable[pd.DataFrame]) -> float:
    """Test for duplicate streams: more equal pairs than independent draws from the model would give.

    For a prompt with n completions y_i of probability p(y_i), equal pairs minus (n − 1) / 2 · Σ p(y_i) has
    expectation 0 when the draws are independent; the sum over prompts is divided by its own standard error.

    Args:
        frames: Of different prompts, with prompt_id, digest, and logprob, the log-probability of a whole completion.

    Returns:
        A z score; large and positive when samples are copies of each other.

    Source:
        Ours.
    """
    excess = np.concatenate([_excess(frame) for frame in frames])
    return float(excess.sum() / math.sqrt(max(float((excess**2).sum()), 1e-300)))


def _excess(completions: pd.DataFrame) -> np.ndarray:
    prompts = completions.groupby("prompt_id", sort=True)
    sizes = completions.groupby(["prompt_id", "digest"], sort=True).size()
    pairs = (sizes * (sizes - 1) / 2).groupby("prompt_id").sum()
    expected = (prompts.size() - 1) / 2 * np.exp(completions["logprob"]).groupby(completions["prompt_id"]).sum()
    excess: np.ndarray = (pairs - expected).to_numpy()
    return excess
