"""A look at a few completions before the budget is spent: a wrong template or grader shows in the first eight.

The samples are the first ones of the run itself, so a pilot costs nothing that the audit would not have spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import methodcaller

from odeval.engines.base import Engine
from odeval.executors import Alone, Crew
from odeval.sampling import sample
from odeval.store import RunFolder
from odeval.tasks.base import Task
from odeval.types import Grade, Prompt, SamplingParams
from odeval.visible import visible

PROMPTS = 8
_SHOWN = 3
_TEXT = 160  # characters of a prompt's end, of a completion, of an answer


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with its completion and what the grader made of it."""

    prompt: Prompt
    completion: str
    finish_reason: str
    grade: Grade


def is_due(run: RunFolder) -> bool:
    """Tell whether a run has no more than a pilot's samples; one that was killed in its pilot makes it whole first."""
    return all(path.stem.endswith("-pilot") for path in run.part_paths(run.samples))


def pilot(
    engine: Engine | Crew[Engine], task: Task, params: SamplingParams, run: RunFolder, prompts: int = PROMPTS
) -> tuple[Answered, ...]:
    """Draw and grade one completion for each of the first prompts of a run.

    Args:
        engine: Who answers: one engine, or a crew that has one each.
        task: What is asked.
        params: Of the run.
        run: Keeps what is drawn, and is completed by `sample` with the same settings.
        prompts: How many, at least 1.

    Returns:
        In the task's order.

    Raises:
        OdevalError: As `sample`.
    """
    crew = engine if isinstance(engine, Crew) else Alone(engine)
    sample(crew, crew.ask(methodcaller("ref")), task, params, run, first=prompts)
    drawn = {
        row["prompt_id"]: row
        for table in run.iterate(run.samples, ["prompt_id", "completion", "finish_reason"])
        for row in table.to_pylist()
    }
    return tuple(_graded(task, prompt, drawn[prompt.prompt_id]) for prompt in task.prompts[:prompts])


def _graded(task: Task, prompt: Prompt, row: dict[str, str | None]) -> Answered:
    text, reason = row["completion"], str(row["finish_reason"])
    if text is None or reason == "error":
        return Answered(prompt, text or "", reason, Grade(None, None, "the engine gave no completion"))
    return Answered(prompt, text, reason, task.grade(prompt, text))


def lines_of(label: str, asked: Sequence[Answered]) -> list[str]:
    r"""Three of the completions as text for a terminal: end of the prompt, completion, extracted answer, grade.

    Example:
        >>> one = Answered(Prompt(text="2 + 2 ="), " 4\n", "stop", Grade(True, "4"))
        >>> print("\n".join(lines_of("student", [one])))
        pilot student: 1 of 1 right
          prompt      2 + 2 =
          completion   4␊
          answer      4: right
    """
    if not asked:
        return []
    right = sum(one.grade.correct is True for one in asked)
    lines = [f"pilot {visible(label, 60)}: {right} of {len(asked)} right"]
    for one in asked[:_SHOWN]:
        question = one.prompt.display()
        cut = one.finish_reason == "length"
        lines += [
            f"  prompt      {'…' if len(question) > _TEXT else ''}{visible(question[-_TEXT:])}",
            f"  completion  {visible(one.completion, _TEXT)}{' (cut at max_tokens)' if cut else ''}",
            f"  answer      {_told(one.grade)}",
        ]
    return lines


def _told(grade: Grade) -> str:
    found = "none found" if grade.answer is None else visible(grade.answer, _TEXT)
    word = {True: "right", False: "wrong", None: "not graded"}[grade.correct]
    return f"{found}: {word}" + (f", {visible(grade.why, _TEXT)}" if grade.why else "")


def warning(label: str, asked: Sequence[Answered], max_tokens: int) -> str:
    """One line where a pilot says that something is wrong with the question rather than the model, else "".

    That is where no answer could be extracted, none could be graded, all were cut, or none is right.

    Example:
        >>> warning("student", [Answered(Prompt(text="?"), "Well, ", "length", Grade(False, None))] * 2, 3)
        'pilot student: none of 2 completions holds an answer, all were cut at max_tokens 3; ...'
    """
    if not asked or any(one.grade.correct for one in asked):
        return ""
    faults = [
        text
        for text, found in (
            ("holds an answer", all(one.grade.answer is None for one in asked)),
            ("could be graded", all(one.grade.correct is None for one in asked)),
            ("is right", True),
        )
        if found
    ]
    cut = f", all were cut at max_tokens {max_tokens}" if all(one.finish_reason == "length" for one in asked) else ""
    return (
        f"pilot {visible(label, 60)}: none of {len(asked)} completions {faults[0]}{cut}; look at prompts, chat "
        "template, grader and max_tokens before the whole budget is spent (Ctrl-C stops, the same command goes on)"
    )
