"""What the worlds with computable truth share: three splits by content hash, and the shape of a world.

A world is small enough that every correct answer to every question can be listed, so a grade is exact, and
so are pass@k and the coverage of solutions (`odeval.testbed.exact`). It needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, get_args

from odeval.errors import OdevalError, unknown
from odeval.tasks.base import Grader, Task
from odeval.types import Prompt, content_hash

Split = Literal["train", "selection", "heldout"]
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")  # the first token ids of every embedded model, in this order
_LONGEST = 160  # characters of a wrong answer that are kept


@dataclass(frozen=True, slots=True)
class World:
    """A question generator whose truth is computable.

    Attributes:
        name: As in `--task NAME`.
        vocabulary: Every token of a prompt or an answer, in the order of the token ids (after `SPECIALS`).
        prompts: (split, limit) -> prompts in a fixed pseudo-random order; limit None gives all.
        solutions: prompt -> every distinct correct answer, sorted.
        grade: (prompt, completion text) -> Grade; never raises on any text.
        max_tokens: The longest correct answer and its end token fit.
        chance: prompt -> probability that one guess from the world's answer space is right; None if it is no question.
    """

    name: str
    vocabulary: Callable[[], list[str]]
    prompts: Callable[[Split, int | None], list[Prompt]]
    solutions: Callable[[Prompt], list[str]]
    grade: Grader
    max_tokens: int
    chance: Callable[[Prompt], float | None]

    def task(self, limit: int = 200) -> Task:
        """Return the held-out questions as a task; what every audit and report uses."""
        return Task(
            name=self.name,
            prompts=[replace(prompt, chance=self.chance(prompt)) for prompt in self.prompts("heldout", limit)],
            grade=self.grade,
            max_tokens=self.max_tokens,
            grader=self.name,
            solutions=self.solutions,
        )


def split_of(question: str) -> Split:
    """Tell to which split a question belongs: 60% train, 10% selection, 30% heldout.

    It depends on the question alone, so no list of questions needs to be kept, and a question cannot move.
    Learning rates are chosen on "selection"; only "heldout" is ever reported.

    Example:
        >>> split_of("a01 f03 :")
        'train'
    """
    tenth = int(content_hash(["split", question]), 16) % 10
    return "train" if tenth < 6 else "selection" if tenth == 6 else "heldout"


def in_split(prompts: Sequence[Prompt], split: Split, limit: int | None) -> list[Prompt]:
    """Return the prompts of one split in hash order, so that the first `limit` are a fair draw.

    Raises:
        OdevalError: The split does not exist, or limit is below 1.
    """
    if split not in get_args(Split):
        raise OdevalError(unknown("split", split, get_args(Split)))
    if limit is not None and limit < 1:
        raise OdevalError(f"limit {limit}: at least 1 prompt is needed")
    chosen = [prompt for prompt in prompts if split_of(prompt.text or "") == split]
    return sorted(chosen, key=lambda prompt: prompt.content)[:limit]


def words(completion: str, most: int) -> list[str]:
    """Split a completion at white space, reading no further than one word beyond the first `most`.

    Example:
        >>> words(" a  b c d e", most=2)
        ['a', 'b', 'c']
    """
    return [found.group() for found in islice(re.finditer(r"\S+", completion), most + 1)]


def shown(answer: Sequence[str]) -> str:
    r"""Join the words of a wrong answer to one short line that can be written to any file.

    Example:
        >>> shown(["a00", "b\ud800"])
        'a00 b?'
    """
    text = " ".join(answer).encode("utf-8", "replace").decode()  # a lone surrogate cannot be stored
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
