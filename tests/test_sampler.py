"""Temperature, top-k, top-p and the inverse of the distribution function, against brute force in fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from odeval.engines.sampler import draw, truncated, uniforms

LAST = 1 - 2.0**-53  # the largest uniform there is


def brute_force(masses: list[int], top_k: int, top_p: Fraction) -> dict[int, Fraction]:
    """What is left, renormalised: top-k first, then top-p of what top-k left; ties go to the smaller id."""
    order = sorted(range(len(masses)), key=lambda token: (-masses[token], token))
    if top_k:
        order = order[:top_k]
    total = sum(masses[token] for token in order)
    kept: list[int] = []
    for token in order:
        if Fraction(sum(masses[t] for t in kept), total) >= top_p:
            break
        kept.append(token)
    mass = sum(masses[token] for token in kept)
    return {token: Fraction(masses[token], mass) for token in kept if masses[token]}


small_masses = st.lists(st.integers(0, 4), min_size=1, max_size=9).filter(any)  # few values, so many ties


@settings(max_examples=400, deadline=None)
@given(small_masses, st.integers(0, 10), st.integers(1, 20))
def test_truncation_is_exact_ties_included(masses: list[int], top_k: int, twentieths: int) -> None:
    probs = torch.tensor([masses], dtype=torch.float64) / sum(masses)
    left = truncated(probs, twentieths / 20, top_k)[0]
    expected = brute_force(masses, top_k, Fraction(twentieths, 20))
    assert {token for token in range(len(masses)) if left[token] > 0} == set(expected)
    for token, share in expected.items():
        assert float(left[token] / left.sum()) == pytest.approx(float(share), rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(small_masses, st.integers(0, 10), st.integers(1, 20), st.floats(0, LAST))
def test_draw_is_the_inverse_of_the_distribution_function(
    masses: list[int], top_k: int, twentieths: int, uniform: float
) -> None:
    log_probs = (torch.tensor([masses], dtype=torch.float64) / sum(masses)).log()
    left = brute_force(masses, top_k, Fraction(twentieths, 20))
    for u in (uniform, 0.0, LAST):
        token = int(draw(log_probs, np.array([u]), 1.0, twentieths / 20, top_k))
        assert token in left, "a token without mass was drawn"
        below = float(sum(share for t, share in left.items() if t < token))
        assert below - 1e-12 <= u <= below + float(left[token]) + 1e-12


def test_the_order_is_temperature_then_top_k_then_top_p() -> None:
    masses = torch.tensor([[0.5, 0.25, 0.15, 0.1]], dtype=torch.float64)

    def left(temperature: float, top_p: float, top_k: int) -> set[int]:
        grid = np.linspace(0, LAST, 400)
        return set(draw(masses.log().expand(400, 4), grid, temperature, top_p, top_k).tolist())

    assert left(1, 0.7, 0) == {0, 1}
    assert left(1, 0.65, 2) == {0}, "top-p is a share of what top-k left: 0.5 / 0.75 is already 0.67"
    assert left(1, 0.7, 2) == {0, 1}
    assert left(0.5, 0.7, 0) == {0}, "top-p sees the sharpened masses: 0.25 / 0.345 is 0.72"
    assert left(2.0, 0.7, 0) == {0, 1, 2}, "… and the flattened ones"
    assert left(1, 1, 0) == {0, 1, 2, 3}
    assert left(1, 1e-9, 0) == {0}
    assert left(1, 1e-13, 0) == {0}, "the likeliest stays, however small top_p is"
    assert left(1, 1, 99) == {0, 1, 2, 3}


def test_ties_go_to_the_smaller_id_in_a_large_vocabulary() -> None:
    probs = torch.full((2, 5000), 1 / 5000, dtype=torch.float64)
    assert truncated(probs, 1.0, 700)[1].nonzero()[:, 0].tolist() == list(range(700))
    assert truncated(probs, 0.1, 0)[0].nonzero()[:, 0].tolist() == list(range(500))


def test_the_largest_uniform_stays_below_any_total() -> None:
    """Totals of many roundings; a target equal to one would fall on the tokens without mass behind it."""
    masses = torch.rand(20_000, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    masses[:, 5:] = 0
    log_probs = (masses * 2.0 ** torch.randint(-60, 60, (20_000, 1))).log()
    assert int(draw(log_probs, np.full(20_000, LAST), 1, 1, 0).max()) == 4


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1, 1, 0), (0.7, 1, 0), (1.5, 1, 0), (1, 0.8, 0), (1, 1, 5), (1.3, 0.9, 12)]
)
def test_many_draws_follow_the_exact_distribution(temperature: float, top_p: float, top_k: int) -> None:
    size, number = 20, 30_000
    logits = np.random.default_rng(0).normal(size=size) * 1.5
    heated = np.exp(logits / temperature)
    # brute_force wants integers; 10⁹ parts are more than 30,000 draws can tell apart
    expected = brute_force([int(1e9 * mass / heated.sum()) for mass in heated], top_k, Fraction(str(top_p)))
    seeds = np.random.default_rng(1).integers(0, 2**64, size=number, dtype=np.uint64)
    log_probs = torch.log_softmax(torch.tensor(logits), -1).expand(number, size)
    counts = np.bincount(draw(log_probs, uniforms(seeds, 3), temperature, top_p, top_k), minlength=size)
    assert counts.sum() == sum(counts[token] for token in expected) == number
    observed = [counts[token] for token in sorted(expected)]
    assert stats.chisquare(observed, [number * float(expected[token]) for token in sorted(expected)]).pvalue > 1e-3


def test_temperature_zero_and_its_limit_take_the_likeliest() -> None:
    torch.manual_seed(0)
    log_probs = torch.log_softmax(torch.randn(50, 30, dtype=torch.float64), -1)
    best = log_probs.argmax(-1)
    half = np.full(50, 0.5)
    assert torch.equal(draw(log_probs, half, 0, 1, 0), best)
    assert torch.equal(draw(log_probs, half, 1e-310, 1, 0), best), "x / 1e-310 overflows to −inf everywhere"
    assert draw(torch.tensor([[-1.0, -1.0, -2.0]]), half[:1], 0, 1, 0).tolist() == [0]
    spread = draw(log_probs[:1].expand(3000, 30), np.linspace(0, LAST, 3000), 1e6, 1, 0)
    assert np.ptp(np.bincount(spread, minlength=30)) <= 2, "a high temperature is uniform"


def test_impossible_tokens_are_never_drawn() -> None:
    log_probs = torch.tensor([[-math.inf, -math.inf, math.log(0.5), -math.inf, math.log(0.5), -math.inf]]).double()
    grid = np.concatenate([[0.0, LAST, 0.5, np.nextafter(0.5, 0)], np.linspace(0, LAST, 999)])
    for temperature in (0.3, 1, 4):
        drawn = draw(log_probs.expand(len(grid), 6), grid, temperature, 1, 0)
        assert set(drawn.tolist()) == {2, 4}


def test_a_row_that_is_not_finite_gives_an_index_that_exists() -> None:
    assert 0 <= int(draw(torch.full((1, 4), math.nan).double(), np.array([0.5]), 1, 1, 0)) < 4


def test_uniforms_are_split_mix() -> None:
    """The first outputs of the published generator for seed 1234567."""
    published = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    seed = np.array([1234567], dtype=np.uint64)
    assert [uniforms(seed, position)[0] for position in range(4)] == [(x >> 11) * 2.0**-53 for x in published]


def test_uniforms_depend_on_seed_and_position_alone() -> None:
    seeds = np.random.default_rng(0).integers(0, 2**64, size=300, dtype=np.uint64)
    whole = np.stack([uniforms(seeds, position) for position in range(200)])
    assert whole.min() >= 0
    assert whole.max() < 1
    order = np.random.default_rng(1).permutation(300)
    assert np.array_equal(uniforms(seeds[order][:7], 150), whole[150][order][:7])
    assert stats.kstest(whole.ravel(), "uniform").pvalue > 1e-3
    for left, right in ((whole[:-1], whole[1:]), (whole[:, :-1], whole[:, 1:])):  # next position, next completion
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 5 / math.sqrt(left.size)
    assert len(np.unique(whole)) == whole.size
