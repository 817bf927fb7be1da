"""Countdown: the enumeration is complete, the grader agrees with it, and nothing a model writes breaks it."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odeval.tasks import countdown
from odeval.tasks.worlds import Split
from odeval.types import Prompt, content_hash

HELDOUT = countdown.prompts("heldout")
questions = st.sampled_from(HELDOUT)


def brute_force(numbers: tuple[int, ...]) -> dict[int, set[str]]:
    """Every derivation by trying all choices of operands and operators, in exact fractions."""
    apply = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: Fraction(a, 1) / b,
    }
    found: dict[int, set[str]] = {}
    for operators in product(apply, repeat=3):
        for first, second, third in product(permutations(range(4), 2), permutations(range(3), 2), [(0, 1), (1, 0)]):
            pool, text = [Fraction(number) for number in numbers], []
            for (i, j), operator in zip((first, second, third), operators, strict=True):
                a, b = pool[i], pool[j]
                if a < b or (operator in "*/" and b == 1):
                    break
                value = apply[operator](a, b)
                if value.denominator != 1 or not 1 <= value <= 99:
                    break
                text.append(f"{a} {operator} {b} = {value} ;")
                pool = [number for place, number in enumerate(pool) if place not in (i, j)] + [value]
            else:
                found.setdefault(int(pool[0]), set()).add(" ".join(text))
    return found


@pytest.mark.parametrize("numbers", [(1, 1, 1, 1), (1, 2, 3, 4), (2, 2, 8, 8), (3, 5, 7, 9), (6, 6, 9, 9)])
def test_enumeration_equals_brute_force(numbers: tuple[int, ...]) -> None:
    found = {end: set(texts) for end, texts in countdown.derivations(numbers).items()}
    assert found == brute_force(numbers)


def test_the_world_is_the_one_the_embedded_models_have_learnt() -> None:
    assert content_hash([prompt.text for prompt in HELDOUT]) == "d422c74fde97e7ae"


def test_every_question_has_an_answer_and_splits_are_disjoint() -> None:
    ids: dict[str, set[str]] = {split: set() for split in get_args(Split)}
    for split in get_args(Split):
        for prompt in countdown.prompts(split):
            ids[split].add(prompt.prompt_id)
            assert countdown.solutions(prompt)
            assert prompt.answer == (prompt.text or "").split()[-2]
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 18016
    assert 0.28 < len(ids["heldout"]) / 18016 < 0.32


def test_task_asks_held_out_questions_only() -> None:
    task = countdown.task(limit=30)
    assert list(task.prompts) == HELDOUT[:30]
    assert (task.name, task.grader, task.max_tokens) == ("countdown", "countdown", 19)


def test_every_word_of_the_world_is_in_the_vocabulary() -> None:
    words = {w for p in HELDOUT[:300] for text in (p.text or "", *countdown.solutions(p)) for w in text.split()}
    assert words <= set(countdown.vocabulary())
    assert len(set(countdown.vocabulary())) == len(countdown.vocabulary()) == 107


@given(questions)
def test_every_answer_is_graded_right_however_it_is_spaced(prompt: Prompt) -> None:
    for answer in countdown.solutions(prompt):
        assert countdown.grade(prompt, answer).correct is True
        loose = countdown.grade(prompt, f" {answer.replace(' ', chr(10))} ")
        assert (loose.correct, loose.answer, loose.why) == (True, answer, "")


@given(questions, st.data())
def test_a_mutated_answer_is_right_only_if_it_is_listed(prompt: Prompt, data: st.DataObject) -> None:
    answers = countdown.solutions(prompt)
    words = data.draw(st.sampled_from(answers)).split()
    place = data.draw(st.integers(0, len(words) - 1))
    word = data.draw(st.sampled_from([*countdown.vocabulary(), "07", "٧", "-3", "1e1", "0"]))
    match data.draw(st.sampled_from(["replace", "delete", "insert", "swap operands"])):
        case "replace":
            words[place] = word
        case "delete":
            del words[place]
        case "insert":
            words.insert(place, word)
        case "swap operands":
            start = place // 6 * 6
            words[start], words[start + 2] = words[start + 2], words[start]
    text = " ".join(words)
    found = countdown.grade(prompt, text)
    assert found.correct is (text in answers)
    assert bool(found.why) is not found.correct


@given(questions, st.text() | st.lists(st.sampled_from(countdown.vocabulary()), max_size=25).map(" ".join))
def test_no_text_raises(prompt: Prompt, text: str) -> None:
    found = countdown.grade(prompt, text)
    assert found.correct is (" ".join(text.split()) in countdown.solutions(prompt))
    (found.answer or "").encode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("80", "not of the form `a op b = c ;` in step 1: 80"),
        ("7 + 2 = 9 ; 9 * 9 = 81 ;", "2 numbers are left over: 1 81"),
        ("7 + 2 = 9 ; 9 * 9 = 81 ; 81 - 1 = 80", "not of the form `a op b = c ;` in step 3: 81 - 1 = 80"),
        ("7 + 2 = 9 ; 9 * 9 = 81 ; 81 + 1 = 82 ;", "ends at 82, not at 80"),
        ("7 + 2 = 8 ; 9 * 8 = 72 ; 72 + 8 = 80 ;", "wrong result in step 1: 7 + 2 = 8"),
        ("2 + 7 = 9 ; 9 * 9 = 81 ; 81 - 1 = 80 ;", "not allowed in step 1: 2 + 7 = 9"),
        ("7 * 1 = 7 ; 9 * 7 = 63 ; 63 + 2 = 65 ;", "not allowed in step 1: 7 * 1 = 7"),
        ("9 + 9 = 18 ; 18 * 7 = 126 ; 81 - 1 = 80 ;", "9 is not left in step 1: 9 + 9 = 18"),
        ("7 + 2 = 9 ; 9 * 9 = 81 ; 81 - 1 = 80 ; 8", "goes on after the last step"),
        ("\ud800" * 3, "not of the form `a op b = c ;` in step 1: ???"),
        ("9" * 10_000_000, "not of the form `a op b = c ;` in step 1: " + "9" * 20),
    ],
)
def test_why_an_answer_is_wrong(text: str, why: str) -> None:
    found = countdown.grade(Prompt(text="1 2 7 9 -> 80 :"), text)
    assert (found.correct, found.why) == (False, why)
    assert len((found.answer or "").encode()) <= 200


@pytest.mark.parametrize("text", ["", "1 2 7 -> 80 :", "1 2 7 9 -> 180 :", "1 2 7 10 -> 80 :", "1 2 7 9 = 80"])
def test_a_foreign_prompt_is_ungraded_not_wrong(text: str) -> None:
    assert countdown.grade(Prompt(text=text), "7 + 2 = 9 ;").correct is None
    assert countdown.solutions(Prompt(text=text)) == []
