from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odeval.errors import OdevalError
from odeval.metrics.topk import entropy_bounds, tail_bucket_kl, undecidable


def distribution(vocab: int, sharpness: float, seed: int) -> np.ndarray:
    logits = sharpness * np.random.default_rng(seed).standard_normal((20, vocab))
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def entropy(p: np.ndarray) -> np.ndarray:
    return np.array([-sum(x * np.log(x) for x in row if x > 0) for row in p])


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 300), st.integers(1, 40), st.floats(0, 8), st.integers(0, 10_000))
def test_entropy_lies_within_its_bounds(vocab: int, k: int, sharpness: float, seed: int) -> None:
    p = distribution(vocab, sharpness, seed)
    kept = np.log(np.maximum(np.sort(p, axis=1)[:, ::-1][:, : min(k, vocab)], 1e-300))
    found = entropy_bounds(kept, vocab)
    truth = entropy(p)
    assert (found.low <= truth + 1e-9).all()
    assert (truth <= found.high + 1e-9).all()
    assert (found.high <= np.log(vocab) + 1e-9).all()


def test_bounds_are_reached() -> None:
    """The tail as peaked as it may be, and uniform: the bounds are not merely valid but tight."""
    peaked = np.array([[0.4, 0.3, 0.3, 0.0, 0.0]])
    found = entropy_bounds(np.log(peaked[:, :2]), 5)
    assert found.low[0] == pytest.approx(entropy(peaked)[0])
    uniform = np.array([[0.4, 0.3, 0.1, 0.1, 0.1]])
    found = entropy_bounds(np.log(uniform[:, :2]), 5)
    assert found.high[0] == pytest.approx(entropy(uniform)[0])


def test_the_whole_vocabulary_leaves_no_doubt() -> None:
    p = distribution(7, 2.0, 0)
    found = entropy_bounds(np.log(p), 7)
    np.testing.assert_allclose(found.low, entropy(p))
    np.testing.assert_allclose(found.high, entropy(p))
    assert not undecidable(found, 1.0).any()


def test_shorter_rows_are_padded_not_counted() -> None:
    full = entropy_bounds(np.log([[0.5, 0.3]]), 10)
    padded = entropy_bounds(np.array([[np.log(0.5), np.log(0.3), -np.inf, np.nan]]), 10)
    assert (padded.low, padded.high) == (full.low, full.high)


def test_renormalising_would_be_outside_the_bounds() -> None:
    """What trainers do, dividing the top K by their sum, is not even between the bounds."""
    p = np.sort(distribution(500, 0.5, 1), axis=1)[:, ::-1]
    top = p[:, :20]
    assert (entropy(top / top.sum(1, keepdims=True)) < entropy_bounds(np.log(top), 500).low).all()


def test_positions_that_cannot_be_decided_are_counted() -> None:
    found = entropy_bounds(np.log([[0.5, 0.3], [0.98, 0.015]]), 1000)
    assert undecidable(found, 1.2).tolist() == [True, False]


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 200), st.integers(1, 30), st.floats(0, 5), st.integers(0, 10_000))
def test_bucketed_kl_never_exceeds_the_truth(vocab: int, k: int, sharpness: float, seed: int) -> None:
    p, q = distribution(vocab, sharpness, seed), distribution(vocab, sharpness, seed + 1)
    p, q = np.maximum(p, 1e-30), np.maximum(q, 1e-30)
    chosen = np.argsort(-p, axis=1)[:, : min(k, vocab)]
    found = tail_bucket_kl(*(np.log(np.take_along_axis(x, chosen, 1)) for x in (p, q)))
    truth = (p * np.log(p / q)).sum(1)
    assert (found.low <= truth + 1e-6).all()
    assert (found.low >= 0).all()


def test_bucketed_kl_is_exact_where_everything_is_known() -> None:
    p, q = distribution(9, 1.0, 3), distribution(9, 1.0, 4)
    found = tail_bucket_kl(np.log(p), np.log(q))
    np.testing.assert_allclose(found.low, (p * np.log(p / q)).sum(1), atol=1e-9)
    assert np.isfinite(found.high).all()


@pytest.mark.parametrize(
    ("logprobs", "vocab", "message"),
    [([[-0.1, -0.2]], 10, "sum to 1.7"), ([[-1.0, -2.0, -3.0]], 2, "3 log-probabilities of a vocabulary of 2")],
)
def test_what_is_no_distribution_is_refused(logprobs: list, vocab: int, message: str) -> None:
    with pytest.raises(OdevalError, match=message):
        entropy_bounds(np.array(logprobs), vocab)
