"""Countdown: reach a target from four numbers, each used once, in three steps.

    prompt      "1 2 7 9 -> 80 :"                             four numbers 1-9, sorted; a target 10-99
    completion  "7 + 2 = 9 ; 9 * 9 = 81 ; 81 - 1 = 80 ;"      three steps `a op b = c ;`, ending at the target

Each step takes two numbers of what is left and puts their result back. Results are whole numbers 1-99; the
larger operand stands first (a >= b), and times 1 and divided by 1 are left out, so that a derivation has one
spelling. Two derivations that differ only in the order of independent steps count as distinct.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import combinations, combinations_with_replacement

from odeval.tasks.base import Task
from odeval.tasks.worlds import Split, World, in_split, shown, words
from odeval.types import Grade, Prompt

NUMBERS = range(1, 10)
COUNT = 4
TARGETS = range(10, 100)
RESULTS = range(1, 100)
OPERATORS = ("+", "-", "*", "/")
_NUMERALS = {str(number): number for number in RESULTS}  # "07" and "٧" are no numerals of this world
_STEP = 6  # words: a op b = c ;


def result(a: int, operator: str, b: int) -> int | None:
    """Compute one step; None where the rules forbid it.

    Example:
        >>> result(9, "*", 5), result(2, "-", 7), result(7, "/", 2), result(7, "*", 1)
        (45, None, None, None)
    """
    if a < b:
        return None
    match operator:
        case "+":
            value = a + b
        case "-":
            value = a - b
        case "*" if b != 1:
            value = a * b
        case "/" if b != 1 and a % b == 0:
            value = a // b
        case _:
            return None
    return value if value in RESULTS else None


@cache
def derivations(numbers: tuple[int, ...]) -> dict[int, tuple[str, ...]]:
    """List every derivation that uses all the numbers.

    Args:
        numbers: Two or more, sorted.

    Returns:
        Final result -> its distinct derivations, sorted. Results outside TARGETS are among them.

    Example:
        >>> derivations((2, 7))[14]
        ('7 * 2 = 14 ;',)
    """
    found: dict[int, set[str]] = {}
    for i, j in combinations(range(len(numbers)), 2):
        b, a = numbers[i], numbers[j]
        rest = [number for place, number in enumerate(numbers) if place not in (i, j)]
        for operator in OPERATORS:
            c = result(a, operator, b)
            if c is None:
                continue
            step = f"{a} {operator} {b} = {c} ;"
            if not rest:
                found.setdefault(c, set()).add(step)
                continue
            for end, tails in derivations(tuple(sorted([*rest, c]))).items():
                found.setdefault(end, set()).update(f"{step} {tail}" for tail in tails)
    return {end: tuple(sorted(texts)) for end, texts in sorted(found.items())}


def vocabulary() -> list[str]:
    return [*_NUMERALS, *OPERATORS, "=", ";", "->", ":"]


@lru_cache(maxsize=1)
def _questions() -> tuple[Prompt, ...]:
    """Every multiset of numbers with every target it can reach."""
    return tuple(
        Prompt(text=f"{' '.join(map(str, numbers))} -> {target} :", answer=str(target))
        for numbers in combinations_with_replacement(NUMBERS, COUNT)
        for target in derivations(numbers)
        if target in TARGETS
    )


def prompts(split: Split = "heldout", limit: int | None = None) -> list[Prompt]:
    """Return the solvable questions of one split, in a fixed pseudo-random order.

    Raises:
        OdevalError: No such split, or limit below 1.

    Example:
        >>> [prompt.text for prompt in prompts("heldout", 2)]
        ['5 6 6 8 -> 52 :', '3 4 6 9 -> 18 :']
    """
    return in_split(_questions(), split, limit)


def _question(prompt: Prompt) -> tuple[tuple[int, ...], int] | None:
    """Numbers and target as the prompt states them; None when it is no question of this world."""
    match (prompt.text or "").split():
        case [*given, "->", target, ":"] if len(given) == COUNT and all(word in _NUMERALS for word in given):
            numbers = tuple(sorted(_NUMERALS[word] for word in given))
            if numbers[-1] in NUMBERS and _NUMERALS.get(target) in TARGETS:
                return numbers, _NUMERALS[target]
    return None


def solutions(prompt: Prompt) -> list[str]:
    """Return every correct answer to a prompt, sorted; none for a text that is no question of this world."""
    question = _question(prompt)
    return [] if question is None else list(derivations(question[0]).get(question[1], ()))


def grade(prompt: Prompt, completion: str) -> Grade:
    """Check a derivation step by step.

    Args:
        prompt: Its text alone decides; nothing is looked up.
        completion: Any text.

    Returns:
        The words joined by single spaces as canonical answer. `correct` is None only when the prompt is no
        question of this world.

    Example:
        >>> question = Prompt(text="1 2 7 9 -> 80 :")
        >>> grade(question, "7 + 2 = 9 ; 9 * 9 = 81 ; 81 - 1 = 80 ;").correct
        True
        >>> grade(question, "9 + 7 = 16 ; 16 * 5 = 80 ;").why
        '5 is not left in step 2: 16 * 5 = 80'
    """
    question = _question(prompt)
    if question is None:
        return Grade(None, None, "the prompt is no question of this world")
    numbers, target = question
    steps = COUNT - 1
    answer = words(completion, steps * _STEP)
    why = _fault(list(numbers), target, answer[: steps * _STEP])
    if not why and len(answer) > steps * _STEP:
        why = "goes on after the last step"
    return Grade(False, shown(answer), why) if why else Grade(True, " ".join(answer))


def _fault(left: list[int], target: int, answer: list[str]) -> str:
    """The first thing wrong with a derivation, "" when nothing is."""
    if not answer:
        return "empty"
    for number, start in enumerate(range(0, len(answer), _STEP), start=1):
        step = answer[start : start + _STEP]
        where = f"step {number}: {shown([word[:20] for word in step])}".removesuffix(" ;")
        match step:
            case [a, operator, b, "=", c, ";"]:
                pass
            case _:
                return f"not of the form `a op b = c ;` in {where}"
        for word in (a, b):
            value = _NUMERALS.get(word, 0)  # 0 is never left
            if value not in left:
                return f"{shown([word[:20]])} is not left in {where}"
            left.remove(value)
        found = result(_NUMERALS[a], operator, _NUMERALS[b])
        if found is None:
            return f"not allowed in {where}"
        if str(found) != c:
            return f"wrong result in {where}"
        left.append(found)
    if len(left) > 1:
        return f"{len(left)} numbers are left over: {' '.join(map(str, sorted(left)))}"
    return "" if left == [target] else f"ends at {left[0]}, not at {target}"


def chance(prompt: Prompt) -> float | None:
    """Probability that a uniform guess among the derivations that the rules allow is right.

        derivations that end at the target  /  derivations that use all four numbers, wherever they end

    Returns:
        In [0, 1]; None for a text that is no question of this world.

    Example:
        >>> round(chance(Prompt(text="1 2 7 9 -> 80 :")), 4)
        0.0035
    """
    question = _question(prompt)
    if question is None:
        return None
    ways = derivations(question[0])
    return len(ways.get(question[1], ())) / sum(map(len, ways.values()))


WORLD = World(
    name="countdown",
    vocabulary=vocabulary,
    prompts=prompts,
    solutions=solutions,
    grade=grade,
    max_tokens=(COUNT - 1) * _STEP + 1,
    chance=chance,
)


def task(limit: int = 200) -> Task:
    """Return the held-out questions as a task."""
    return WORLD.task(limit)
