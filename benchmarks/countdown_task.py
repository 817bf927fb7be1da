"""The task of the real-model studies: reasoning-gym's countdown in a line, with its answer space and its chance.

    prompt      "Make 21 from 7, 3, 11:"            three or four numbers of 1-12, a target of 1-40
    completion  " 7 + 3 + 11"                       graded by reasoning-gym's own scorer

Most questions have several right answers. The answer space is what the question asks for, stated once here: every order
of the numbers, joined by + - * / without brackets. A question belongs to one split by the hash of its numbers and
target, so that no held-out question is trained on in another order.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import permutations, product
from pathlib import Path
from typing import Any

import reasoning_gym

from odeval.atomic import write_text
from odeval.tasks.worlds import Split, split_of

OPERATORS = "+-*/"
MOST, TARGET = 12, 40
SETTINGS = {
    "min_numbers": 3, "max_numbers": 4, "min_value": 1, "max_value": MOST, "min_target": 1, "max_target": TARGET,
    "operators": ("+", "-", "*"),
}  # fmt: skip


def value(numbers: Sequence[int], operators: Sequence[str]) -> Fraction | None:
    """Value of numbers joined by operators, times and divided by first; None where it divides by zero.

    Example:
        >>> value([7, 3, 2], "-*"), value([1, 2, 4], "+/")
        (Fraction(1, 1), Fraction(3, 2))
    """
    terms = [Fraction(numbers[0])]
    for operator, number in zip(operators, numbers[1:], strict=True):
        if operator == "*":
            terms[-1] *= number
        elif operator == "/":
            if number == 0:
                return None
            terms[-1] /= number
        else:
            terms.append(Fraction(number if operator == "+" else -number))
    return sum(terms, Fraction(0))


@cache
def answer_space(numbers: tuple[int, ...]) -> dict[str, Fraction | None]:
    """Every distinct well-formed answer with its value: orders of the numbers × operators, no brackets.

    Example:
        >>> len(answer_space((3, 7, 11))), len(answer_space((3, 3, 7)))
        (96, 48)
    """
    return {
        "".join(
            f" {operator} {number}" for operator, number in zip(("", *operators), order, strict=True)
        ).strip(): value(order, operators)
        for order in permutations(numbers)
        for operators in product(OPERATORS, repeat=len(numbers) - 1)
    }


def solutions(numbers: Sequence[int], target: int) -> list[str]:
    """The right answers among them, sorted.

    Example:
        >>> solutions([2, 3, 4], 10)
        ['2 * 3 + 4', '3 * 2 + 4', '4 + 2 * 3', '4 + 3 * 2']
    """
    return sorted(text for text, found in answer_space(tuple(sorted(numbers))).items() if found == target)


def chance(numbers: Sequence[int], target: int) -> float:
    """Probability that one uniform guess from the answer space is right."""
    return len(solutions(numbers, target)) / len(answer_space(tuple(sorted(numbers))))


def entries(split: Split, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Distinct entries of one split that can be answered without brackets, in reasoning-gym's order."""
    seen: set[tuple[Any, ...]] = set()
    data = reasoning_gym.create_dataset("countdown", size=100 * count, seed=1 + seed, **SETTINGS)
    for place in range(100 * count):
        entry = data[place]
        key = (*sorted(entry["metadata"]["numbers"]), entry["metadata"]["target"])
        if key in seen or split_of(" ".join(map(str, key))) != split or not solutions(key[:-1], key[-1]):
            continue
        seen.add(key)
        yield entry
        if len(seen) == count:
            return


def question(entry: dict[str, Any]) -> str:
    numbers = ", ".join(map(str, entry["metadata"]["numbers"]))
    return f"Make {entry['metadata']['target']} from {numbers}:"


def rows(split: Split, count: int) -> list[dict[str, Any]]:
    """A prompts file: question, entry as answer, and the chance of one guess."""
    found = []
    for entry in entries(split, count):
        known = {"question": entry["question"], "answer": entry["answer"], "metadata": entry["metadata"], "bare": True}
        numbers, target = entry["metadata"]["numbers"], entry["metadata"]["target"]
        found.append(
            {
                "prompt": question(entry),
                "answer": json.dumps(known, sort_keys=True),
                "chance": chance(numbers, target),
            }
        )
    return found


def corpus(split: Split, count: int, seed: int = 0) -> list[dict[str, str]]:
    """Right answers to learn from, each drawn evenly from all right ones, so that no spelling is favoured."""
    draw = random.Random(seed)
    return [
        {
            "prompt": question(entry),
            "completion": f" {draw.choice(solutions(entry['metadata']['numbers'], entry['metadata']['target']))}",
        }
        for entry in entries(split, count)
    ]


def write(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """Write one JSON object a line."""
    write_text(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
    return path
