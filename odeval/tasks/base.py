"""What a task is: prompts, a grader, and where they exist the enumerated solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from odeval.types import Grade, Prompt

Grader = Callable[[Prompt, str], Grade]


@dataclass(frozen=True, slots=True)
class Task:
    """A question set and the program that grades it.

    Attributes:
        name: As the user named it.
        prompts: In a fixed order; ids are unique.
        grade: (prompt, completion text) -> Grade. Deterministic, never raises on any text.
        max_tokens: A sensible limit for a completion.
        solutions: prompt -> every distinct correct canonical answer; None where they cannot be enumerated.
        grader: Name of the grader, recorded so that runs graded differently are not compared.
    """

    name: str
    prompts: Sequence[Prompt]
    grade: Grader
    max_tokens: int
    grader: str
    solutions: Callable[[Prompt], list[str]] | None = None
