"""Exact pass@k, coverage and retention by enumeration: no sampling, hence no sampling error. Needs torch.

Every correct completion of every prompt is listed, and one batched forward pass gives each its probability
under a model, end token included. Letters: P prompts, N correct completions of all prompts together, T
positions of the longest, V vocabulary. Nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from odeval.divergence import entropy, log_prob
from odeval.types import Prompt


@dataclass(frozen=True, eq=False)
class Enumeration:
    """How one model sees every correct completion.

    Attributes:
        prompt: [N] index of the prompt each completion answers, ascending.
        num_prompts: P.
        logprob_NT: Log-probability of each token, 0 past the end token.
        entropy_NT: Entropy of the model where it chose that token, 0 past the end token.
        mask_NT: True up to and with the end token.
    """

    prompt: np.ndarray
    num_prompts: int
    logprob_NT: np.ndarray
    entropy_NT: np.ndarray
    mask_NT: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """[N] probability of each completion, sampled at temperature 1 without truncation."""
        return np.asarray(np.exp(self.logprob_NT.sum(axis=1)))

    def per_prompt(self, values: np.ndarray) -> np.ndarray:
        """Sum [N] values to [P]."""
        return np.bincount(self.prompt, weights=values, minlength=self.num_prompts)


@torch.no_grad()
def enumerate_solutions(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    solutions: Callable[[Prompt], Sequence[str]],
    batch_size: int = 1024,
) -> Enumeration:
    """Score every correct completion of every prompt.

    Args:
        model: A causal LM.
        tokenizer: Its tokenizer; a solution must be spelt by exactly one token sequence.
        prompts: P prompts with `text`.
        solutions: Every distinct correct completion of a prompt, at least one.
        batch_size: Completions per forward pass.

    Returns:
        See Enumeration; float64.
    """
    starts: list[int] = []
    rows: list[list[int]] = []
    owner: list[int] = []
    for index, prompt in enumerate(prompts):
        start = tokenizer(prompt.text)["input_ids"]
        for text in solutions(prompt):
            rows.append([*start, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
            starts.append(len(start))
            owner.append(index)
    longest = max(len(row) - start for row, start in zip(rows, starts, strict=True))
    logprob_NT, entropy_NT = np.zeros((2, len(rows), longest))
    mask_NT = np.zeros((len(rows), longest), dtype=bool)
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        width = max(map(len, batch))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in batch])
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits[:, :-1].double()
        log_probs, entropies = log_prob(logits, ids[:, 1:].to(model.device)).cpu(), entropy(logits).cpu()
        for place, row in enumerate(batch):
            start, n = starts[first + place], first + place
            length = len(row) - start
            logprob_NT[n, :length] = log_probs[place, start - 1 : len(row) - 1]
            entropy_NT[n, :length] = entropies[place, start - 1 : len(row) - 1]
            mask_NT[n, :length] = True
    return Enumeration(np.array(owner), len(prompts), logprob_NT, entropy_NT, mask_NT)


def pass_at_k(model: Enumeration, ks: Sequence[int]) -> np.ndarray:
    """Probability that at least one of k independent completions is right, per prompt.

        pass@k = 1 − (1 − Σ_i p_i)^k

    Args:
        model: Of one model.
        ks: [K] at least 1 each.

    Returns:
        [P, K] in [0, 1].
    """
    correct = np.clip(model.per_prompt(model.probability), 0.0, 1.0)
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(np.array(ks)[None, :] * np.log1p(-correct)[:, None]))


def coverage(model: Enumeration, k: int) -> np.ndarray:
    """Expected share of a prompt's distinct solutions that k independent completions find.

        mean over solutions i of  1 − (1 − p_i)^k

    Args:
        model: Of one model.
        k: Completions, at least 1.

    Returns:
        [P] in [0, 1].
    """
    with np.errstate(divide="ignore"):
        found = -np.expm1(k * np.log1p(-np.minimum(model.probability, 1.0)))
    return np.asarray(model.per_prompt(found) / model.per_prompt(np.ones_like(found)))


def high_entropy_share(teacher: Enumeration, model: Enumeration, threshold: float = 0.8) -> float:
    """Share of positions along the teacher's correct completions where a model is high-entropy.

        Σ_i p_T(i) Σ_t 1[H(i, t) >= threshold]  /  Σ_i p_T(i) · length(i)

    Args:
        teacher: Gives the weights p_T.
        model: Whose entropy counts; the teacher itself for the teacher's share.
        threshold: Nats.

    Returns:
        In [0, 1].
    """
    weight = teacher.probability[:, None] * teacher.mask_NT
    return float((weight * (model.entropy_NT >= threshold)).sum() / weight.sum())


def retention(teacher: Enumeration, student: Enumeration, threshold: float = 0.8) -> float:
    """Share of the teacher's branch points at which the student, given the same context, is high-entropy too.

        Σ_i p_T(i) Σ_t 1[H_T >= threshold] · 1[H_S >= threshold]  /  Σ_i p_T(i) Σ_t 1[H_T >= threshold]

    It is the exact expectation over the teacher's correct completions i; contexts off every correct path,
    which sampling would visit too, do not enter.

    Args:
        teacher: Of the teacher.
        student: Of the student, over the same completions.
        threshold: Nats.

    Returns:
        In [0, 1]; NaN when the teacher has no branch point.
    """
    forks = teacher.probability[:, None] * (teacher.mask_NT & (teacher.entropy_NT >= threshold))
    total = forks.sum()
    return float((forks * (student.entropy_NT >= threshold)).sum() / total) if total > 0 else float("nan")
