"""What a person sees of a run in the terminal: one line that moves, or a line of text every so often."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from odkd.settings import TrainConfig

_EVERY = 30.0  # seconds between lines where no bar can be drawn
_SHOWN = {
    "loss": "loss",
    "forward_kl": "fwd KL",
    "reverse_kl": "rev KL",
    "student_entropy": "H student",
    "retention": "retention",
}


@contextmanager
def live_view(config: TrainConfig) -> Iterator[Any]:
    """Open the view; yields what `train` calls after each update."""
    console = Console(stderr=True)
    if console.is_terminal and not os.environ.get("CI"):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(config.objective, total=None)
            yield lambda row, steps: bar.update(task, completed=row["step"] + 1, total=steps, description=told(row))
        return
    last = time.monotonic()

    def line(row: dict[str, Any], steps: int) -> None:
        nonlocal last
        if time.monotonic() - last > _EVERY or row["step"] + 1 == steps:
            sys.stderr.write(f"step {row['step'] + 1}/{steps}  {told(row)}\n")
            sys.stderr.flush()
            last = time.monotonic()

    yield line


def told(row: dict[str, Any]) -> str:
    """The numbers of an update that fit into a line.

    Example:
        >>> told({"source": "student", "loss": 0.5, "forward_kl": 1.0, "reverse_kl": 0.5, "student_entropy": 1.25,
        ...       "retention": None})
        'student  loss 0.500  fwd KL 1.000  rev KL 0.500  H student 1.250'
    """
    numbers = [f"{label} {row[name]:.3f}" for name, label in _SHOWN.items() if row[name] is not None]
    return "  ".join([row["source"], *numbers])
