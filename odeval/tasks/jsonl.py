"""Bring your own prompts: one JSON object a line with `prompt` or `messages` and `answer`.

Optional are `id`, `cluster`, and `chance`: the probability that one guess from the answer space is right.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError, unknown
from odeval.tasks.base import Task
from odeval.tasks.graders import check_answer, grader_named
from odeval.types import Prompt

_KEYS = ("answer", "chance", "cluster", "id", "messages", "prompt")


def load(path: Path, grader: str, limit: int | None = None, max_tokens: int = 1024) -> Task:
    """Read a prompts file.

    Args:
        path: JSONL, UTF-8.
        grader: A name from GRADERS.
        limit: Take the first `limit` prompts.
        max_tokens: For a completion.

    Raises:
        OdevalError: The file is missing or empty, a row is malformed, or two rows are one prompt; the text names the
            file and the line.
    """
    grade = grader_named(grader)
    try:
        content = path.read_bytes()
        # Not splitlines(): a text may hold U+2028 and its like, which end no line of JSONL.
        lines = content.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise OdevalError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise OdevalError(f"{path}:{number}: is not UTF-8 text (byte {error.start} of the file)") from error
    prompts: list[Prompt] = []
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        prompt = _parse(line, f"{path}:{number}", grader)
        if prompt.prompt_id in first:
            what = f"id {prompt.id!r}" if prompt.id else "prompt and answer"
            raise OdevalError(
                f"{path}:{number}: {what} already stands on line {first[prompt.prompt_id]}; "
                "every prompt needs a place of its own, so remove one or give them different ids"
            )
        first[prompt.prompt_id] = number
        prompts.append(prompt)
        if limit is not None and len(prompts) == limit:
            break
    if not prompts:
        raise OdevalError(f"{path}: holds no prompts; write one JSON object a line with `prompt` and `answer`")
    return Task(name=str(path), prompts=prompts, grade=grade, max_tokens=max_tokens, grader=grader)


def _parse(line: str, where: str, grader: str) -> Prompt:
    row = _object(line, where)
    for key in row:
        if key not in _KEYS:
            raise OdevalError(f"{where}: {unknown('field', key, _KEYS)}")
    if ("prompt" in row) == ("messages" in row):
        raise OdevalError(f"{where}: needs exactly one of `prompt` (text) and `messages` (chat turns)")
    if "answer" not in row:
        raise OdevalError(f"{where}: field `answer` is missing; the grader '{grader}' compares with it")
    answer = _label(row, "answer", where)
    if problem := check_answer(grader, answer):
        raise OdevalError(f"{where}: {problem}")
    return Prompt(
        text=_text(row, "prompt", where) if "prompt" in row else None,
        messages=_messages(row["messages"], where) if "messages" in row else None,
        answer=answer,
        id=_label(row, "id", where) if "id" in row else "",
        cluster=_label(row, "cluster", where) if "cluster" in row else "",
        chance=_chance(row["chance"], where) if row.get("chance") is not None else None,
    )


def _object(line: str, where: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise OdevalError(f"{where}: field `{twice}` stands there twice")
        return dict(pairs)

    try:
        row = json.loads(line, object_pairs_hook=once)
        line.encode()
        json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise OdevalError(f"{where}: is no JSON ({error.msg} at column {error.colno})") from error
    except UnicodeEncodeError as error:
        raise OdevalError(f"{where}: holds half a character (a lone surrogate), which is no text") from error
    except OdevalError:
        raise
    except (ValueError, RecursionError) as error:  # a number of more digits than Python reads, or nested too deep
        raise OdevalError(f"{where}: cannot be read as JSON ({str(error).split(';')[0]})") from error
    if not isinstance(row, dict):
        raise OdevalError(f"{where}: is a {type(row).__name__}, expected an object with `prompt` and `answer`")
    return row


def _text(row: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(row[key], str) or not row[key]:
        raise OdevalError(f"{where}: `{key}` is {row[key]!r}, expected a text that is not empty")
    text: str = row[key]
    return text


def _label(row: dict[str, Any], key: str, where: str) -> str:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise OdevalError(f"{where}: `{key}` is a {type(value).__name__}, expected text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise OdevalError(f"{where}: `{key}` is {value}, expected text or a finite number")
    return str(value)


def _chance(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise OdevalError(
            f"{where}: `chance` is {value!r}, expected the probability that one guess is right, from 0 to 1; "
            "leave it out where it is not known"
        )
    return float(value)


def _messages(value: Any, where: str) -> tuple[dict[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise OdevalError(f'{where}: `messages` must be a list of {{"role": text, "content": text}}')
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise OdevalError(f'{where}: turn {number} of `messages` must be {{"role": text, "content": text}}')
        if extra := sorted(turn.keys() - {"role", "content"}):
            raise OdevalError(f"{where}: turn {number} of `messages` has `{extra[0]}`; only role and content are used")
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in value)
