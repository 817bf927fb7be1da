"""Coverage against the teacher: slow twins over every subset, exact enumeration of every outcome, invariants, edges."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from answer_tables import random_tables, table
from scipy import stats as distributions

from odeval.metrics.classes import ClassCounts, class_counts
from odeval.metrics.coverage import (
    coverage_gap_at_k,
    distinct_at_k,
    lost_modes,
    on_common_ground,
    recall_at_k,
    self_coverage_at_k,
    solution_coverage_at_k,
)
from odeval.stats import linearise
from odeval.types import PerPrompt

KS = [1, 2, 3]


# Slow twins, from the definitions: every completion, every subset.


def hit_share(wanted: str, pool: list[str | None], k: int) -> float:
    """Share of the k-subsets of a pool that hold the wanted answer."""
    if k > len(pool):
        return np.nan
    subsets = list(combinations(range(len(pool)), k))
    return sum(any(pool[i] == wanted for i in subset) for subset in subsets) / len(subsets)


def graded(run: pd.DataFrame, prompt_id: str) -> list[tuple[str | None, bool]]:
    own = run[(run["prompt_id"] == prompt_id) & run["correct"].notna()]
    return [(a if isinstance(a, str) else None, c == 1) for a, c in zip(own["answer"], own["correct"], strict=True)]


def slow_recall(reference: pd.DataFrame, candidate: pd.DataFrame, prompt_id: str, k: int, pool: str) -> list[float]:
    own, other = graded(reference, prompt_id), graded(candidate, prompt_id)
    right = [answer for answer, correct in own if correct]
    drawn = [answer if correct else None for answer, correct in other if correct or pool == "graded"]
    size = len(own) if pool == "graded" else len(right)
    if not size or k > len(drawn):
        return [np.nan, np.nan]
    return [sum(hit_share(str(answer), drawn, k) for answer in right) / size, len(right) / size]


def slow_self(reference: pd.DataFrame, prompt_id: str, k: int, pool: str) -> list[float]:
    own = [(answer, c) for answer, c in graded(reference, prompt_id) if c or pool == "graded"]
    if k > len(own) - 1:
        return [np.nan, np.nan]
    total = 0.0
    for i, (answer, correct) in enumerate(own):
        others = [other if c else None for j, (other, c) in enumerate(own) if j != i]
        total += correct and hit_share(str(answer), others, k)
    return [total / len(own), sum(c for _, c in own) / len(own)]


@pytest.mark.parametrize("pool", ["graded", "outputs"])
def test_against_every_subset(pool: str) -> None:
    left, right = random_tables()
    own, other = class_counts(left, right, pool=pool)  # type: ignore[arg-type]
    found = {
        "recall": recall_at_k(own, other, KS), "grounding": recall_at_k(other, own, KS),
        "self": self_coverage_at_k(own, KS), "gap": coverage_gap_at_k(own, other, KS),
    }  # fmt: skip
    for p, prompt_id in enumerate(own.prompt_ids):
        for j, k in enumerate(KS):
            recall, ceiling = slow_recall(left, right, prompt_id, k, pool), slow_self(left, prompt_id, k, pool)
            expected = {
                "recall": recall, "grounding": slow_recall(right, left, prompt_id, k, pool), "self": ceiling,
                "gap": [ceiling[0] - recall[0], ceiling[1] + 0 * recall[1]],
            }  # fmt: skip
            for name, (numerator, denominator) in expected.items():
                assert found[name].numerator[p, j] == pytest.approx(numerator, abs=1e-12, nan_ok=True), (name, p, k)
                assert found[name].denominator[p, j] == pytest.approx(denominator, nan_ok=True), (name, p, k)


def test_distinct_and_solutions_against_every_subset() -> None:
    run = random_tables(3)[0]
    counts = class_counts(run)[0]
    solutions = {prompt_id: ["a", "b", "zz"] for prompt_id in counts.prompt_ids[1:]}
    distinct, share = distinct_at_k(counts, KS), solution_coverage_at_k(counts, solutions, KS)
    for p, prompt_id in enumerate(counts.prompt_ids):
        own = [answer if correct else None for answer, correct in graded(run, prompt_id)]
        for j, k in enumerate(KS):
            sets = [{own[i] for i in subset} - {None} for subset in combinations(range(len(own)), k)]
            expected = np.mean([len(found) for found in sets]) if sets else np.nan
            of_all = np.mean([len(found & {"a", "b"}) / 3 for found in sets]) if sets and p else np.nan
            assert distinct.numerator[p, j] == pytest.approx(expected, nan_ok=True)
            assert share.numerator[p, j] == pytest.approx(of_all, nan_ok=True)


# Unbiasedness, exactly: every outcome of both runs, weighted by its probability.

TEACHER, STUDENT = {"a": 0.35, "b": 0.15, "w": 0.5}, {"a": 0.2, "b": 0.1, "c": 0.3, "w": 0.4}


def outcomes(model: dict[str, float], n: int) -> tuple[list[tuple[str, ...]], np.ndarray]:
    found = list(product(model, repeat=n))
    return found, np.array([np.prod([model[answer] for answer in row]) for row in found])


def all_pairs(n_t: int, n_s: int, pool: str, student: dict[str, float]) -> tuple[list[ClassCounts], np.ndarray]:
    """One prompt for each pair of outcomes, with its probability."""
    left, p_left = outcomes(TEACHER, n_t)
    right, p_right = outcomes(student, n_s)
    tables = (table([row for row in left for _ in right]), table([row for _ in left for row in right]))
    return class_counts(*tables, pool=pool), np.outer(p_left, p_right).ravel()  # type: ignore[arg-type]


def hits(source: dict[str, float], drawn: dict[str, float], k: int) -> float:
    return sum(p * (1 - (1 - drawn.get(answer, 0.0)) ** k) for answer, p in source.items() if answer != "w")


def right_only(model: dict[str, float]) -> dict[str, float]:
    total = sum(p for answer, p in model.items() if answer != "w")
    return {answer: p / total for answer, p in model.items() if answer != "w"}


def test_numerators_and_denominators_are_unbiased_exactly() -> None:
    (own, other), weight = all_pairs(3, 4, "graded", STUDENT)
    for k in (1, 2):
        for found, truth in (
            (recall_at_k(own, other, [k]), hits(TEACHER, STUDENT, k)),
            (recall_at_k(other, own, [k]), hits(STUDENT, TEACHER, k)),
            (self_coverage_at_k(own, [k]), hits(TEACHER, TEACHER, k)),
            (self_coverage_at_k(other, [k]), hits(STUDENT, STUDENT, k)),
            (coverage_gap_at_k(own, other, [k]), hits(TEACHER, TEACHER, k) - hits(TEACHER, STUDENT, k)),
        ):
            assert weight @ found.numerator[:, 0] == pytest.approx(truth, abs=1e-12)
        assert weight @ recall_at_k(own, other, [k]).denominator[:, 0] == pytest.approx(0.5)
        expected = sum(1 - (1 - p) ** k for answer, p in STUDENT.items() if answer != "w")
        assert weight @ distinct_at_k(other, [k]).numerator[:, 0] == pytest.approx(expected)
        listed = {prompt_id: list("abcd") for prompt_id in own.prompt_ids}
        assert weight @ solution_coverage_at_k(other, listed, [k]).numerator[:, 0] == pytest.approx(expected / 4)


def test_among_right_completions_it_is_unbiased_given_that_there_are_enough() -> None:
    (own, other), weight = all_pairs(4, 3, "outputs", STUDENT)
    teacher, student = right_only(TEACHER), right_only(STUDENT)
    for k in (1, 2):
        for found, truth in (
            (recall_at_k(own, other, [k]), hits(teacher, student, k)),
            (self_coverage_at_k(own, [k]), hits(teacher, teacher, k)),
        ):
            known = np.isfinite(found.numerator[:, 0])
            assert 0 < known.mean() < 1
            assert weight[known] @ found.numerator[known, 0] / weight[known].sum() == pytest.approx(truth, abs=1e-12)
            assert set(found.denominator[known, 0]) == {1.0}


def test_the_ratio_prompt_by_prompt_would_be_biased() -> None:
    """Why the denominator is the success rate: a lone right answer finds no other in its own run."""
    (own, other), weight = all_pairs(4, 4, "graded", TEACHER)
    found = self_coverage_at_k(own, [2])
    solved = found.denominator[:, 0] > 0
    ratio = found.numerator[solved, 0] / found.denominator[solved, 0]
    truth = hits(TEACHER, TEACHER, 2) / 0.5
    assert weight[solved] @ ratio / weight[solved].sum() < truth - 0.03
    assert weight @ coverage_gap_at_k(own, other, [2]).numerator[:, 0] == pytest.approx(0, abs=1e-12)


def test_no_bias_with_many_samples_and_a_teacher_against_itself() -> None:
    generator, prompts = np.random.default_rng(5), 3000
    teacher, student = np.array([0.3, 0.1, 0.05, 0.01, 0.54]), np.array([0.5, 0.05, 0.0, 0.02, 0.43])

    def run(model: np.ndarray, n: int) -> ClassCounts:
        counts = generator.multinomial(n, model, size=prompts)[:, :4]
        ids = np.array([f"p{i}" for i in range(prompts)], dtype=object)
        return ClassCounts(
            ids, np.repeat(np.arange(prompts), 4), np.tile(list("abcd"), prompts), counts.ravel(), np.full(prompts, n)
        )

    own, same, other = run(teacher, 64), run(teacher, 48), run(student, 32)
    ks, share = [1, 8, 31], teacher[:4].sum()
    for found, drawn in ((recall_at_k(own, other, ks), student), (self_coverage_at_k(own, ks), teacher)):
        truth = [(teacher[:4] * (1 - (1 - drawn[:4]) ** k)).sum() for k in ks]
        error = found.numerator.mean(0) - truth
        assert (abs(error) < 4 * found.numerator.std(0) / np.sqrt(prompts)).all()
        value = linearise(found, list(found.prompt_ids)).value
        assert value == pytest.approx(np.array(truth) / share, abs=0.01)
    gap = coverage_gap_at_k(own, same, ks).numerator
    assert (abs(gap.mean(0)) < 4 * gap.std(0) / np.sqrt(prompts)).all()


# Invariants and edges.


def test_names_and_order_do_not_matter() -> None:
    left, right = random_tables(1)
    before = coverage_gap_at_k(*class_counts(left, right), KS)
    renamed = [
        run.assign(answer=run["answer"].map({"a": "zeta", "b": "a", "c": "b", "d": "ä", "w": "!", "x": "w"})).sample(
            frac=1, random_state=0
        )
        for run in (left, right)
    ]
    after = coverage_gap_at_k(*class_counts(*renamed), KS)
    np.testing.assert_allclose(after.numerator, before.numerator, atol=1e-15)
    np.testing.assert_array_equal(after.prompt_ids, before.prompt_ids)


def test_doubling_every_prompt_leaves_the_value() -> None:
    left, right = random_tables(2)
    twice = [pd.concat([run, run.assign(prompt_id=run["prompt_id"] + "'")]) for run in (left, right)]
    for counted in (class_counts(left, right), class_counts(*twice)):
        found = recall_at_k(*counted, KS)
        value = linearise(found, list(found.prompt_ids)).value
        assert value == pytest.approx(
            linearise(recall_at_k(*class_counts(left, right), KS), list(found.prompt_ids)).value
        )


def test_a_digest_is_a_partition_too() -> None:
    run = table(["ab", "aa"]).assign(digest=[5, -3, 7, 7])
    counts = class_counts(run, by="digest", outputs="all")[0]
    assert counts.count.tolist() == [1, 1, 2]
    assert sorted(counts.name.tolist()) == [-3, 5, 7]


def test_what_is_unknown_is_nan_and_no_output_is_no_weight() -> None:
    left, right = table(["aab", "www", "??", "ab"]), table(["abc", "abc", "abc", "?"])
    own, other = class_counts(left, right)
    recall = recall_at_k(own, other, [1, 3, 4])
    assert recall.denominator[:, 0].tolist()[:2] == [1, 0]
    assert recall.numerator[1, 0] == 0  # never solved: says nothing, since its denominator is 0
    assert np.isnan(recall.numerator[2]).all()  # the reference has no graded completion
    assert np.isnan(recall.numerator[3]).all()  # the candidate has none
    assert np.isnan(recall.numerator[:, 2]).all()  # k > n
    assert np.isfinite(self_coverage_at_k(own, [2]).numerator[0]).all()
    assert np.isnan(self_coverage_at_k(own, [3]).numerator).all()  # k > n − 1
    assert not np.isfinite(linearise(recall, list(own.prompt_ids)).value[2])
    assert np.isnan(solution_coverage_at_k(own, {}, [1]).numerator).all()


def test_without_any_right_completion() -> None:
    own, other = class_counts(table(["ww"]), table(["w?"]))
    assert recall_at_k(own, other, [1]).denominator.tolist() == [[0]]
    assert distinct_at_k(own, [1, 2]).numerator.tolist() == [[0, 0]]
    assert lost_modes(own, other) == []
    empty = class_counts(table([]), table([]))
    assert recall_at_k(*empty, [1]).numerator.shape == (0, 1)


def test_completions_without_an_answer() -> None:
    run = table([["a", None, "a", None]])
    assert class_counts(run)[0].n.tolist() == [4]  # a wrong one without an answer was drawn all the same
    unknown = run.assign(correct=[1.0, 1.0, 1.0, 0.0])  # a right one without an answer: of which class, nobody knows
    assert class_counts(unknown)[0].n.tolist() == [3]
    assert class_counts(unknown, pool="outputs")[0].n.tolist() == [2]
    assert class_counts(run, outputs="wrong")[0].outputs().tolist() == [0]


def test_curves_on_common_ground() -> None:
    one, two = (PerPrompt(["a", "b"], [v, 1.0], [1.0, d]) for v, d in ((np.nan, 1.0), (1.0, 0.0)))
    for found in on_common_ground(one, two):
        assert np.isnan(found.numerator).tolist() == [True, False]
    assert on_common_ground(one, two)[1].denominator.tolist()[1] == 0


def test_lost_and_gained_modes() -> None:
    left, right = table(["aaaab", "bbc", "ad"]), table(["bbbww", "bb", "?"])
    own, other = class_counts(left, right)
    lost = lost_modes(own, other)
    assert [(row["prompt_id"], row["name"], row["count"], row["n"]) for row in lost] == [
        ("p00000", "a", 4, 5), ("p00001", "c", 1, 3),
    ]  # fmt: skip
    for row in lost:
        misses = [[row["count"], row["n"] - row["count"]], [0, row["candidate_n"]]]
        assert row["p"] == pytest.approx(distributions.fisher_exact(misses, alternative="greater")[1])
        assert row["upper"] == pytest.approx(1 - 0.05 ** (1 / row["candidate_n"]))
    assert len(lost_modes(own, other, most=1)) == 1
    assert lost_modes(other, own) == []
