"""Graders: what is read as a number or a choice, and that no text can make one raise."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from odeval.errors import OdevalError
from odeval.tasks.graders import GRADERS, check_answer, choice, exact, grader_named, numeric, regex
from odeval.types import Grade, Prompt


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("42", "42"),
        ("The answer is 42.", "42"),
        ("first 7, then 42!", "42"),
        ("1,200", "1200"),
        ("1,234,567.50 dollars", "1234567.5"),
        ("$1,200", "1200"),
        ("US$ 3.50 each", "3.5"),
        ("€5", "5"),
        ("1,200, and no more", "1200"),
        ("we have 1,20", "20"),  # no group of three: two numbers
        ("1,2345", "2345"),
        ("3.0", "3"),
        ("0.50", "0.5"),
        (".5", "0.5"),
        ("-4", "-4"),
        ("x = −4", "-4"),  # U+2212
        ("+4", "4"),
        ("3-4", "4"),
        ("(-4)", "-4"),
        (r"\boxed{-4}", "-4"),
        ("**42**", "42"),
        ("1.5e3", "1500"),
        ("1.5E+03", "1500"),
        ("2e−2", "0.02"),
        ("2em wide", "2"),
        ("3/4", "0.75"),
        ("3 / 4", "0.75"),
        ("-3/4", "-0.75"),
        ("1/3", "1/3"),
        ("4/12", "1/3"),
        ("8/4 apples", "2"),
        ("on 3/4/2025", "2025"),  # a date is no fraction
        ("50%", "50"),
        ("40 km/h", "40"),
        ("10km", "10"),
        ("٣٤", "34"),  # digits are digits
        ("-0", "0"),
        ("0.1", "0.1"),
        ("007", "7"),
    ],
)
def test_numbers_that_are_read(completion: str, answer: str) -> None:
    assert check_answer("numeric", answer) == ""
    grade = numeric(Prompt(text="?", answer=answer), completion)
    assert grade.correct is True, grade
    assert numeric(Prompt(text="?", answer="31337"), completion).correct is False


def test_equal_numbers_have_one_canonical_form() -> None:
    """Distinct answers are counted by it."""
    forms = {
        "1200": ("1,200", "1200.0", "1.2e3", "+1200", "2400/2"),
        "0.75": ("3/4", ".75", "75e-2", "0.750"),
        "-2.5": ("-5/2", "−2.50"),
        "1/3": ("1/3", "2/6"),
        "0": ("0", "-0", "0.00", "0/5"),
        "0.000001": ("1e-6", "0.000001"),
    }
    for canonical, texts in forms.items():
        assert {numeric(Prompt(text="?", answer="1"), text).answer for text in texts} == {canonical}


@pytest.mark.parametrize(
    "completion", ["", "none", "x2 and v1.2.3", "no. IV", "²", "½", "1.2.3.4", "-", ".", "1/0", "9" * 400]
)
def test_texts_without_a_number_are_wrong_not_unknown(completion: str) -> None:
    grade = numeric(Prompt(text="?", answer="2"), completion)
    assert (grade.correct, grade.answer) == (False, None)
    assert grade.why


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B) because", "B"),
        ("[b]", "B"),
        ("The answer is B.", "B"),
        ("the answer is (b)", "B"),
        ("Answer: B", "B"),
        ("answer: b", "B"),
        ("ANSWER = B", "B"),
        ("The correct answer is **B**", "B"),
        ("The answer is: **B**", "B"),
        ("the answer is option B", "B"),
        (r"so \boxed{B}", "B"),
        (r"$\boxed{\text{B}}$", "B"),
        ("A dog, so B", "B"),  # an article
        ("B is what I think", "B"),
        ("B, I think", "B"),
        ("I'm sure it is B.", "B"),
        ("The answer is a matter of taste: B", "B"),
        ("Answer: a good one would be B", "B"),
        ("A is tempting, but the answer is B, not option C.", "B"),
        ("Option A: 3. Option B: 4. I choose option B", "B"),
        ("A) 3\nB) 4\nAnswer: B\n", "B"),
        ("First I thought the answer is A. No: the answer is B", "B"),
        ("A is right", "A"),
        ("A", "A"),
        ("It must be A.", "A"),
    ],
)
def test_choices_that_are_read(completion: str, letter: str) -> None:
    grade = choice(Prompt(text="?", answer=f"({letter.lower()})"), completion)
    assert (grade.correct, grade.answer) == (True, letter), grade
    assert choice(Prompt(text="?", answer="Z"), completion).correct is False


@pytest.mark.parametrize(
    "completion", ["", "A dog barks", "I think so", "I'd say", "none of them", "AB", "a", "the answer is a secret"]
)
def test_texts_without_a_choice(completion: str) -> None:
    assert choice(Prompt(text="?", answer="A"), completion) == Grade(False, None, "no choice in the completion")


def test_exact_collapses_white_space_and_nothing_else() -> None:
    prompt = Prompt(text="?", answer=" New  York ")
    assert exact(prompt, "New\n\tYork").correct is True
    assert exact(prompt, "new york").correct is False
    assert exact(prompt, "New York.").answer == "New York."
    assert exact(Prompt(text="?", answer=""), " ").correct is True


def test_regex_gives_its_first_group() -> None:
    assert regex(Prompt(text="?", answer=r"x = (\d+)"), "so x = 12") == Grade(True, "12")
    assert regex(Prompt(text="?", answer=r"x = \d+"), "so x = 12") == Grade(True, "x = 12")
    assert regex(Prompt(text="?", answer=r"(a)|b"), "b") == Grade(True, "b"), "a group that took no part"
    assert regex(Prompt(text="?", answer=r"^y"), "so x").correct is False


def test_answers_a_grader_cannot_use_are_named() -> None:
    assert check_answer("numeric", "12 apples") == "answer '12 apples' is no number, which the grader 'numeric' needs"
    assert check_answer("numeric", "1/0") != ""
    assert check_answer("numeric", "") != ""
    assert [check_answer("numeric", text) for text in ("1,200", "$5", "50%", " -3 ", "1/2", "−1.5")] == [""] * 6
    assert check_answer("choice", "BC") == "answer 'BC' is no single letter, which the grader 'choice' needs"
    assert check_answer("regex", "(").startswith("answer '(' is no regular expression (missing ), unterminated")
    assert check_answer("exact", "") == ""
    with pytest.raises(OdevalError, match="unknown grader 'number': expected one of choice, exact, math, numeric"):
        grader_named("number")


ANY_TEXT = st.one_of(
    st.text(max_size=200),
    st.text(alphabet="0123456789,.+-−eE/%$ ()", max_size=40),
    st.text(alphabet="ABCIabci .:=()[]*'’answeroptionchoice", max_size=60),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["choice", "exact", "numeric", "regex"]), ANY_TEXT)  # the others: test_math_grader.py
@example("numeric", "9" * 10_000 + "e999")
@example("numeric", "1e999")
@example("numeric", "1/" + "7" * 5000)
@example("choice", "answer " * 2000)
@example("numeric", "1," * 5000)
@example("numeric", "𝟗²½٣,٤٥٦")
def test_no_text_makes_a_grader_raise(name: str, completion: str) -> None:
    for answer in {"numeric": ("7", "1/3"), "choice": ("A",), "exact": ("x", ""), "regex": ("a(b)?",)}[name]:
        prompt = Prompt(text="?", answer=answer)
        grade = GRADERS[name](prompt, completion)
        assert grade.correct in (True, False)
        assert grade == GRADERS[name](prompt, completion), "deterministic"
        assert isinstance(grade.answer, str | None)
        if grade.correct:
            assert grade.answer is not None


@settings(max_examples=200, deadline=None)
@given(st.fractions(max_denominator=1000))
def test_every_number_reads_back_what_it_shows(value: object) -> None:
    shown = numeric(Prompt(text="?", answer="1"), f"= {value}").answer
    assert shown is not None
    assert numeric(Prompt(text="?", answer=shown), f"I say {value}.").correct is True
