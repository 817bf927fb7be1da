from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from odeval.curves import Counts, curve_per_prompt, paired_curve, permutation_test
from odeval.landmarks import crossover, effective_samples, first_loss
from odeval.metrics.passk import pass_at_k, sampling_covariance


def sampled(rates: np.ndarray, n: int, generator: np.random.Generator) -> Counts:
    return Counts(np.full(len(rates), n), generator.binomial(n, rates))


def solve_rates(prompts: int, generator: np.random.Generator) -> np.ndarray:
    """The shape of a real benchmark: some impossible, some trivial, the rest spread."""
    kind = generator.random(prompts)
    return np.where(kind < 0.15, 0.0, np.where(kind < 0.25, 0.995, generator.beta(0.7, 1.0, prompts)))


@pytest.mark.parametrize(("n", "p"), [(16, 0.05), (16, 0.4), (40, 0.02), (8, 0.9)])
def test_sampling_covariance_is_unbiased(n: int, p: float) -> None:
    """Exactly: its expectation over all outcomes is the covariance over all outcomes."""
    ks = [k for k in (1, 2, 3, 4, 8) if 2 * k <= n]
    c = np.arange(n + 1)
    weight = binom.pmf(c, n, p)
    curves = pass_at_k(np.full(n + 1, n), c, ks)
    centred = curves - weight @ curves
    truth = np.einsum("i,ij,ik->jk", weight, centred, centred)
    found = np.einsum("i,ijk->jk", weight, sampling_covariance(np.full(n + 1, n), c, ks))
    np.testing.assert_allclose(found, truth, atol=1e-14)


def test_sampling_covariance_is_unknown_where_k_plus_l_exceeds_n() -> None:
    found = sampling_covariance(np.array([8]), np.array([3]), [2, 4, 6])[0]
    assert np.isfinite(found[:2, :2]).all()
    assert np.isfinite(found[0, 2])
    assert np.isnan(found[1, 2])
    assert np.isnan(found[2, 2])


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "n"), [(50, 16), (100, 32)])
@pytest.mark.parametrize("scope", ["benchmark", "population"])
def test_bands_cover_the_truth_of_their_scope(prompts: int, n: int, scope: str) -> None:
    """Fixed prompts for benchmark scope, fresh prompts for population scope; the candidate really is worse."""
    generator = np.random.default_rng(1)
    ks = [k for k in (1, 2, 4, 8, 16) if 2 * k <= n]
    grid = np.array(ks)

    def truth(rates: np.ndarray) -> np.ndarray:
        return ((1 - rates[:, None]) ** grid - (1 - 0.7 * rates[:, None]) ** grid).mean(0)

    population = truth(solve_rates(400_000, generator))
    fixed = solve_rates(prompts, generator)
    inside, repetitions = 0, 500
    for _ in range(repetitions):
        rates = fixed if scope == "benchmark" else solve_rates(prompts, generator)
        curve = paired_curve(sampled(rates, n, generator), sampled(0.7 * rates, n, generator), ks)
        low, high = curve.band(scope, 0.95)
        target = truth(rates) if scope == "benchmark" else population
        inside += bool(((low <= target) & (target <= high)).all())
    assert inside / repetitions >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / repetitions)


def test_benchmark_scope_is_narrower_when_prompts_change_differently() -> None:
    generator = np.random.default_rng(2)
    rates = solve_rates(200, generator)
    other = np.clip(rates + generator.normal(0, 0.3, 200), 0, 1)
    curve = paired_curve(sampled(rates, 64, generator), sampled(other, 64, generator), [1, 4, 16])
    widths = {scope: np.subtract(*curve.band(scope, 0.95)[::-1]) for scope in ("benchmark", "population")}
    assert (widths["benchmark"] < 0.6 * widths["population"]).all()


def test_clustered_prompts_widen_population_scope_only() -> None:
    generator = np.random.default_rng(3)
    rates = np.repeat(solve_rates(30, generator), 8)
    worse = np.repeat(np.clip(rates[::8] + generator.normal(0, 0.3, 30), 0, 1), 8)
    runs = sampled(rates, 16, generator), sampled(worse, 16, generator)
    free, tied = (paired_curve(*runs, [1, 4], groups) for groups in (None, np.repeat(np.arange(30), 8)))
    assert (
        np.subtract(*tied.band("population", 0.95)[::-1]) > 1.5 * np.subtract(*free.band("population", 0.95)[::-1])
    ).all()
    np.testing.assert_array_equal(tied.band("benchmark", 0.95), free.band("benchmark", 0.95))


def test_unequal_n_uses_the_prompts_that_allow_k() -> None:
    baseline = Counts(np.array([8, 8, 4]), np.array([4, 0, 4]))
    candidate = Counts(np.array([8, 2, 8]), np.array([2, 2, 8]))
    curve = paired_curve(baseline, candidate, [1, 4])
    assert curve.prompts.tolist() == [3, 2]
    assert curve.baseline[0] == pytest.approx((0.5 + 0 + 1) / 3)
    expected = pass_at_k(np.array([8, 4]), np.array([4, 4]), [4]).mean()
    assert curve.baseline[1] == pytest.approx(expected)


def test_no_prompt_at_all_is_unknown() -> None:
    curve = paired_curve(Counts(np.array([2]), np.array([1])), Counts(np.array([2]), np.array([1])), [1, 8])
    assert np.isnan(curve.difference[1])
    assert np.isnan(curve.band("benchmark", 0.95)[0][1])


def test_a_curve_that_cannot_vary_is_bounded_by_its_trials() -> None:
    """All right in both runs: other samples of these prompts could hardly tell otherwise, other prompts could."""
    full = Counts(np.full(100, 32), np.full(100, 32))
    curve = paired_curve(full, full, [1, 8])
    benchmark, population = (curve.band(scope, 0.95)[0] for scope in ("benchmark", "population"))
    assert (benchmark > population).all()
    assert (benchmark < 0).all()
    assert population[0] == pytest.approx(-(1 - 0.05 ** (1 / 100)))


def exact_permutation_p(n: int, left: list[int], right: list[int], ks: list[int]) -> float:
    """Enumerate every way to deal out the pooled correct completions, with its hypergeometric weight."""
    from math import comb

    options = []
    for a, b in zip(left, right, strict=True):
        pooled = a + b
        options.append([(x, comb(n, x) * comb(n, pooled - x)) for x in range(max(0, pooled - n), min(n, pooled) + 1)])
    moved, weights = [], []
    for choice in product(*options):
        new = np.array([x for x, _ in choice])
        old = np.array(left) + np.array(right) - new
        size = np.full(len(new), n)
        moved.append((pass_at_k(size, new, ks) - pass_at_k(size, old, ks)).mean(0))
        weights.append(np.prod([float(w) for _, w in choice]))
    moved, weights = np.array(moved), np.array(weights) / np.sum(weights)
    spread = np.sqrt(weights @ moved**2)
    size = np.full(len(left), n)
    observed = (pass_at_k(size, np.array(right), ks) - pass_at_k(size, np.array(left), ks)).mean(0)
    peak = (np.abs(moved) / spread).max(1)
    return float(weights[peak >= (np.abs(observed) / spread).max() - 1e-9].sum())


def test_permutation_test_agrees_with_full_enumeration() -> None:
    n, left, right, ks = 6, [4, 3, 5, 2], [2, 2, 3, 0], [1, 2, 3]
    exact = exact_permutation_p(n, left, right, ks)
    size = np.full(4, n)
    draws = 20_000
    found, _ = permutation_test(Counts(size, np.array(left)), Counts(size, np.array(right)), ks, draws=draws)
    assert 0.001 < exact < 0.2
    assert abs(found - exact) < 4 * np.sqrt(exact * (1 - exact) / draws) + 1 / draws


def test_permutation_of_equal_counts_is_one() -> None:
    same = Counts(np.full(5, 8), np.array([0, 3, 8, 2, 5]))
    assert permutation_test(same, same, [1, 2, 4])[0] == 1.0


def test_first_loss_brackets_the_k_where_the_curve_turns() -> None:
    """A sharpened model: better on what it can solve, dead on what was rare. The exact curves cross between 2 and 4."""
    generator = np.random.default_rng(5)
    rates = np.concatenate([np.full(400, 0.5), np.full(400, 0.10)])
    sharp = np.concatenate([np.full(400, 0.65), np.full(400, 0.02)])
    ks = [1, 2, 4, 8, 16, 32]
    grid = np.array(ks)
    exact = ((1 - rates[:, None]) ** grid - (1 - sharp[:, None]) ** grid).mean(0)
    truth = ks[int(np.argmax(exact < 0))]
    curve = paired_curve(sampled(rates, 128, generator), sampled(sharp, 128, generator), ks)
    earliest, established = first_loss(curve, "benchmark", 0.95)
    assert earliest <= truth <= established
    assert ks[int(np.argmax(exact < 0)) - 1] < crossover(curve) <= truth
    assert first_loss(paired_curve(*[sampled(rates, 128, generator)] * 2, ks), "benchmark", 0.95)[1] is None


def test_effective_samples_inverts_the_teacher_curve() -> None:
    teacher = Counts(np.full(100, 64), np.full(100, 16))
    student = Counts(np.full(100, 64), np.full(100, 4))
    assert effective_samples(teacher, student, list(range(1, 65)))["value"] == pytest.approx(49)  # both cannot miss
    found = effective_samples(teacher, student, list(range(1, 33)))["value"]
    reached = pass_at_k(student.n, student.c, [32])[0, 0]
    around = pass_at_k(teacher.n[:1], teacher.c[:1], [int(found), int(found) + 1])[0]
    assert around[0] <= reached <= around[1]
    assert effective_samples(student, teacher, [1, 2])["value"] is None


def test_undefined_points_are_left_out_of_a_run() -> None:
    curve = curve_per_prompt(Counts(np.array([2, 8]), np.array([0, 8])), np.array(["a", "b"]), [5])
    assert curve.denominator.tolist() == [[0], [1]]
