"""HOW MUCH. METRICS is the index: read it to know what odeval measures, add a line to add a metric.

A metric is a pure function that returns PerPrompt, the sums per prompt from which value = Σ numerator / Σ
denominator. It writes no statistics: interval, paired difference, report row and gate rule follow from the entry.
pass@k is not in the dict, because it is a curve with a covariance of its own (`passk.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from odeval.metrics import divergences, entropy, health
from odeval.types import Direction, PerPrompt

OURS = "ours"
EOPD = "arXiv 2603.07079, section 3"


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the index.

    Attributes:
        compute: (completions) -> PerPrompt, or (token block, threshold) -> PerPrompt.
        table: What it reads. A metric over tokens is computed on each trajectory, as name@teacher and name@student.
        label: For people.
        unit: "share", "nats", "answers" or "tokens".
        direction: Which way is better.
        bounds: Of the value.
        fact: True when it describes this run completely, so that a rule judges the value and not an interval.
        source: Paper and section, or "ours".
    """

    compute: Callable[..., PerPrompt]
    table: Literal["completions", "tokens"]
    label: str
    unit: str
    direction: Direction
    bounds: tuple[float, float]
    source: str = OURS
    fact: bool = False


_INF = float("inf")

METRICS: dict[str, Metric] = {
    "distinct_correct": Metric(health.distinct_correct, "completions", "distinct correct answers per prompt", "answers", "higher", (0, _INF)),
    "truncated_fraction": Metric(health.truncated_fraction, "completions", "truncated at max_tokens", "share", "lower", (0, 1), fact=True),
    "ungraded_fraction": Metric(health.ungraded_fraction, "completions", "not graded (attrition)", "share", "lower", (0, 1), fact=True),
    "duplicate_fraction": Metric(health.duplicate_fraction, "completions", "repeats of an earlier completion", "share", "neutral", (0, 1)),
    "completion_length": Metric(health.completion_length, "completions", "tokens per completion", "tokens", "neutral", (0, _INF)),
    "teacher_high_entropy": Metric(entropy.teacher_high_entropy, "tokens", "tokens with teacher entropy ≥ τ", "share", "neutral", (0, 1), EOPD),
    "student_high_entropy": Metric(entropy.student_high_entropy, "tokens", "tokens with student entropy ≥ τ", "share", "neutral", (0, 1), EOPD),
    "retention": Metric(entropy.retention, "tokens", "teacher's branch points still open in the student", "share", "higher", (0, 1)),
    "forward_kl_on_branch": Metric(divergences.forward_kl_on_branch, "tokens", "KL(teacher‖student) at branch points", "nats", "lower", (0, _INF)),
    "forward_kl_off_branch": Metric(divergences.forward_kl_off_branch, "tokens", "KL(teacher‖student) elsewhere", "nats", "lower", (0, _INF)),
    "reverse_kl_on_branch": Metric(divergences.reverse_kl_on_branch, "tokens", "KL(student‖teacher) at branch points", "nats", "lower", (0, _INF)),
    "reverse_kl_off_branch": Metric(divergences.reverse_kl_off_branch, "tokens", "KL(student‖teacher) elsewhere", "nats", "lower", (0, _INF)),
}  # fmt: skip
