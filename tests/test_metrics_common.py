"""The same invariants for every entry of METRICS; a metric that is not exercised here fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import draws, random_tokens, write_run, write_tokens

from odeval.measure import load_completions, measure
from odeval.metrics import METRICS
from odeval.metrics.tokens import TokenBlock, added, block, blocks
from odeval.types import TOKEN_COLUMNS, PerPrompt

THRESHOLD = 0.8
COMPLETIONS = sorted(name for name, metric in METRICS.items() if metric.table == "completions")
TOKENS = sorted(name for name, metric in METRICS.items() if metric.table == "tokens")


def value(metric: PerPrompt) -> float:
    return float(metric.numerator.sum() / metric.denominator.sum())


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    correct = draws(generator.random(12), 10, 1)
    answers = [
        [f"a{generator.integers(4)}" if right else f"w{generator.integers(3)}" for right in row] for row in correct
    ]
    reasons = [["length" if generator.random() < 0.2 else "stop" for _ in row] for row in correct]
    graded = [[None if generator.random() < 0.1 else right for right in row] for row in correct]
    folder = tmp_path_factory.mktemp("common") / "run"
    return load_completions(write_run(folder, graded, answers=answers, reasons=reasons))


def tokens(seed: int = 0, prompts: int = 9, same: bool = False) -> TokenBlock:
    values = random_tokens(prompts, 4, 6, seed)
    if same:
        values |= {"student_entropy": values["teacher_entropy"], "student_logprob": values["teacher_logprob"]}
        values |= {"forward_kl": np.zeros((prompts, 4, 6)), "reverse_kl": np.zeros((prompts, 4, 6))}
    flat = {name: values[name].ravel() for name in TOKEN_COLUMNS}
    return TokenBlock(
        prompt_ids=np.array([f"p{i}" for i in range(prompts)], dtype=object),
        prompt=np.repeat(np.arange(prompts), 24),
        sequence=np.repeat(np.arange(prompts * 4), 6),
        **flat,
    )


@pytest.mark.parametrize("name", COMPLETIONS)
def test_order_of_completions_does_not_matter(name: str, frame: pd.DataFrame) -> None:
    shuffled = frame.sample(frac=1, random_state=0)
    left, right = METRICS[name].compute(frame), METRICS[name].compute(shuffled)
    np.testing.assert_array_equal(left.prompt_ids, right.prompt_ids)
    np.testing.assert_array_equal(left.numerator, right.numerator)


@pytest.mark.parametrize("name", COMPLETIONS)
def test_doubling_every_prompt_leaves_the_value(name: str, frame: pd.DataFrame) -> None:
    twice = pd.concat([frame, frame.assign(prompt_id=frame["prompt_id"] + "'")], ignore_index=True)
    assert value(METRICS[name].compute(twice)) == pytest.approx(value(METRICS[name].compute(frame)))


@pytest.mark.parametrize("name", TOKENS)
def test_blocks_add_up_to_the_whole(name: str) -> None:
    whole = tokens()
    compute = METRICS[name].compute
    total = None
    for chosen in (whole.prompt % 2 == 0, whole.prompt % 2 == 1):
        part = TokenBlock(
            whole.prompt_ids,
            whole.prompt[chosen],
            whole.sequence[chosen],
            *(getattr(whole, c)[chosen] for c in TOKEN_COLUMNS),
        )
        total = added(total, compute(part, THRESHOLD))
    expected = compute(whole, THRESHOLD)
    np.testing.assert_allclose(total.numerator, expected.numerator)
    np.testing.assert_allclose(total.denominator, expected.denominator)


@pytest.mark.parametrize("name", TOKENS)
def test_teacher_against_itself(name: str) -> None:
    same = tokens(same=True)
    compute = METRICS[name].compute
    if name == "retention":
        assert value(compute(same, THRESHOLD)) == 1
    elif "kl" in name:
        assert value(compute(same, THRESHOLD)) == 0
    else:
        other = {"teacher_high_entropy": "student_high_entropy", "student_high_entropy": "teacher_high_entropy"}[name]
        assert value(compute(same, THRESHOLD)) == value(METRICS[other].compute(same, THRESHOLD))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_value_lies_within_its_bounds(name: str, frame: pd.DataFrame) -> None:
    metric = METRICS[name]
    found = metric.compute(frame) if metric.table == "completions" else metric.compute(tokens(), THRESHOLD)
    assert metric.bounds[0] <= value(found) <= metric.bounds[1]
    assert metric.label
    assert metric.unit in ("share", "nats", "answers", "tokens")


@pytest.mark.parametrize("name", sorted(name for name, m in METRICS.items() if m.direction != "neutral"))
def test_a_worse_run_moves_in_the_declared_direction(name: str, frame: pd.DataFrame) -> None:
    metric = METRICS[name]
    if metric.table == "completions":
        worse = frame.assign(
            finish_reason="length", correct=frame["correct"].where(frame["sample_id"] != 0), answer="one answer"
        )
        before, after = value(metric.compute(frame)), value(metric.compute(worse))
    else:
        good, bad = tokens(same=True), tokens(seed=7)
        bad = TokenBlock(*(getattr(bad, f) * (0.3 if f == "student_entropy" else 1) for f in bad.__dataclass_fields__))
        before, after = value(metric.compute(good, THRESHOLD)), value(metric.compute(bad, THRESHOLD))
    assert (after < before) if metric.direction == "higher" else (after > before), (name, before, after)


def test_what_is_not_graded_is_in_no_other_metric(frame: pd.DataFrame) -> None:
    half = frame.assign(correct=frame["correct"].where(frame["sample_id"] < 5))
    only = frame[frame["sample_id"] < 5]
    left, right = (METRICS["distinct_correct"].compute(table) for table in (half, only))
    np.testing.assert_array_equal(left.numerator, right.numerator)
    assert value(METRICS["ungraded_fraction"].compute(half)) > 0.4


def test_token_metrics_against_a_plain_loop(tmp_path: Path) -> None:
    """Flattening of parquet lists, empty completions and part borders: the slow twin walks token by token."""
    run = write_run(tmp_path / "run", draws(np.full(9, 0.5), 4, 0))
    values = random_tokens(9, 4, 6, 3)
    write_tokens(run, "student", run, values)
    hits = opens = 0
    for p in range(9):
        for s in range(4):
            for t in range(6):
                if np.float32(values["teacher_entropy"][p, s, t]) >= THRESHOLD:
                    opens += 1
                    hits += bool(np.float32(values["student_entropy"][p, s, t]) >= THRESHOLD)
    measured = measure(run, "run", THRESHOLD)
    assert value(measured.sums["retention@student"]) == pytest.approx(hits / opens)
    assert "retention@teacher" not in measured.sums
    assert sum(len(part.prompt) for part in blocks(run, "student")) == 9 * 4 * 6


def test_empty_completions_are_skipped_not_shifted() -> None:
    import pyarrow as pa

    lists = [[1.0, 2.0], [], [3.0]]
    table = pa.table(
        {"prompt_id": ["a", "b", "c"], **{name: pa.array(lists, pa.list_(pa.float32())) for name in TOKEN_COLUMNS}}
    )
    found = block(table)
    assert found.prompt_ids[found.prompt].tolist() == ["a", "a", "c"]
    assert found.sequence.tolist() == [0, 0, 2]


def test_every_metric_is_exercised_here() -> None:
    assert set(COMPLETIONS) | set(TOKENS) == set(METRICS)
    directed = {name for name, metric in METRICS.items() if metric.direction != "neutral"}
    assert directed  # the direction test would pass on an empty list
