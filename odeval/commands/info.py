"""Verbs that only tell: tasks, env."""

from __future__ import annotations

import sys


def tasks() -> int:
    """List the built-in tasks and the graders for your own prompts file."""
    from odeval.tasks import TASKS
    from odeval.tasks.graders import GRADERS

    about = {name: sys.modules[function.__module__].__doc__ for name, function in TASKS.items()}
    for kind, texts in (("task", about), ("grader", {name: f.__doc__ for name, f in GRADERS.items()})):
        for name, text in sorted(texts.items()):
            print(f"{kind:7} {name:14} {(text or '').strip().splitlines()[0]}")
    return 0


def env() -> int:
    """Print versions, for bug reports."""
    from odeval.store import git_state, versions

    for name, version in {**versions(), "odeval commit": git_state() or "installed"}.items():
        print(f"{name}: {version}")
    return 0
