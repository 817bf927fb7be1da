from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy import optimize
from scipy import stats as distributions

from odeval.curves import Counts
from odeval.errors import OdevalError
from odeval.extrapolate import extrapolate, fit
from odeval.metrics.hypergeometric import chance
from odeval.metrics.passk import pass_at_k
from odeval.metrics.reliability import best_of_k, g_pass_at_k, majority_at_k, pass_hat_k
from odeval.overlap import benjamini_hochberg, overlap
from odeval.types import PerPrompt


def test_pass_hat_k_counts_subsets_that_are_all_right() -> None:
    for n, c in ((7, 3), (7, 7), (7, 0)):
        grades = [True] * c + [False] * (n - c)
        for k in range(1, 8):
            subsets = list(combinations(grades, k))
            expected = sum(all(subset) for subset in subsets) / len(subsets)
            assert pass_hat_k(np.array([n]), np.array([c]), [k])[0, 0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_g_pass_counts_subsets_with_enough_right_ones(tau: float) -> None:
    n, c = 8, 5
    for k in range(1, 9):
        needed = max(1, -(-round(tau * k * 1000) // 1000))
        expected = sum(comb(c, j) * comb(n - c, k - j) for j in range(needed, k + 1) if k - j <= n - c) / comb(n, k)
        assert g_pass_at_k(np.array([n]), np.array([c]), [k], tau)[0, 0] == pytest.approx(expected, abs=1e-12)


def test_g_pass_joins_pass_at_k_and_pass_hat_k() -> None:
    n, c, ks = np.array([16, 16, 16]), np.array([0, 5, 16]), [1, 3, 10]
    np.testing.assert_allclose(g_pass_at_k(n, c, ks, 0.0), pass_at_k(n, c, ks), atol=1e-12)
    np.testing.assert_allclose(g_pass_at_k(n, c, ks, 1.0), pass_hat_k(n, c, ks), atol=1e-12)
    assert np.isnan(pass_hat_k(np.array([2]), np.array([2]), [3])).all()
    with pytest.raises(OdevalError, match=r"tau 1.5: must be in \[0, 1\]"):
        g_pass_at_k(n, c, ks, 1.5)


@pytest.mark.parametrize("n", [3, 17, 64, 1000])
def test_many_samples_lose_no_digits(n: int) -> None:
    """Against exact fractions, for any k and any number of right ones; sums of log-gammas are off by 2e-12 here."""
    generator = np.random.default_rng(n)
    for _ in range(40):
        c, k = (int(x) for x in generator.integers(0, n + 1, 2))
        found = chance(np.arange(k + 1), np.array(n), np.array(c), np.array(k))
        ways = [comb(c, j) * comb(n - c, k - j) for j in range(k + 1)]
        np.testing.assert_allclose(found, [float(Fraction(way, comb(n, k))) for way in ways], atol=1e-13, rtol=1e-11)
        assert found.sum() == pytest.approx(1, abs=1e-12)


def frame(**columns: list) -> pd.DataFrame:
    size = len(next(iter(columns.values())))
    return pd.DataFrame({"prompt_id": ["p"] * size, "sample_id": range(size), **columns})


def at(curve: PerPrompt, k: int, prompt_id: str = "p") -> float:
    row, column = list(curve.prompt_ids).index(prompt_id), curve.grid.index(k)
    known = curve.denominator[row, column]
    return float(curve.numerator[row, column]) if known else float("nan")


def test_best_of_k_is_the_mean_over_subsets() -> None:
    reward, correct = [0.1, 0.9, 0.5, 0.7, 0.3], [1.0, 0.0, 1.0, 0.0, 1.0]
    found = best_of_k(frame(reward=reward, correct=correct), [1, 2, 3, 5, 6])
    for k in (1, 2, 3, 5):
        subsets = list(combinations(range(5), k))
        expected = np.mean([correct[max(subset, key=lambda i: reward[i])] for subset in subsets])
        assert at(found, k) == pytest.approx(expected)
    assert np.isnan(at(found, 6))


def test_best_of_k_breaks_ties_at_random_not_by_order() -> None:
    rows = frame(reward=[1.0, 1.0, 1.0, 1.0], correct=[1.0, 0.0, 0.0, 0.0])
    assert at(best_of_k(rows, [4]), 4) == pytest.approx(0.25)
    assert at(best_of_k(rows.iloc[::-1], [4]), 4) == pytest.approx(0.25)


def test_majority_is_the_mean_over_subsets_with_random_ties() -> None:
    answers, correct = ["a", "a", "b", "b", "c"], [1.0, 1.0, 0.0, 0.0, 0.0]
    found = majority_at_k(frame(answer=answers, correct=correct), [1, 3, 5], draws=20_000)
    for k in (1, 3, 5):
        shares = []
        for subset in combinations(range(5), k):
            votes = {name: sum(answers[i] == name for i in subset) for name in "abc"}
            winners = [name for name in "abc" if votes[name] == max(votes.values())]
            shares.append(winners.count("a") / len(winners))
        assert at(found, k) == pytest.approx(np.mean(shares), abs=0.015)


def test_who_gives_no_answer_does_not_vote() -> None:
    rows = frame(answer=[None, None, None, "a"], correct=[0.0, 0.0, 0.0, 1.0])
    assert at(majority_at_k(rows, [4]), 4) == 1.0
    assert at(majority_at_k(frame(answer=[None, None], correct=[0.0, 0.0]), [2]), 2) == 0.0


def test_majorities_of_many_prompts_do_not_mix() -> None:
    """Other prompts, their answers and the order of rows change nothing; uneven n, no answers, no grades."""
    generator = np.random.default_rng(3)
    tables = []
    for p, size in enumerate([6, 6, 9, 1, 6, 0, 4]):
        answer = generator.choice(["a", "b", "c", None], size).tolist()
        correct = [float(a == "a") if generator.random() < 0.8 else np.nan for a in answer]
        tables.append(frame(answer=answer, correct=correct).assign(prompt_id=f"p{p}"))
    together = pd.concat(tables)
    ks = [1, 2, 5]
    found = majority_at_k(together, ks)
    shuffled = majority_at_k(together.sample(frac=1, random_state=0), ks)
    np.testing.assert_array_equal(found.numerator, shuffled.numerator)
    for p, table in enumerate(tables):
        graded = int(table["correct"].notna().sum())
        if graded:
            alone = majority_at_k(table, ks)
            for k in ks:
                assert at(found, k, f"p{p}") == pytest.approx(at(alone, k, f"p{p}"), nan_ok=True)
                assert np.isnan(at(alone, k, f"p{p}")) == (graded < k)
                if k == graded:
                    votes = table.dropna(subset=["correct", "answer"])["answer"].value_counts()
                    top = votes.index[votes == votes.max()] if len(votes) else []
                    assert at(alone, k, f"p{p}") == pytest.approx(("a" in top) / max(len(top), 1))


def test_overlap_finds_the_prompts_that_changed_and_few_others() -> None:
    generator = np.random.default_rng(0)
    rates = generator.uniform(0.2, 0.8, 300)
    changed = np.zeros(300, dtype=bool)
    changed[:40] = True
    new_rates = np.where(changed, rates * 0.05, rates)
    n = np.full(300, 64)
    found = overlap(Counts(n, generator.binomial(64, rates)), Counts(n, generator.binomial(64, new_rates)))
    assert found.lost[:40].mean() > 0.9
    assert found.lost[40:].sum() <= 0.15 * found.lost.sum()
    assert found.gained.sum() <= 3
    assert found.both + found.baseline_only + found.candidate_only + found.neither == 300


def test_nothing_changed_discovers_nothing_most_of_the_time() -> None:
    generator = np.random.default_rng(1)
    n, any_found = np.full(100, 32), 0
    for _ in range(200):
        rates = generator.beta(0.7, 1.0, 100)
        found = overlap(Counts(n, generator.binomial(32, rates)), Counts(n, generator.binomial(32, rates)))
        any_found += bool(found.lost.any())
    assert any_found / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_fisher_is_one_where_a_run_is_empty() -> None:
    zero, some = Counts(np.array([0]), np.array([0])), Counts(np.array([8]), np.array([8]))
    found = overlap(some, zero)
    assert found.p_lost.tolist() == [1.0]
    assert (found.both, found.baseline_only, found.candidate_only, found.neither) == (0, 0, 0, 0), (
        "not asked is not lost"
    )
    assert benjamini_hochberg(np.zeros(0), 0.05).size == 0


def test_extrapolation_recovers_the_distribution_it_assumes() -> None:
    generator = np.random.default_rng(2)
    rates = np.where(generator.random(4000) < 0.2, 0.0, generator.beta(0.6, 2.0, 4000))
    counts = Counts(np.full(4000, 16), generator.binomial(16, rates))
    found = fit(counts)
    assert found.zeros == pytest.approx(0.2, abs=0.06)
    curve = extrapolate(counts)
    assert curve["k"][0] == 16
    assert curve["k"][-1] == 64
    truth = 1 - ((1 - rates) ** 64).mean()
    assert curve["value"][-1] == pytest.approx(truth, abs=0.03)
    assert curve["without_zeros"][-1] > curve["value"][-1]


@pytest.mark.parametrize("inflated", [True, False])
def test_the_fit_is_the_maximum_that_an_optimiser_finds(inflated: bool) -> None:
    for seed, n, (zeros, a, b) in ((0, 16, (0.2, 0.6, 2.0)), (1, 64, (0.0, 3.0, 0.4)), (2, 8, (0.5, 30.0, 20.0))):
        generator = np.random.default_rng(seed)
        rates = np.where(generator.random(300) < zeros, 0.0, generator.beta(a, b, 300))
        c = generator.binomial(n, rates)

        def loss(theta: np.ndarray, c: np.ndarray = c, n: int = n) -> float:
            mass = distributions.betabinom.pmf(c, n, *np.exp(theta[:2]))
            share = 1 / (1 + np.exp(-theta[2])) if inflated else 0.0
            return -float(np.log(share * (c == 0) + (1 - share) * mass).sum())

        start = [np.log(a), np.log(b), -1.0]
        bounds = [(-8, 8), (-8, 8), (-12, 6)]
        best = optimize.minimize(
            loss, start, method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-6, "fatol": 1e-9}
        )
        own = fit(Counts(np.full(300, n), c), inflated)
        theta = np.array([np.log(own.a), np.log(own.b), np.log(own.zeros / (1 - own.zeros)) if inflated else 0.0])
        assert loss(theta) <= best.fun + 1e-4


def test_extrapolation_is_silent_where_it_knows_nothing() -> None:
    assert extrapolate(Counts(np.full(50, 8), np.zeros(50, dtype=int))) is None
    assert extrapolate(Counts(np.full(50, 8), np.full(50, 8))) is None
    assert extrapolate(Counts(np.full(5, 8), np.array([1, 2, 3, 4, 5]))) is None
