"""Verbs that only tell: tasks, env."""

from __future__ import annotations


def tasks() -> int:
    """List the built-in tasks and the graders for your own prompts file."""
    from odeval.tasks import TASKS
    from odeval.tasks.graders import GRADERS

    for name, function in {**TASKS, **GRADERS}.items():
        kind = "task" if name in TASKS else "grader"
        print(f"{kind:7} {name:12} {(function.__doc__ or '').strip().splitlines()[0]}")
    return 0


def env() -> int:
    """Print versions, for bug reports."""
    from odeval.store import git_state, versions

    for name, version in {**versions(), "odeval commit": git_state() or "installed"}.items():
        print(f"{name}: {version}")
    return 0
