"""Graders for bring-your-own tasks: completion text against the row's `answer`.

Every grader is deterministic, takes any text, and returns the canonical answer it found, so that distinct answers
can be counted.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from odeval.errors import OdevalError, unknown
from odeval.tasks.base import Grader
from odeval.types import Grade, Prompt

# A sign counts only where no number or letter stands before it: "3-4" holds 3 and 4, not 3 and -4.
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?|(?<![\w.])[-+−]?\.\d+"
)
_CHOICE_SAID = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s+is)?\s*[:=]?\s*\**\(?([A-Z])\)?\b", re.IGNORECASE
)
_CHOICE_ALONE = re.compile(r"(?<![\w'])\(?([A-Z])\)?(?=[\s.,:;)*]|$)")


def exact(prompt: Prompt, completion: str) -> Grade:
    """Right when the texts are equal after collapsing white space.

    Example:
        >>> exact(Prompt(text="?", answer="a b"), "  a   b\\n").correct
        True
    """
    found, wanted = " ".join(completion.split()), " ".join(prompt.answer.split())
    return Grade(found == wanted, found, "" if found == wanted else f"not equal to {wanted!r}")


def numeric(prompt: Prompt, completion: str) -> Grade:
    """Right when the last number in the completion has the answer's value.

    Example:
        >>> numeric(Prompt(text="?", answer="1200"), "3 x 400 = 1,200.0").correct
        True
    """
    found = _NUMBER.findall(completion)
    if not found:
        return Grade(False, None, "no number in the completion")
    value, wanted = _decimal(found[-1]), _decimal(prompt.answer)
    if value is None or wanted is None:
        return Grade(None, None, f"{found[-1]!r} or {prompt.answer!r} is no number")
    canonical = f"{value.normalize():f}" if abs(value.adjusted()) < 40 else str(value.normalize())
    return Grade(
        value == wanted, canonical, "" if value == wanted else f"last number {canonical}, not {prompt.answer}"
    )


def choice(prompt: Prompt, completion: str) -> Grade:
    """Right when the letter chosen is the answer: the last "answer is X", else the last letter that stands alone.

    Example:
        >>> choice(Prompt(text="?", answer="B"), "A is tempting, but the answer is (B).").correct
        True
    """
    found = _CHOICE_SAID.findall(completion) or _CHOICE_ALONE.findall(completion)
    if not found:
        return Grade(False, None, "no choice in the completion")
    letter = found[-1].upper()
    right = letter == prompt.answer.strip().strip("()").upper()
    return Grade(right, letter, "" if right else f"chose {letter}, not {prompt.answer}")


def regex(prompt: Prompt, completion: str) -> Grade:
    """Right when the answer, a regular expression, matches somewhere; its first group is the canonical answer.

    Example:
        >>> regex(Prompt(text="?", answer=r"= (4|four)"), "2 + 2 = four").answer
        'four'
    """
    match = re.search(prompt.answer, completion)
    if match is None:
        return Grade(False, None, "the pattern does not match")
    return Grade(True, match.group(1) if match.re.groups else match.group(0))


GRADERS: dict[str, Grader] = {"choice": choice, "exact": exact, "numeric": numeric, "regex": regex}


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
    if name == "numeric" and _decimal(answer) is None:
        return f"answer {answer!r} is no number, which the grader 'numeric' needs"
    if name == "choice" and not re.fullmatch(r"\(?[A-Za-z]\)?", answer.strip()):
        return f"answer {answer!r} is no single letter, which the grader 'choice' needs"
    if name == "regex":
        try:
            re.compile(answer)
        except re.error as error:
            return f"answer {answer!r} is no regular expression ({error})"
    return ""


def _decimal(text: str) -> Decimal | None:
    try:
        value = Decimal(text.strip().replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
