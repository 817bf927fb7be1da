from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as distributions

from odeval.stats import estimate, linearise, rare, sup_t
from odeval.types import PerPrompt


def names(count: int) -> np.ndarray:
    return np.array([f"p{i}" for i in range(count)], dtype=object)


def test_a_mean_has_the_textbook_interval() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 40)
    item = estimate(linearise(PerPrompt(names(40), values, np.ones(40)), names(40)))[0]
    low, high = distributions.t.interval(0.95, 39, values.mean(), values.std(ddof=1) / np.sqrt(40))
    assert (item.value, item.low, item.high) == pytest.approx((values.mean(), low, high))


def test_a_paired_difference_has_the_interval_of_the_differences() -> None:
    generator = np.random.default_rng(2)
    level = generator.normal(0, 5, 60)
    a, b = level + generator.normal(0, 0.1, 60), level + 0.3 + generator.normal(0, 0.1, 60)
    parts = [linearise(PerPrompt(names(60), value, np.ones(60)), names(60)) for value in (a, b)]
    item = estimate(parts[1].minus(parts[0]))[0]
    low, high = distributions.t.interval(0.95, 59, (b - a).mean(), (b - a).std(ddof=1) / np.sqrt(60))
    assert (item.low, item.high) == pytest.approx((low, high))
    assert item.high - item.low < 0.1 * (estimate(parts[0])[0].high - estimate(parts[0])[0].low)


def test_a_ratio_weighs_prompts_by_their_denominator_and_its_interval_covers() -> None:
    """Lengths vary tenfold and correlate with the share: the mean of per-prompt shares would be biased."""
    generator = np.random.default_rng(3)
    covered, repetitions, prompts = 0, 600, 80
    lengths_all = generator.integers(10, 100, 200_000)
    truth = (lengths_all * (lengths_all / 150)).sum() / lengths_all.sum()
    for _ in range(repetitions):
        lengths = generator.integers(10, 100, prompts)
        hits = generator.binomial(lengths, lengths / 150)
        item = estimate(linearise(PerPrompt(names(prompts), hits, lengths), names(prompts)))[0]
        covered += item.low <= truth <= item.high
    assert abs(covered / repetitions - 0.95) < 3 * np.sqrt(0.95 * 0.05 / repetitions)


def test_clusters_widen_the_interval_to_that_of_cluster_means() -> None:
    generator = np.random.default_rng(4)
    values = np.repeat(generator.normal(0, 1, 30), 10)
    metric = PerPrompt(names(300), values, np.ones(300))
    clustered = estimate(linearise(metric, names(300), np.repeat(np.arange(30), 10)))[0]
    means = values[::10]
    low, high = distributions.t.interval(0.95, 29, means.mean(), means.std(ddof=1) / np.sqrt(30))
    assert (clustered.low, clustered.high) == pytest.approx((low, high))


def test_no_variation_is_not_certainty() -> None:
    metric = PerPrompt(names(100), np.zeros(100), np.ones(100))
    item = estimate(linearise(metric, names(100)), bounds=(0.0, 1.0))[0]
    assert item.value == 0
    assert item.high == pytest.approx(rare(100, 0.05))
    assert item.high > 0.02
    assert "no variation" in item.caution
    unbounded = estimate(linearise(metric, names(100)), bounds=(0.0, np.inf))[0]
    assert np.isnan(unbounded.high)


def test_unknown_is_nan_with_a_reason() -> None:
    empty = estimate(linearise(PerPrompt(names(5), np.zeros(5), np.zeros(5)), names(5)))[0]
    assert np.isnan(empty.value)
    assert "no prompt" in empty.caution
    single = estimate(linearise(PerPrompt(names(1), np.ones(1), np.ones(1)), names(1)))[0]
    assert single.value == 1
    assert np.isnan(single.low)


def test_prompts_that_say_nothing_change_nothing() -> None:
    values = np.random.default_rng(5).random(30)
    plain = estimate(linearise(PerPrompt(names(30), values, np.ones(30)), names(30)))[0]
    padded = PerPrompt(names(35), np.append(values, [0.0] * 5), np.append(np.ones(30), [0.0, 0.0, 0.0, np.nan, 0.0]))
    item = estimate(linearise(padded, names(35)))[0]
    assert item.value == pytest.approx(plain.value)
    assert item.n == 30
    assert item.high - item.low == pytest.approx(plain.high - plain.low, rel=0.02)


def test_simultaneous_band_covers_the_whole_curve_at_its_level() -> None:
    generator = np.random.default_rng(6)
    prompts, points, repetitions = 120, 6, 500
    mixing = np.tril(np.ones((points, points))) * 0.7 + np.eye(points)
    inside = 0
    for _ in range(repetitions):
        values = generator.standard_normal((prompts, points)) @ mixing.T
        grid = tuple(float(i) for i in range(points))
        curve = linearise(PerPrompt(names(prompts), values, np.ones_like(values), grid), names(prompts))
        covariance = curve.covariance()
        half = sup_t(covariance, curve.degrees, 0.95) * np.sqrt(np.diag(covariance))
        inside += bool((np.abs(curve.value) <= half).all())
    assert abs(inside / repetitions - 0.95) < 3 * np.sqrt(0.95 * 0.05 / repetitions)


def test_sup_t_lies_between_one_point_and_bonferroni() -> None:
    independent = np.eye(8)
    single = distributions.t.ppf(0.975, 200)
    bonferroni = distributions.t.ppf(1 - 0.025 / 8, 200)
    assert single < sup_t(independent, 200, 0.95) < bonferroni * 1.02
    assert sup_t(np.ones((8, 8)), 200, 0.95) == pytest.approx(single, rel=0.02)
    assert np.isnan(sup_t(np.zeros((3, 3)), 200, 0.95))


def test_one_sided_is_smaller_than_two_sided() -> None:
    assert sup_t(np.eye(4), 100, 0.95, two_sided=False) < sup_t(np.eye(4), 100, 0.95)
