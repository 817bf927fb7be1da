"""HOW MUCH. METRICS is the index: read it to know what odeval measures, add a line to add a metric.

A metric is a pure function that returns PerPrompt, the sums per prompt from which value = Σ numerator / Σ
denominator. It writes no statistics: interval, paired difference, report row and gate rule follow from the entry.
pass@k is not in the dict, because it is a curve with a covariance of its own (`passk.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from odeval.metrics import branches, divergences, entropy, health, reliability
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
        unit: "share", "nats", "answers", "tokens", "branches" or "per 1000".
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
    "sampled_entropy": Metric(health.sampled_entropy, "completions", "token entropy while sampling", "nats", "neutral", (0, _INF)),
    "teacher_high_entropy": Metric(entropy.teacher_high_entropy, "tokens", "tokens with teacher entropy ≥ τ", "share", "neutral", (0, 1), EOPD),
    "student_high_entropy": Metric(entropy.student_high_entropy, "tokens", "tokens with student entropy ≥ τ", "share", "neutral", (0, 1), EOPD),
    "retention": Metric(entropy.retention, "tokens", "teacher's branch points still open in the student", "share", "higher", (0, 1)),
    "entropy_lost_on_branch": Metric(entropy.entropy_lost_on_branch, "tokens", "entropy lost at branch points", "nats", "lower", (-_INF, _INF)),
    "teacher_branches": Metric(entropy.teacher_branches, "tokens", "teacher's effective continuations at branch points", "branches", "neutral", (1, _INF)),
    "student_branches": Metric(entropy.student_branches, "tokens", "student's effective continuations there", "branches", "higher", (1, _INF)),
    "nucleus_recall": Metric(branches.nucleus_recall, "tokens", "teacher's mass inside the student's nucleus at branch points", "share", "higher", (0, 1)),
    "top_overlap": Metric(branches.top_overlap, "tokens", "teacher's 16 likeliest tokens among the student's 16, at branch points", "share", "higher", (0, 1), "arXiv 2604.13016"),
    "dropped_branches": Metric(branches.dropped_branches, "tokens", "dropped branches per 1000 branch points", "per 1000", "lower", (0, _INF)),
    "forward_kl_on_branch": Metric(divergences.forward_kl_on_branch, "tokens", "KL(teacher‖student) at branch points", "nats", "lower", (0, _INF)),
    "forward_kl_off_branch": Metric(divergences.forward_kl_off_branch, "tokens", "KL(teacher‖student) elsewhere", "nats", "lower", (0, _INF)),
    "reverse_kl_on_branch": Metric(divergences.reverse_kl_on_branch, "tokens", "KL(student‖teacher) at branch points", "nats", "lower", (0, _INF)),
    "reverse_kl_off_branch": Metric(divergences.reverse_kl_off_branch, "tokens", "KL(student‖teacher) elsewhere", "nats", "lower", (0, _INF)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """A metric on a whole grid at once; drawn and listed, not gated.

    Attributes:
        compute: (what it reads, grid) -> PerPrompt with that grid.
        label: For people.
        unit: Of the values.
        bounds: Of the values.
        grid: Its points; empty when the comparison's settings give them (entropy thresholds).
        grid_unit: What the points are.
        source: Paper and section, or "ours".
        reads: A token block of each trajectory; counts per prompt; completions with an answer, or with a reward.
    """

    compute: Callable[[Any, Sequence[Any]], PerPrompt]
    label: str
    unit: str
    bounds: tuple[float, float]
    grid: tuple[float, ...]
    grid_unit: str
    source: str = OURS
    reads: Literal["tokens", "counts", "answer", "reward"] = "tokens"


_M = (2.0, 4.0, 16.0, 64.0, 256.0)
_ENTROPIES = (0.01, *(round(0.2 * i, 1) for i in range(1, 26)))
_STRETCHES = tuple(float(2**i) for i in range(15))
FAMILIES: dict[str, Family] = {
    "teacher_high_by_threshold": Family(entropy.teacher_high_by_threshold, "tokens with teacher entropy ≥ τ", "share", (0, 1), (), "nats", EOPD),
    "student_high_by_threshold": Family(entropy.student_high_by_threshold, "tokens with student entropy ≥ τ", "share", (0, 1), (), "nats", EOPD),
    "retention_by_threshold": Family(entropy.retention_by_threshold, "teacher's branch points still open in the student", "share", (0, 1), (), "nats"),
    "teacher_survival": Family(entropy.teacher_high_by_threshold, "tokens with teacher entropy ≥ x", "share", (0, 1), _ENTROPIES, "nats"),
    "student_survival": Family(entropy.student_high_by_threshold, "tokens with student entropy ≥ x", "share", (0, 1), _ENTROPIES, "nats"),
    "forward_kl_on_branch_by_threshold": Family(divergences.forward_kl_on_branch_by_threshold, "KL(teacher‖student) at branch points", "nats", (0, _INF), (), "nats"),
    "reverse_kl_off_branch_by_threshold": Family(divergences.reverse_kl_off_branch_by_threshold, "KL(student‖teacher) elsewhere", "nats", (0, _INF), (), "nats"),
    "coverage_profile": Family(divergences.coverage_profile, "completions M times likelier under the teacher", "share", (0, 1), _M, "times", "arXiv 2510.15020"),
    "forward_kl_by_position": Family(divergences.forward_kl_by_position, "KL(teacher‖student) by position", "nats", (0, _INF), _STRETCHES, "tokens", "arXiv 2204.01171"),
    "pass_hat_k": Family(reliability.pass_hat, "all of k completions right", "share", (0, 1), (), "samples", "arXiv 2406.12045, section 5.1", "counts"),
    "g_pass_at_k": Family(reliability.half_right, "at least half of k completions right", "share", (0, 1), (), "samples", "arXiv 2412.13147, eq. 3", "counts"),
    "majority_at_k": Family(reliability.majority_at_k, "majority vote of k completions right", "share", (0, 1), (), "samples", "arXiv 2203.11171", "answer"),
    "best_of_k": Family(reliability.best_of_k, "completion with the highest reward of k right", "share", (0, 1), (), "samples", OURS, "reward"),
}  # fmt: skip
