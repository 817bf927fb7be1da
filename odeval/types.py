"""The records that pass between stages. No logic beyond validation.

Letters in names and docstrings: P prompts, S samples per prompt, T tokens, V vocabulary, J grid points of a
curve. Entropies, log-probabilities and divergences are in nats.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from odeval.errors import OdevalError
from odeval.schemas import GRADES as GRADES
from odeval.schemas import SAMPLES as SAMPLES
from odeval.schemas import TOKEN_COLUMNS as TOKEN_COLUMNS
from odeval.schemas import TOKENS as TOKENS

FinishReason = Literal["stop", "length", "error", "unknown"]  # unknown: the log does not say
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Direction = Literal["higher", "lower", "neutral"]

TRAJECTORIES = ("teacher", "student")
PromptIds = Sequence[str] | np.ndarray


def content_hash(value: Any) -> str:
    """Return 16 hex digits (64 bits) that depend only on the JSON content of `value`.

    Example:
        >>> content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, with what is needed to grade an answer to it.

    Attributes:
        text: The prompt as plain text; None when `messages` is given.
        messages: Chat turns `{"role", "content"}`, rendered by the model's own chat template.
        answer: What the grader compares with, in the task's own format.
        id: The user's name for it; a hash of the content when empty.
        cluster: Prompts that share a template or passage share a cluster, and are not independent.
        chance: Probability that one guess from the answer space is right, as the task states it; None if it does not.
    """

    text: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    answer: str = ""
    id: str = ""
    cluster: str = ""
    chance: float | None = field(default=None, compare=False)  # said about a question, no part of it

    @property
    def content(self) -> str:
        """A hash of what the model sees and what the grader knows; equal content means the same question."""
        return content_hash([self.text, None if self.messages is None else list(self.messages), self.answer])

    @property
    def prompt_id(self) -> str:
        return self.id or self.content

    def display(self) -> str:
        """The prompt as one text for people to read."""
        if self.messages is None:
            return self.text or ""
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in self.messages)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn. The defaults truncate nothing.

    Attributes:
        n: Completions per prompt.
        temperature: Divides the logits; 0 means greedy, and then n must be 1.
        top_p: Keep the smallest set of likeliest tokens whose mass reaches top_p; 1 keeps all.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        max_tokens: A completion longer than this ends with finish_reason "length".
        seed: Of the run. Each completion's own seed is a hash of (seed, model, prompt_id, sample_id).
    """

    n: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise OdevalError(f"n {self.n}: at least 1 completion per prompt is needed")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise OdevalError(f"temperature {self.temperature}: must be a finite number >= 0")
        if self.temperature == 0 and self.n > 1:
            raise OdevalError(
                f"temperature 0 with n {self.n}: greedy decoding gives {self.n} copies of one completion, "
                "and pass@k would equal pass@1; use temperature 1, or n 1"
            )
        if not 0 < self.top_p <= 1:
            raise OdevalError(f"top_p {self.top_p}: must be in (0, 1]; 1 keeps every token")
        if self.top_k < 0:
            raise OdevalError(f"top_k {self.top_k}: must be >= 0; 0 keeps every token")
        if self.max_tokens < 1:
            raise OdevalError(f"max_tokens {self.max_tokens}: must be >= 1")

    def distribution(self) -> dict[str, Any]:
        """What the distribution of one completion depends on; runs that are compared must agree on it."""
        values = asdict(self)
        return {key: values[key] for key in ("temperature", "top_p", "top_k", "max_tokens")}


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer, as an engine returns it."""

    token_ids: Any  # [T] with the stop token: stopping is a decision with an entropy. None where a server gave none
    text: str  # without special tokens
    finish_reason: FinishReason
    logprobs: Sequence[float] | np.ndarray | None = None  # of token_ids under the untruncated model at temperature 1
    prompt_token_ids: Sequence[int] | None = None  # as the model saw them; None where a server gave none
    entropies: Sequence[float] | np.ndarray | None = None  # of that model where it drew token_ids, nats


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which weights answered.

    Attributes:
        path: As the user named it.
        fingerprint: Hash of the weights and config files.
        vocabulary: Hash of the token -> id map.
        template: Hash of the chat template, empty when there is none.
    """

    path: str
    fingerprint: str = ""
    vocabulary: str = ""
    template: str = ""

    @property
    def identity(self) -> str:
        """What tells two models apart: the weights' hash, or where no one could hash them the name."""
        return self.fingerprint or self.path


@dataclass(frozen=True, slots=True)
class Grade:
    """A grader's answer: right, wrong, or not gradable (None), with the canonical answer and a reason."""

    correct: bool | None
    answer: str | None = None
    why: str = ""


@dataclass(frozen=True, eq=False)
class PerPrompt:
    """What every metric returns: sums per prompt, from which value = Σ numerator / Σ denominator.

    Sums of blocks are sums of the whole, so a metric over tokens may be computed part by part.

    Attributes:
        prompt_ids: [P] str.
        numerator: [P] or [P, J] float64; J is the grid of a curve such as k of pass@k.
        denominator: Same shape; 0 or NaN where the prompt says nothing.
        grid: [J] the grid's values, empty for a scalar metric.
    """

    prompt_ids: np.ndarray
    numerator: np.ndarray
    denominator: np.ndarray
    grid: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        expected = (len(self.prompt_ids), len(self.grid)) if self.grid else (len(self.prompt_ids),)
        for name in ("numerator", "denominator"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != expected:
                raise ValueError(f"PerPrompt.{name} has shape {value.shape}, expected {expected}")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "prompt_ids", np.asarray(self.prompt_ids, dtype=object))

    def frame(self) -> pd.DataFrame:
        """The sums as a table indexed by prompt_id (scalar metrics only)."""
        return pd.DataFrame({"numerator": self.numerator, "denominator": self.denominator}, index=self.prompt_ids)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that never travels alone. NaN bounds mean unknown, and `caution` says why.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
        n: Prompts it rests on.
        caution: Empty, or what a careful reader should know.
        se: Standard error, 0 where nothing varies.
        degrees: Of freedom of the t distribution behind the interval.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    caution: str = ""
    se: float = math.nan
    degrees: int = 0

    @property
    def known(self) -> bool:
        return math.isfinite(self.value)


@dataclass(frozen=True, slots=True)
class Check:
    """One rule, judged for one candidate.

    Attributes:
        rule: As written.
        verdict: PASS, FAIL or INCONCLUSIVE.
        severity: "warn" leaves the overall verdict alone.
        against: Label of the run compared with, "" for a rule on the candidate alone.
        value: What was measured; for a curve, at its worst point.
        low: Lower one-sided bound.
        high: Upper one-sided bound.
        unit: Of value and bounds.
        detail: How the verdict follows from the bounds, in words.
        why: The rule's own reason.
        k: Of the point that decided, None where the rule has none.
        p_fail: Smallest one-sided level at which the rule fails.
    """

    rule: str
    verdict: Verdict
    severity: Literal["fail", "warn"]
    against: str
    value: float
    low: float
    high: float
    unit: str
    detail: str
    why: str
    k: int | None = None
    p_fail: float = 1.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """One candidate's verdict: the one object behind text, HTML, JSON and exit code.

    Attributes:
        candidate: Label of the run.
        verdict: FAIL if any rule of severity "fail" failed, else INCONCLUSIVE if any is, else PASS.
        headline: What happened, in one sentence.
        diagnosis: "COLLAPSE" when pass@1 is no worse and some larger k is worse by more than the margin.
        checks: Every rule.
        benchmark: Task of the comparison.
    """

    candidate: str
    verdict: Verdict
    headline: str
    diagnosis: str
    checks: tuple[Check, ...]
    benchmark: str = ""
