"""TRL's `completions/completions_STEP.parquet`, written by GRPO and RLOO with rewards and by distillation without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError, unknown
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, assemble, prompt_of
from odeval.importers.tables import Row, head_keys, read_rows

_OWN = {"step", "prompt", "completion", "advantage"}


def detect(path: Path) -> bool:
    return path.suffix == ".parquet" and {"step", "prompt", "completion"} <= head_keys(path)


def read(path: Path, options: ImportOptions) -> Imported:
    """Read one step's completions; equal prompts are one prompt, and TRL names no others.

    Args:
        path: The file of one step.
        options: `metric` is the reward column, needed where there are several.

    Raises:
        OdevalError: There are no rewards, or several, or they are neither 0 nor 1 and no threshold is given.
    """
    rows = list(read_rows(path))
    chosen = options.metric
    rewards = sorted({key for _, row in rows for key, value in row.items() if key not in _OWN and _number(value)})
    if rows and options.grader is None:
        if not rewards:
            raise OdevalError(
                f"{path}: holds no rewards (distillation logs none), so nothing says which completions are right, and "
                "no answers to grade with; sample the checkpoint with `odeval sample`, or log a reward"
            )
        if chosen and chosen not in rewards:
            raise OdevalError(f"{path}: {unknown('metric', chosen, rewards)}")
        if not chosen and len(rewards) > 1:
            raise OdevalError(f"{path}: several rewards are recorded; choose one with --metric: {' or '.join(rewards)}")
        chosen = chosen or rewards[0]
    steps = sorted({str(row.get("step")) for _, row in rows})
    if len(steps) > 1:
        raise OdevalError(f"{path}: mixes steps {', '.join(steps)}; one step is one model, give one file a step")
    return assemble(
        "trl", _completions(rows, chosen), options, task=f"step {steps[0]}" if steps else "",
        recorded=f"recorded by trl ({chosen})",
    )  # fmt: skip


def _completions(rows: list[tuple[str, Row]], metric: str) -> Iterator[Found]:
    for where, row in rows:
        if row.get("prompt") is None:
            raise OdevalError(f"{where}: field 'prompt' is missing")
        prompt = prompt_of(row["prompt"], where)
        yield Found(where, prompt, _text(row.get("completion"), where), score=row.get(metric) if metric else None)


def _text(value: Any, where: str) -> str | None:
    """A completion is a text, or chat turns where the prompt is."""
    turn = prompt_of(value, where)
    return None if value is None else turn.text if turn.messages is None else turn.messages[-1]["content"]


def _number(value: Any) -> bool:
    return isinstance(value, int | float)
