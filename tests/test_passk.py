from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odeval.curves import Counts, curve_per_prompt
from odeval.errors import OdevalError
from odeval.metrics.passk import counts, pass_at_k


def exact(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(comb(n - c, k), comb(n, k))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_equals_the_definition_in_exact_fractions(case: tuple[int, int, int]) -> None:
    n, c, k = case
    value = pass_at_k(np.array([n]), np.array([c]), [k])[0, 0]
    truth = exact(n, c, k)
    assert abs(Fraction(value) - truth) <= truth * Fraction(1, 10**14)


@pytest.mark.parametrize("n", [1_000, 10_000])
def test_keeps_fourteen_digits_where_lgamma_does_not(n: int) -> None:
    corrects, ks = [0, 1, 7, n // 3, n - 1, n], [1, 2, n // 7, n // 2, n - 1, n]
    found = pass_at_k(np.full(len(corrects), n), np.array(corrects), ks)
    for i, c in enumerate(corrects):
        for j, k in enumerate(ks):
            truth = exact(n, c, k)
            assert abs(Fraction(found[i, j]) - truth) <= truth * Fraction(1, 10**14), (n, c, k)


def test_one_correct_of_a_hundred_thousand_is_k_over_n() -> None:
    ks = np.array([1, 10, 12_345, 50_000, 100_000])
    found = pass_at_k(np.array([100_000]), np.array([1]), ks)[0]
    np.testing.assert_allclose(found, ks / 100_000, rtol=1e-14)


def test_is_the_share_of_subsets_that_hold_a_correct_completion() -> None:
    grades = [True, False, False, True, False]
    for k in range(1, 6):
        subsets = list(combinations(grades, k))
        share = sum(any(subset) for subset in subsets) / len(subsets)
        assert pass_at_k(np.array([5]), np.array([2]), [k])[0, 0] == pytest.approx(share, abs=1e-15)


def test_is_unknown_where_k_exceeds_n_and_never_padded() -> None:
    found = pass_at_k(np.array([2, 8]), np.array([0, 8]), [1, 2, 5])
    assert np.isnan(found[0, 2])
    assert found[1].tolist() == [1, 1, 1]
    curve = curve_per_prompt(Counts(np.array([2, 8]), np.array([0, 8])), np.array(["a", "b"]), [5])
    assert curve.denominator.tolist() == [[0], [1]]


def test_grid_may_be_unsorted_and_repeated() -> None:
    found = pass_at_k(np.array([10]), np.array([3]), [5, 1, 5])[0]
    assert found[0] == found[2] == pytest.approx(float(exact(10, 3, 5)))
    assert found[1] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("n", "c", "k", "text"), [(4, 2, 0, "k 0: must be >= 1"), (4, 5, 1, "more correct completions")]
)
def test_refuses_impossible_counts(n: int, c: int, k: int, text: str) -> None:
    with pytest.raises(OdevalError, match=text):
        pass_at_k(np.array([n]), np.array([c]), [k])


def test_what_was_not_graded_is_in_neither_count() -> None:
    frame = pd.DataFrame({"prompt_id": ["a"] * 4 + ["b"], "correct": [1.0, 0.0, np.nan, 1.0, np.nan]})
    table = counts(frame)
    assert table.loc["a"].tolist() == [3, 2]
    assert table.loc["b"].tolist() == [0, 0]
