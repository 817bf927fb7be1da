"""Bring your own prompts: one JSON object a line with `prompt` or `messages`, `answer`, and optionally `id`, `cluster`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError, unknown
from odeval.tasks.base import Task
from odeval.tasks.graders import check_answer, grader_named
from odeval.types import Prompt

_KEYS = ("answer", "cluster", "id", "messages", "prompt")


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
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise OdevalError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise OdevalError(f"{path}: is not UTF-8 text (byte {error.start})") from error
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
        raise OdevalError(
            f"{path}: holds no prompts; write one JSON object a line with `prompt` and `answer`"
        )
    return Task(name=str(path), prompts=prompts, grade=grade, max_tokens=max_tokens, grader=grader)


def _parse(line: str, where: str, grader: str) -> Prompt:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise OdevalError(f"{where}: is no JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(row, dict):
        raise OdevalError(
            f"{where}: is a {type(row).__name__}, expected an object with `prompt` and `answer`"
        )
    for key in row:
        if key not in _KEYS:
            raise OdevalError(f"{where}: {unknown('field', key, _KEYS)}")
    if ("prompt" in row) == ("messages" in row):
        raise OdevalError(f"{where}: needs exactly one of `prompt` (text) and `messages` (chat turns)")
    if "answer" not in row:
        raise OdevalError(f"{where}: field `answer` is missing; the grader '{grader}' compares with it")
    if isinstance(row["answer"], bool) or not isinstance(row["answer"], str | int | float):
        raise OdevalError(f"{where}: `answer` is a {type(row['answer']).__name__}, expected text or a number")
    answer = str(row["answer"])
    if problem := check_answer(grader, answer):
        raise OdevalError(f"{where}: {problem}")
    prompt = Prompt(
        text=_text(row, "prompt", where) if "prompt" in row else None,
        messages=_messages(row["messages"], where) if "messages" in row else None,
        answer=answer,
        id=str(row.get("id", "")),
        cluster=str(row.get("cluster", "")),
    )
    return prompt


def _text(row: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(row[key], str) or not row[key]:
        raise OdevalError(f"{where}: `{key}` is {row[key]!r}, expected a text that is not empty")
    text: str = row[key]
    return text


def _messages(value: Any, where: str) -> tuple[dict[str, str], ...]:
    well_formed = (
        isinstance(value, list)
        and value
        and all(
            isinstance(turn, dict)
            and isinstance(turn.get("role"), str)
            and isinstance(turn.get("content"), str)
            for turn in value
        )
    )
    if not well_formed:
        raise OdevalError(f'{where}: `messages` must be a list of {{"role": text, "content": text}}')
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in value)
