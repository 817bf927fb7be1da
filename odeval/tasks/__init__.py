"""WHAT is asked. TASKS is the index of the built-in tasks; a path to a JSONL file is a task too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from odeval.errors import OdevalError, unknown
from odeval.tasks import countdown, graph_paths, jsonl
from odeval.tasks.base import Grader, Task
from odeval.tasks.graders import grader_named

TASKS: dict[str, Callable[[int], Task]] = {"countdown": countdown.task, "graph_paths": graph_paths.task}


def load_task(name: str, grader: str | None = None, limit: int | None = None, max_tokens: int | None = None) -> Task:
    """Find a task by its name or its file.

    Args:
        name: A key of TASKS, or the path of a prompts file (recognised by its suffix or because it exists).
        grader: For a prompts file; built-in tasks bring their own.
        limit: Take the first `limit` prompts; None for 200 of a built-in task, all of a file.
        max_tokens: For a completion; None for the task's own.

    Raises:
        OdevalError: There is no such task, or the grader is missing or superfluous.
    """
    if limit is not None and limit < 1:
        raise OdevalError(f"limit {limit}: at least 1 prompt is needed")
    if max_tokens is not None and max_tokens < 1:
        raise OdevalError(f"max_tokens {max_tokens}: must be >= 1")
    if name in TASKS:
        if grader is not None:
            raise OdevalError(f"task '{name}' grades with its own program; leave out grader '{grader}'")
        task = TASKS[name](200 if limit is None else limit)
        return task if max_tokens is None else replace(task, max_tokens=max_tokens)
    if not (name.endswith((".jsonl", ".json")) or Path(name).is_file()):
        raise OdevalError(unknown("task", name, TASKS) + "; or give the path of a prompts file (.jsonl)")
    if grader is None:
        raise OdevalError(f"task {name}: a prompts file needs a grader; pass --grader exact, numeric, choice or regex")
    return jsonl.load(Path(name), grader, limit, 1024 if max_tokens is None else max_tokens)


def grader_of(task: Mapping[str, str], name: str | None = None) -> tuple[str, Grader]:
    """Find the grader of a sampled run.

    Args:
        task: What the run recorded: its `name` and `grader`.
        name: Another grader to use instead; only for runs of a prompts file.

    Raises:
        OdevalError: No such grader, or the run's task grades with its own program.
    """
    if task["name"] in TASKS:
        if name not in (None, task["grader"]):
            raise OdevalError(f"task '{task['name']}' grades with its own program; leave out grader '{name}'")
        return task["grader"], TASKS[task["name"]](1).grade
    return name or task["grader"], grader_named(name or task["grader"])
