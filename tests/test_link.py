from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as distributions

from odeval.link import exposure_bias, rank_link, ratio_per_prompt
from odeval.stats import linearise
from odeval.types import PerPrompt


def test_without_controls_it_is_spearman() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal(150)
    y = np.exp(x) + generator.standard_normal(150)
    found = rank_link(x, y)
    assert found.value == pytest.approx(distributions.spearmanr(x, y).statistic)
    assert found.low < found.value < found.high
    assert found.n == 150


def test_a_common_cause_is_taken_out() -> None:
    """Length drives both; beyond it there is no link, and the partial correlation must say so."""
    generator = np.random.default_rng(1)
    length = generator.standard_normal(400)
    x, y = (length + 0.5 * generator.standard_normal(400) for _ in range(2))
    assert rank_link(x, y).value > 0.6
    partial = rank_link(x, y, [length])
    assert abs(partial.value) < 0.15
    assert partial.low < 0 < partial.high


def test_intervals_cover() -> None:
    generator = np.random.default_rng(2)
    truth = 6 / np.pi * np.arcsin(0.5 / 2)  # Spearman's of a bivariate normal with correlation 0.5
    inside = 0
    for seed in range(120):
        x = generator.standard_normal(100)
        y = 0.5 * x + np.sqrt(0.75) * generator.standard_normal(100)
        found = rank_link(x, y, seed=seed)
        inside += found.low <= truth <= found.high
    assert inside / 120 >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 120)


def test_what_cannot_be_known_says_why() -> None:
    x = np.arange(30.0)
    assert "20 are needed" in rank_link(x[:10], x[:10]).caution
    constant = rank_link(x, np.ones(30))
    assert np.isnan(constant.value)
    assert "does not vary" in constant.caution
    gaps = np.where(x < 15, np.nan, x)
    assert rank_link(gaps, x).n == 15


def test_values_per_prompt_follow_the_asked_order() -> None:
    metric = PerPrompt(np.array(["a", "b"]), np.array([1.0, 0.0]), np.array([4.0, 0.0]))
    found = ratio_per_prompt(metric, ["b", "a", "c"])
    assert found[1] == 0.25
    assert np.isnan(found[[0, 2]]).all()


def stretches(values: np.ndarray, prompts: int = 50) -> PerPrompt:
    generator = np.random.default_rng(len(values) + round(1000 * values.sum()))
    noise = generator.normal(0, 0.02, (prompts, len(values)))
    names = np.array([f"p{i}" for i in range(prompts)], dtype=object)
    return PerPrompt(names, values + noise, np.ones((prompts, len(values))), tuple(range(1, len(values) + 1)))


def test_exposure_bias_is_the_excess_of_accumulated_error() -> None:
    """KL 0.1 a token in the teacher's contexts; 0.1, 0.2, 0.3, 0.4 in the student's own, as errors pile up."""
    ends = [1.0, 2.0, 3.0, 4.0]
    teacher = stretches(np.full(4, 0.1))
    student = stretches(np.array([0.1, 0.2, 0.3, 0.4]))
    lines = [linearise(metric, list(metric.prompt_ids)) for metric in (student, teacher)]
    found = exposure_bias(*lines, ends)
    for j in range(4):
        truth = sum(0.1 * (i + 1) for i in range(j + 1)) / (0.1 * (j + 1)) - 1
        assert found[j].low <= truth <= found[j].high
    assert found[3].value == pytest.approx(1.5, abs=0.1)


def test_exposure_bias_is_unknown_beyond_the_last_token() -> None:
    metric = stretches(np.full(3, 0.1))
    cut = PerPrompt(metric.prompt_ids, metric.numerator, metric.denominator * [1, 1, 0], metric.grid)
    lines = [linearise(m, list(metric.prompt_ids)) for m in (metric, cut)]
    found = exposure_bias(*lines, [1.0, 2.0, 3.0])
    assert np.isfinite(found[1].value)
    assert np.isnan(found[2].value)
