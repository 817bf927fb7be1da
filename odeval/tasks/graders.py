"""Graders for bring-your-own tasks: completion text against the row's `answer`.

Every grader is deterministic, takes any text, and returns the canonical answer it found, so that distinct answers
can be counted.

What counts as a number: digits, with commas between groups of three ("1,200"; a comma elsewhere separates numbers),
a decimal point, a sign that no digit or letter stands before ("3-4" holds 3 and 4, "x = -4" holds -4; "−" is a sign
too), an exponent ("1.5e3"), or a fraction of whole numbers ("3/4", equal to 0.75). A currency sign before and a unit
or percent sign after are passed over: "$1,200", "40 km" and "50%" are 1200, 40 and 50. Not read: numbers in words,
"1 200", "1.200,50", "2 1/2", "10^3", LaTeX fractions, and digits inside a word such as "x2" or "1.2.3".
"""

from __future__ import annotations

import re
from fractions import Fraction

from odeval.errors import OdevalError, unknown
from odeval.tasks.base import Grader
from odeval.tasks.guarded import entry_problem, math, reasoning_gym, regex
from odeval.types import Grade, Prompt

_DIGITS = 300  # more are no answer but a model that repeats itself, and exact arithmetic on them is slow
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d|,\d)|\d+)"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-+−]?)"
    rf"(?:(?<!\d/)(?P<over>{_WHOLE})\s?/\s?(?P<under>{_WHOLE})(?![\w/]|\.\d)"
    rf"|(?P<number>{_WHOLE}(?:\.\d+)?|\.\d+)(?P<exponent>[eE][-+−]?\d{{1,3}}(?!\d))?(?!\.?\d))"
)
_CHOICE_SAID = re.compile(  # a lower-case letter only in brackets or after a colon: "the answer is a bit …" says none
    r"(?i:\banswer\b(?:\s+is)?(?:\s+(?:option|choice))?)[\s*]*"
    r"(?:[:=][\s*]*)?(?:[(\[]([A-Za-z])[)\]]|(?<=[:=\s*])([A-Z])(?![\w'’]))"
    r"|(?i:\banswer)[\s*]*[:=][\s*]*([a-z])(?=[\s.,;)*]*$)"
    r"|\\boxed\{(?:\\text\{)?\(?([A-Za-z])\)?\}",
    re.MULTILINE,
)
_CHOICE_NAMED = re.compile(r"(?i:\b(?:option|choice)\b)[\s*:]*[(\[]?([A-Z])(?![\w'’])")
_CHOICE_ALONE = re.compile(r"(?<![\w'’])(?:[(\[]([A-Za-z])[)\]]|([A-Z])(?=[\s.,:;!?)\]}*]|$)(?!\s+[a-z]))")
# "A dog …" and "I think …" are no choices, "A is right" is one.
_CHOICE_SUBJECT = re.compile(r"(?<![\w'’])([A-Z])(?=\s+(?:is|seems|looks|must|would|fits|because|since|and|or|but)\b)")


def exact(prompt: Prompt, completion: str) -> Grade:
    """Right when the texts are equal after collapsing white space.

    Example:
        >>> exact(Prompt(text="?", answer="a b"), "  a   b ").correct
        True
    """
    found, wanted = " ".join(completion.split()), " ".join(prompt.answer.split())
    return Grade(found == wanted, found, "" if found == wanted else f"not equal to {wanted!r}")


def numeric(prompt: Prompt, completion: str) -> Grade:
    """Right when the last number in the completion has the answer's value.

    Example:
        >>> numeric(Prompt(text="?", answer="1200"), "3 x 400 = $1,200.0").correct
        True
    """
    found = list(_NUMBER.finditer(completion))
    if not found:
        return Grade(False, None, "no number in the completion")
    value, wanted = _value(found[-1]), _number(prompt.answer)
    if wanted is None:
        return Grade(None, None, f"the answer {prompt.answer[:40]!r} is no number")
    if value is None:
        return Grade(False, None, f"the last number, {found[-1].group()[:40]!r}, has no value")
    canonical = _shown(value)
    return Grade(value == wanted, canonical, "" if value == wanted else f"last number {canonical}, not {prompt.answer}")


def choice(prompt: Prompt, completion: str) -> Grade:
    """Right when the letter chosen is the answer.

    The letter chosen is the last after "answer" or in a LaTeX box, else the last after "option" or "choice", else the
    last that stands alone and is no word.

    Example:
        >>> choice(Prompt(text="?", answer="B"), "A is tempting, but the answer is (B), not option C.").correct
        True
        >>> choice(Prompt(text="?", answer="C"), "The answer is a matter of taste. I say C").answer
        'C'
    """
    for pattern in (_CHOICE_SAID, _CHOICE_NAMED, _CHOICE_ALONE, _CHOICE_SUBJECT):
        if found := list(pattern.finditer(completion)):
            letter = next(group for group in found[-1].groups() if group).upper()
            right = letter == prompt.answer.strip().strip("()").upper()
            return Grade(right, letter, "" if right else f"chose {letter}, not {prompt.answer}")
    return Grade(False, None, "no choice in the completion")


GRADERS: dict[str, Grader] = {
    "choice": choice,
    "exact": exact,
    "math": math,
    "numeric": numeric,
    "reasoning_gym": reasoning_gym,
    "regex": regex,
}


def grader_named(name: str) -> Grader:
    """Look a grader up.

    Raises:
        OdevalError: There is none of that name.
    """
    if name not in GRADERS:
        raise OdevalError(unknown("grader", name, GRADERS))
    return GRADERS[name]


def check_answer(name: str, answer: str) -> str:
    """Say what is wrong with an answer for a grader, "" if nothing."""
    if name == "numeric" and _number(answer) is None:
        return f"answer {answer!r} is no number, which the grader 'numeric' needs"
    if name == "choice" and not re.fullmatch(r"\(?[A-Za-z]\)?", answer.strip()):
        return f"answer {answer!r} is no single letter, which the grader 'choice' needs"
    if name == "reasoning_gym":
        return entry_problem(answer)
    if name == "regex":
        try:
            re.compile(answer)
        except re.error as error:
            return f"answer {answer!r} is no regular expression ({error})"
    return ""


def _number(text: str) -> Fraction | None:
    """Read a text that is one number and nothing else but a currency sign before or a percent sign after it."""
    match = _NUMBER.search(text)
    if match is None:
        return None
    before, after = text[: match.start()].strip(), text[match.end() :].strip()
    return _value(match) if before in ("", *"$€£¥") and after in ("", "%") else None


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > _DIGITS:
        return None
    sign = -1 if match["sign"] in ("-", "−") else 1
    if match["over"]:
        over, under = (int(match[name].replace(",", "")) for name in ("over", "under"))
        return sign * Fraction(over, under) if under else None
    return sign * Fraction(match["number"].replace(",", "") + (match["exponent"] or "").replace("−", "-"))


def _shown(value: Fraction) -> str:
    """One text for one value: a whole number, a decimal, or a fraction in lowest terms."""
    for places in range(31):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            whole, decimals = digits[: len(digits) - places], digits[len(digits) - places :]
            return f"{'-' if value < 0 else ''}{whole}{'.' if decimals else ''}{decimals}"
    return str(value)
