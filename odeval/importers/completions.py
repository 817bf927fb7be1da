"""One completion as a log tells it, and how many of them become one Imported: the only place where outcomes are read.

Never guessed: an outcome is what the file records, or what a grader says; anything else is null with its reason.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from odeval.errors import OdevalError
from odeval.importers.base import COLUMNS, Imported, ImportOptions
from odeval.tasks.graders import check_answer
from odeval.types import Grade, Prompt
from odeval.visible import visible

_FINISH = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "tool_calls"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_length"), "length"),
    "error": "error",
}
UNKNOWN_FINISH = "unknown"  # the log does not say how the completion ended


@dataclass(frozen=True, slots=True)
class Found:
    """One completion in a log.

    Attributes:
        where: File and row, for errors.
        prompt: The question; prompts of one id must be one question.
        completion: Its text, None when the log has none.
        score: The recorded outcome as it stands there: bool, number, their texts; None when there is none.
        null: Why this completion has no outcome although others have one (an error, a time-out), in a few words; it
            overrides `score`.
        why: The tool's own words about it.
        answer: The answer the tool found in it.
        finish: The tool's word for how it ended.
        seed: As recorded.
        sample_id: As recorded; None to count in the order of the file.
        reward: What a verifier or reward model gave it, beside the outcome; for best-of-k.
        answers: Accepted answers where there are several; () for the prompt's own.
    """

    where: str
    prompt: Prompt
    completion: str | None = None
    score: Any = None
    null: str = ""
    why: str = ""
    answer: str | None = None
    finish: str = ""
    seed: int | None = None
    sample_id: int | None = None
    reward: float | None = None
    answers: Sequence[str] = ()


def assemble(
    tool: str, found: Iterable[Found], options: ImportOptions, notes: Sequence[str] = (), **known: Any
) -> Imported:
    """Turn a log's completions into what is written as a run.

    Args:
        tool: Who wrote the log.
        found: Its completions.
        options: Grader or threshold.
        notes: What was dropped before, and why.
        known: model, task, sampling, where the file says so; `recorded` is who decided the recorded outcomes.

    Raises:
        OdevalError: No outcome is recorded and no grader is given; an id names two questions or two completions; a
            score is neither 0 nor 1 and no threshold is given.
    """
    recorded = known.pop("recorded", "") or f"recorded by {tool}"
    prompts: dict[str, Prompt] = {}
    next_id: Counter[str] = Counter()
    grades: dict[tuple[str, str], Grade] = {}
    nulls: Counter[str] = Counter()
    taken: set[tuple[str, int]] = set()
    rows = []
    first = ""
    for item in found:
        first = first or item.where
        key = item.prompt.prompt_id
        if prompts.setdefault(key, item.prompt) is not item.prompt and prompts[key].content != item.prompt.content:
            raise OdevalError(f"{item.where}: id '{key}' already names another prompt in this file")
        sample_id = next_id[key] if item.sample_id is None else item.sample_id
        if not 0 <= sample_id < 2**31 or (key, sample_id) in taken:
            raise OdevalError(f"{item.where}: sample {sample_id} of prompt '{key}' stands there twice or is no number")
        taken.add((key, sample_id))
        next_id[key] += 1
        if options.grader is not None:
            grade, null = _graded(item, options, grades)
        else:
            correct = None if item.null else outcome(item.score, options.threshold, item.where)
            null = item.null or ("no outcome is recorded" if correct is None else "")
            grade = Grade(correct, item.answer, item.why or null)
        if null:
            nulls[null] += 1
        finish = _FINISH.get(item.finish, UNKNOWN_FINISH)
        rows.append(
            (key, sample_id, item.completion, grade.correct, grade.answer, grade.why, finish, item.seed, item.reward)
        )
    if rows and sum(nulls.values()) == len(rows):
        raise OdevalError(f"{first.rpartition(':')[0] or first}: {_no_outcome(nulls, options)}")
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"correct": object, "seed": object})
    told = [f"{count} of {len(rows)} completions are not graded: {why}" for why, count in nulls.most_common()]
    return Imported(
        tool=tool,
        prompts=list(prompts.values()),
        rows=table,
        grader=options.grader_name if options.grader is not None else recorded + _threshold(options),
        notes=[visible(note) for note in (*notes, *told)],
        **{**known, "model": options.model or known.get("model") or ""},
    )


def outcome(score: Any, threshold: float | None, where: str) -> bool | None:
    """Read a recorded outcome: yes, no, or None when there is none.

    Args:
        score: What the file says.
        threshold: Correct means score >= threshold; None accepts only yes and no.
        where: File and row.

    Raises:
        OdevalError: It is neither, and no threshold tells what counts as right.

    Example:
        >>> outcome("True", None, "log:1"), outcome(0.0, None, "log:1"), outcome(float("nan"), None, "log:1")
        (True, False, None)
    """
    if score is None or (isinstance(score, bool) and threshold is None):
        return score
    words = {"true": 1.0, "false": 0.0}
    try:
        number = float(words.get(score.strip().lower(), score) if isinstance(score, str) else score)
    except (TypeError, ValueError, OverflowError):
        raise OdevalError(f"{where}: outcome {_short(score)} is neither a number nor true or false") from None
    if math.isnan(number):
        return None
    if threshold is not None:
        return number >= threshold
    if number not in (0.0, 1.0):
        raise OdevalError(
            f"{where}: score {_short(score)} is neither 0 nor 1; say from which score on it is right: --threshold X"
        )
    return number == 1.0


def _graded(item: Found, options: ImportOptions, known: dict[tuple[str, str], Grade]) -> tuple[Grade, str]:
    """Ask the grader; equal completions of one prompt are graded once."""
    if item.completion is None or item.finish == "error":
        why = item.null or "no completion is recorded"
        return Grade(None, None, item.why or why), why
    key = (item.prompt.prompt_id, item.completion)
    if key not in known:
        assert options.grader is not None
        answers = item.answers or (item.prompt.answer,)
        for answer in answers:
            if answer == "":
                raise OdevalError(
                    f"{item.where}: no answer is recorded, and the grader '{options.grader_name}' compares with it"
                )
            if problem := check_answer(options.grader_name, answer):
                raise OdevalError(f"{item.where}: {problem}")
        tried = [options.grader(replace(item.prompt, answer=answer), item.completion) for answer in answers]
        # Right if any accepted answer matches; unknown before wrong, since a time-out is no verdict.
        known[key] = min(tried, key=lambda grade: {True: 0, None: 1, False: 2}[grade.correct])
    grade = known[key]
    return grade, "" if grade.correct is not None else f"grader: {grade.why or 'no verdict'}"


def _no_outcome(nulls: Mapping[str, int], options: ImportOptions) -> str:
    reasons = ", ".join(f"{count}: {why}" for why, count in nulls.items())
    if options.grader is not None:
        return f"not one completion could be graded ({reasons})"
    return (
        f"no outcome is recorded for any completion ({reasons}); have them graded: "
        "odeval import FORMAT FILE -o RUN --grader NAME"
    )


def _threshold(options: ImportOptions) -> str:
    return "" if options.threshold is None else f", right from {options.threshold:g}"


def text_of(value: Any, where: str, field: str) -> str | None:
    """A text, or None.

    Raises:
        OdevalError: It is something else.
    """
    if value is None or isinstance(value, str):
        return value
    hint = "; write one row a completion" if isinstance(value, list) else ""
    raise OdevalError(f"{where}: field '{field}' is a {type(value).__name__}, expected a text{hint}")


def answer_of(value: Any) -> str:
    """An expected answer of any JSON type as text; "" when there is none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def prompt_of(value: Any, where: str, identity: str = "", answer: str = "") -> Prompt:
    """A prompt from a text or a list of chat turns; parts of a turn that are no text are named, not kept.

    Raises:
        OdevalError: It is neither.
    """
    if isinstance(value, str) or value is None:
        return Prompt(text=value or "", id=identity, answer=answer)
    if isinstance(value, list) and all(isinstance(turn, dict) and "role" in turn for turn in value):
        turns = tuple({"role": str(turn["role"]), "content": _content(turn.get("content"))} for turn in value)
        return Prompt(messages=turns, id=identity, answer=answer)
    raise OdevalError(f"{where}: prompt is a {type(value).__name__}, expected a text or chat turns")


def _content(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [part if isinstance(part, dict) else {"text": str(part)} for part in value]
        return "\n".join(str(part.get("text") or f"[{part.get('type', 'part')}]") for part in parts)
    return "" if value is None else str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
