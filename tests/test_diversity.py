"""Diversity among right answers: matching, entropies, and the split of a loss, each against a slow twin."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from answer_tables import random_tables, table

from odeval.metrics.classes import class_counts
from odeval.metrics.diversity import answer_entropy, matched_distinct, matched_sample, split
from odeval.stats import estimate, linearise


def answers_of(run: pd.DataFrame, prompt_id: str, right: bool | None = None) -> list[str | None]:
    """Graded answers of a prompt: right ones, wrong ones, or all."""
    own = run[(run["prompt_id"] == prompt_id) & run["correct"].notna()]
    if right is not None:
        own = own[own["correct"] == right]
    return [answer if isinstance(answer, str) else None for answer in own["answer"]]


def distinct(answers: list[str | None], size: int) -> float:
    """Mean number of distinct answers over all subsets of a size."""
    return float(np.mean([len(set(subset) - {None}) for subset in combinations(answers, size)]))


# Matching.


def test_matched_distinct_against_every_subset() -> None:
    left, right = random_tables(4)
    found = matched_distinct(*class_counts(left, right, pool="outputs"))
    compared = 0
    for p, prompt_id in enumerate(found[0].prompt_ids):
        own, other = (answers_of(run, prompt_id, True) for run in (left, right))
        size = min(len(own), len(other))
        if size < 2:
            assert np.isnan([found[0].numerator[p], found[1].denominator[p]]).all()
            continue
        compared += 1
        assert found[0].numerator[p] == pytest.approx(distinct(own, size))
        assert found[1].numerator[p] == pytest.approx(distinct(other, size))
    assert compared > 3


def test_matching_takes_out_accuracy_exactly() -> None:
    """One way of being right, two accuracies: the expected difference is 0, whatever the numbers of right ones."""
    share = {"a": 0.6, "b": 0.3, "c": 0.1}
    rows = {size: list(product(share, repeat=size)) for size in (2, 4)}
    chance = {size: np.array([np.prod([share[x] for x in row]) for row in found]) for size, found in rows.items()}
    left, right = table(rows[4]), table(rows[2])
    few, many = (class_counts(run, pool="outputs")[0] for run in (right, left))
    plain = [chance[4] @ [len(set(row)) for row in rows[4]], chance[2] @ [len(set(row)) for row in rows[2]]]
    assert plain[0] > plain[1] + 0.5  # counted plainly, the more accurate run looks more varied
    pairs = [(x, y) for x in range(len(rows[4])) for y in range(len(rows[2]))]
    both = class_counts(table([rows[4][x] for x, _ in pairs]), table([rows[2][y] for _, y in pairs]), pool="outputs")
    weight = np.array([chance[4][x] * chance[2][y] for x, y in pairs])
    ours = matched_distinct(*both)
    assert weight @ (ours[0].numerator - ours[1].numerator) == pytest.approx(0, abs=1e-12)
    assert few.n.max() == 2 < many.n.max()


def test_one_right_completion_or_none_is_not_compared() -> None:
    found = matched_distinct(*class_counts(table(["aaw", "ab", "w"]), table(["bww", "ww", "ab"]), pool="outputs"))
    assert np.isnan(found[0].numerator).all()
    assert matched_sample(table(["aaw"]), table(["bww"]))[0].empty
    empty = matched_sample(table([]), table([]))
    assert [len(run) for run in empty] == [0, 0]


def test_a_matched_sample_is_seeded_equal_in_size_and_blind_to_order() -> None:
    left, right = random_tables(5, 30)
    chosen = matched_sample(left, right, seed=3)
    sizes = [run.groupby("prompt_id").size() for run in chosen]
    pd.testing.assert_series_equal(*sizes)
    expected = pd.concat([run[run["correct"] == 1].groupby("prompt_id").size() for run in (left, right)], axis=1)
    expected = expected.dropna().min(axis=1)
    assert sizes[0].to_dict() == expected[expected >= 2].to_dict()
    assert all((run["correct"] == 1).all() for run in chosen)

    def keys(run: pd.DataFrame) -> set[tuple[str, int]]:
        return set(zip(run["prompt_id"], run["sample_id"], strict=True))

    again = matched_sample(left.sample(frac=1, random_state=1), right, seed=3)
    assert keys(again[0]) == keys(chosen[0])
    name = chosen[0]["prompt_id"].iloc[0]
    alone = matched_sample(*(run[run["prompt_id"] == name] for run in (left, right)), seed=3)
    assert keys(alone[0]) == {key for key in keys(chosen[0]) if key[0] == name}
    assert keys(matched_sample(left, right, seed=4)[0]) != keys(chosen[0])
    assert matched_sample(left, right, seed=3, most=2)[1].groupby("prompt_id").size().max() == 2
    deep = table(["a" * 40, "b" * 40])
    same = matched_sample(deep, deep)
    pd.testing.assert_frame_equal(same[0], same[1])  # a run against itself differs in nothing


def test_the_choice_is_fair() -> None:
    """Every completion is chosen about equally often over prompts."""
    left, right = table([["a"] * 8] * 4000), table([["a"] * 2] * 4000)
    chosen = matched_sample(left, right)[0]["sample_id"].value_counts()
    assert len(chosen) == 8
    assert (abs(chosen - 1000) < 4 * np.sqrt(1000 * 0.75)).all()


# Entropies.


def slow_entropy(answers: list[str], correction: str) -> float:
    m, counts = len(answers), Counter(answers)
    shares = [count / m for count in counts.values()]
    plain = -sum(p * np.log(p) for p in shares)
    if correction == "none":
        return float(plain)
    if correction == "miller_madow":
        return float(plain + (len(counts) - 1) / (2 * m))
    once = sum(count == 1 for count in counts.values())
    seen = 1 - (m - 1 if once == m else once) / m
    return float(-sum(seen * p * np.log(seen * p) / (1 - (1 - seen * p) ** m) for p in shares))


@pytest.mark.parametrize("correction", ["none", "miller_madow", "chao_shen"])
def test_entropy_against_a_slow_twin(correction: str) -> None:
    rows = ["aaaa", "aabb", "abcd", "aabc", "ab", "a", "abcabcd", "aaaaaaab"]
    run = class_counts(table([*rows, "ww"]), table([["e"] for _ in range(9)]), pool="outputs")[0]
    found = answer_entropy(run, correction)  # type: ignore[arg-type]
    for value, row in zip(found.numerator, rows, strict=False):
        assert value == pytest.approx(slow_entropy(list(row), correction), abs=1e-12)
        assert value >= 0
    assert np.isnan(found.numerator[8])  # no right completion: unknown, not 0


def test_corrections_lessen_the_bias() -> None:
    generator, share = np.random.default_rng(2), np.array([0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])
    rows = [[str("abcdefgh"[i]) for i in generator.choice(8, 12, p=share)] for _ in range(600)]
    run = class_counts(table(rows, right="abcdefgh"), pool="outputs")[0]
    truth = -(share * np.log(share)).sum()
    bias = {name: answer_entropy(run, name).numerator.mean() - truth for name in ("none", "miller_madow", "chao_shen")}
    assert bias["none"] < -0.15
    assert abs(bias["miller_madow"]) < abs(bias["none"]) / 2
    assert abs(bias["chao_shen"]) < abs(bias["none"]) / 2


# The split.


def slow_split(left: list[tuple[str | None, bool]], right: list[tuple[str | None, bool]]) -> dict[str, float]:
    """Every pair of k-subsets, and within them every pair of subsets of equally many right completions."""
    k = min(len(left), len(right))
    parts = []
    for own, other in product(combinations(left, k), combinations(right, k)):
        ways = [[answer for answer, correct in draw if correct] for draw in (own, other)]
        faults = [{answer for answer, correct in draw if not correct} - {None} for draw in (own, other)]
        m = min(map(len, ways))
        narrowing = distinct(ways[1], m) - distinct(ways[0], m)
        wrong, correct = len(faults[1]) - len(faults[0]), len(set(ways[1])) - len(set(ways[0]))
        parts.append((wrong + correct, wrong + correct - narrowing, wrong, correct - narrowing, narrowing))
    names = ("whole", "quality_control", "fewer_wrong", "more_right", "narrowing")
    return dict(zip(names, np.mean(parts, axis=0), strict=True))


def test_the_split_against_every_subset() -> None:
    generator = np.random.default_rng(11)
    names = ["a", "b", "c", "w", "x", None]
    tables = [
        table([[names[i] for i in generator.integers(0, 6, size)] for size in generator.integers(1, 7, 25)])
        for _ in range(2)
    ]
    found = split(*tables)
    for p, prompt_id in enumerate(found["whole"].prompt_ids):
        both = [
            list(zip(answers_of(run, prompt_id), run[run["prompt_id"] == prompt_id]["correct"] == 1, strict=True))
            for run in tables
        ]
        for name, value in slow_split(*both).items():
            assert found[name].numerator[p] == pytest.approx(value, abs=1e-10), (name, prompt_id)
    assert {part.denominator.tolist()[0] for part in found.values()} == {1.0}


def test_the_parts_add_up_and_so_do_their_estimates() -> None:
    found = split(*random_tables(7, 40))
    parts = {name: part.numerator for name, part in found.items()}
    known = np.isfinite(parts["whole"])
    assert not known.all()  # a prompt without a graded completion is unknown
    whole = parts["fewer_wrong"] + parts["more_right"] + parts["narrowing"]
    np.testing.assert_allclose(whole[known], parts["whole"][known], atol=1e-12)
    np.testing.assert_allclose(
        (parts["quality_control"] + parts["narrowing"])[known], parts["whole"][known], atol=1e-12
    )
    ids = list(found["whole"].prompt_ids)
    values = {name: estimate(linearise(part, ids))[0] for name, part in found.items()}
    assert values["whole"].value == pytest.approx(values["quality_control"].value + values["narrowing"].value)
    assert all(item.low < item.value < item.high for item in values.values())


def test_an_accuracy_gain_alone_is_no_narrowing() -> None:
    generator = np.random.default_rng(0)

    def answer(accuracy: float) -> str:
        right = generator.random() < accuracy
        return str(generator.choice(list("abc"), p=[0.6, 0.3, 0.1]) if right else generator.choice(list("uvwxyz")))

    def run(accuracy: float) -> pd.DataFrame:
        return table([[answer(accuracy) for _ in range(16)] for _ in range(400)])

    found = split(run(0.4), run(0.9))
    values = {name: estimate(linearise(part, list(part.prompt_ids)))[0] for name, part in found.items()}
    assert values["whole"].high < -1  # variety is lost …
    assert values["fewer_wrong"].high < -1.5  # … of wrong answers
    assert values["more_right"].low > 0
    assert values["narrowing"].low < 0 < values["narrowing"].high
    assert abs(values["narrowing"].value) < 0.1


def test_narrowing_alone_is_no_quality_control() -> None:
    left = table([["a", "b", "c", "w"]] * 3 + [["a", "b", "b", "w"]])
    right = table([["a", "a", "a", "w"]] * 4)
    parts = {name: part.numerator for name, part in split(left, right).items()}
    assert parts["narrowing"].tolist() == parts["whole"].tolist() == [-2, -2, -2, -1]
    assert not parts["quality_control"].any()


def test_a_split_without_anything_right_or_graded() -> None:
    found = split(table(["ww", "ab", "?"]), table(["wx", "ww", "ab"]))
    assert found["whole"].numerator.tolist()[:2] == [1, -1]
    assert found["narrowing"].numerator.tolist()[:2] == [0, 0]  # nothing to compare
    assert np.isnan(found["narrowing"].numerator[2])
    nothing = split(table(["?"]), table(["?"]))
    assert np.isnan(nothing["whole"].numerator).all()
