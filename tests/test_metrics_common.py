"""The same invariants for every entry of METRICS; a metric that is not exercised here fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import draws, random_tokens, write_run, write_tokens

from odeval.completions import load_completions
from odeval.measure import measure
from odeval.metrics import FAMILIES, METRICS
from odeval.metrics.passk import counts
from odeval.metrics.tokens import TokenBlock, block, blocks, combined
from odeval.schemas import BRANCH_COLUMNS, TOKEN_COLUMNS
from odeval.types import PerPrompt

THRESHOLD = 0.8
COLUMNS = (*TOKEN_COLUMNS, *BRANCH_COLUMNS)
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
    found = load_completions(write_run(folder, graded, answers=answers, reasons=reasons)).whole()
    return found.assign(entropy=generator.integers(0, 4096, len(found)) / 1024)  # sums are exact in any order


def tokens(seed: int = 0, prompts: int = 9, same: bool = False) -> TokenBlock:
    values = random_tokens(prompts, 4, 6, seed)
    if same:
        values |= {"student_entropy": values["teacher_entropy"], "student_logprob": values["teacher_logprob"]}
        values |= {"forward_kl": np.zeros((prompts, 4, 6)), "reverse_kl": np.zeros((prompts, 4, 6))}
        known = np.where(np.isnan(values["dropped"]), np.nan, 1.0)
        values |= {"nucleus_recall": 0.97 * known, "top_overlap": known, "dropped": 0 * known}
    flat = {name: values[name].ravel() for name in COLUMNS}
    return TokenBlock(
        prompt_ids=np.array([f"p{i}" for i in range(prompts)], dtype=object),
        prompt=np.repeat(np.arange(prompts), 24),
        sequence=np.repeat(np.arange(prompts * 4), 6),
        position=np.tile(np.arange(6), prompts * 4),
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
    twice = pd.concat([frame, frame.assign(prompt_id=frame["prompt_id"].astype(str) + "'")], ignore_index=True)
    assert value(METRICS[name].compute(twice)) == pytest.approx(value(METRICS[name].compute(frame)))


@pytest.mark.parametrize("name", TOKENS)
def test_blocks_add_up_to_the_whole(name: str) -> None:
    whole = tokens()
    compute = METRICS[name].compute
    total = combined([compute(half(whole, parity), THRESHOLD) for parity in (0, 1)])
    expected = compute(whole, THRESHOLD)
    np.testing.assert_allclose(total.numerator, expected.numerator)
    np.testing.assert_allclose(total.denominator, expected.denominator)


def half(whole: TokenBlock, parity: int) -> TokenBlock:
    chosen = whole.sequence % 2 == parity
    columns = ("prompt", "sequence", "position", *COLUMNS)
    return TokenBlock(whole.prompt_ids, *(getattr(whole, name)[chosen] for name in columns))


@pytest.mark.parametrize("name", sorted(name for name, family in FAMILIES.items() if family.reads == "tokens"))
def test_families_add_up_and_stay_in_bounds(name: str) -> None:
    whole, family = tokens(), FAMILIES[name]
    grid = family.grid or (0.3, 0.8, 1.0)
    expected = family.compute(whole, grid)
    total = combined([family.compute(half(whole, parity), grid) for parity in (0, 1)])
    np.testing.assert_allclose(total.numerator, expected.numerator)
    np.testing.assert_allclose(total.denominator, expected.denominator)
    assert expected.grid == grid
    with np.errstate(invalid="ignore"):
        values = expected.numerator.sum(0) / expected.denominator.sum(0)
    values = values[np.isfinite(values)]
    assert len(values)
    assert (values >= family.bounds[0]).all()
    assert (values <= family.bounds[1]).all()


def test_families_agree_with_the_metric_at_one_threshold() -> None:
    whole = tokens()
    grid = FAMILIES["retention_by_threshold"].compute(whole, (0.3, THRESHOLD))
    single = METRICS["retention"].compute(whole, THRESHOLD)
    np.testing.assert_array_equal(grid.numerator[:, 1], single.numerator)


@pytest.mark.parametrize("name", sorted(name for name, family in FAMILIES.items() if family.reads != "tokens"))
def test_one_draw_is_right_as_often_as_any_other(name: str, frame: pd.DataFrame) -> None:
    generator = np.random.default_rng(1)
    frame = frame.assign(reward=generator.random(len(frame)))
    family = FAMILIES[name]
    table = counts(frame) if family.reads == "counts" else frame
    found = family.compute(table, (1, 4, 50))
    own = counts(frame)
    expected = (own["c"] / own["n"]).sum() / len(own)
    values = found.numerator.sum(0) / np.maximum(found.denominator.sum(0), 1)
    # a vote of one is drawn, not enumerated
    assert values[0] == pytest.approx(expected, abs=0.05 if name == "majority_at_k" else 1e-12)
    assert 0 <= values[1] <= 1
    assert found.denominator[:, 2].sum() == 0, "nobody has 50 completions"


def test_coverage_profile_against_a_plain_loop() -> None:
    whole = tokens()
    found = FAMILIES["coverage_profile"].compute(whole, (2.0, 16.0))
    for j, m in enumerate((2.0, 16.0)):
        count = 0
        for sequence in np.unique(whole.sequence):
            own = whole.sequence == sequence
            ratio = np.exp(whole.teacher_logprob[own].sum() - whole.student_logprob[own].sum())
            count += ratio >= m
        assert found.numerator[:, j].sum() == count
    assert found.denominator[:, 0].sum() == len(np.unique(whole.sequence))


def test_positions_fall_into_their_stretch() -> None:
    whole = tokens()
    found = FAMILIES["forward_kl_by_position"].compute(whole, (1.0, 2.0, 4.0, 8.0))
    assert found.denominator.sum(0).tolist() == [36, 36, 72, 72]  # positions 0; 1; 2-3; 4-5 of 36 completions
    assert found.numerator[:, 0].sum() == pytest.approx(whole.forward_kl[whole.position == 0].sum())


@pytest.mark.parametrize("name", TOKENS)
def test_teacher_against_itself(name: str) -> None:
    same = tokens(same=True)
    compute = METRICS[name].compute
    if name == "retention":
        assert value(compute(same, THRESHOLD)) == 1
    elif "kl" in name or "lost" in name or "dropped" in name:
        assert value(compute(same, THRESHOLD)) == 0
    elif name == "top_overlap":
        assert value(compute(same, THRESHOLD)) == 1
    elif name == "nucleus_recall":
        assert value(compute(same, THRESHOLD)) >= 0.95
    else:
        model, _, what = name.partition("_")
        other = {"teacher": "student", "student": "teacher"}[model] + "_" + what
        assert value(compute(same, THRESHOLD)) == value(METRICS[other].compute(same, THRESHOLD))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_value_lies_within_its_bounds(name: str, frame: pd.DataFrame) -> None:
    metric = METRICS[name]
    found = metric.compute(frame) if metric.table == "completions" else metric.compute(tokens(), THRESHOLD)
    assert metric.bounds[0] <= value(found) <= metric.bounds[1]
    assert metric.label
    assert metric.unit in ("share", "nats", "answers", "tokens", "branches", "per 1000")


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


def test_branch_columns_count_at_branch_points_and_unknown_stays_unknown() -> None:
    whole = tokens()
    found = METRICS["dropped_branches"].compute(whole, THRESHOLD)
    branch = whole.teacher_entropy >= THRESHOLD
    assert value(found) == pytest.approx(1000 * sum(whole.dropped[branch]) / branch.sum())
    assert value(METRICS["nucleus_recall"].compute(whole, THRESHOLD)) == pytest.approx(
        whole.nucleus_recall[branch].mean()
    )
    low = METRICS["top_overlap"].compute(whole, 0.1)  # there are branch points that nobody looked at
    assert np.isnan(low.numerator).any()
    assert not np.isnan(METRICS["top_overlap"].compute(whole, 0.3).numerator).any()


def test_empty_completions_are_skipped_not_shifted() -> None:
    import pyarrow as pa

    lists = [[1.0, 2.0], [], [3.0]]
    table = pa.table(
        {"prompt_id": ["a", "b", "c"], **{name: pa.array(lists, pa.list_(pa.float32())) for name in TOKEN_COLUMNS}}
    )
    found = block(table)
    assert found.prompt_ids[found.prompt].tolist() == ["a", "a", "c"]
    assert found.sequence.tolist() == [0, 0, 2]
    assert found.position.tolist() == [0, 1, 0]


def test_every_metric_is_exercised_here() -> None:
    assert set(COMPLETIONS) | set(TOKENS) == set(METRICS)
    directed = {name for name, metric in METRICS.items() if metric.direction != "neutral"}
    assert directed  # the direction test would pass on an empty list
