"""Teacher and student opened and scored on both runs, by whichever engine tells most of their tokens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from odeval.engines import open_engine
from odeval.engines.base import EngineOptions
from odeval.errors import CannotJudge
from odeval.executors import Executor
from odeval.sampling import Advance
from odeval.store import RunFolder

if TYPE_CHECKING:
    from odeval.engines.hf_model import HfModel

Stage = Callable[[str], AbstractContextManager[Advance]]  # opens a progress bar with this name


def bound_pair(
    engine: str, teacher: EngineOptions, student: EngineOptions, teacher_run: RunFolder, student_run: RunFolder,
    top_logprobs: int, stage: Stage, needed: bool = True,
) -> None:  # fmt: skip
    """Bound both models' entropies by their likeliest tokens; what tells none is passed over, unless it is needed.

    Raises:
        CannotJudge: It is needed, and the engine gives no log-probabilities of given tokens.
    """
    from odeval.scoring_bounds import TopK, score_bounds

    opened: list[TopK] = []
    for options in (teacher, student):
        one = open_engine(engine, options)
        if not isinstance(one, TopK) or not one.gives_top_logprobs(top_logprobs):
            if needed:
                raise CannotJudge(
                    f"{one.ref().path}: gives no top {top_logprobs} log-probabilities of a prompt; a vLLM server does, "
                    f"with --max-logprobs {top_logprobs} or more"
                )
            return
        opened.append(one)
    with stage(f"bound {student_run.label}") as advance:
        score_bounds(opened[0], opened[1], teacher_run, student_run, top_logprobs, advance)


def score_pair(
    models: tuple[Path, Path], teacher_run: RunFolder, student_run: RunFolder, device: str, stage: Stage, on: Executor
) -> None:
    """Load teacher and student and score them on both runs."""
    from odeval.scoring import score_by

    with stage(f"score {student_run.label}") as advance, on.crew(partial(_load, *models, device), device) as crew:
        score_by(crew, teacher_run, student_run, advance)


def _load(teacher: Path, student: Path, device: str) -> tuple[HfModel, HfModel]:
    from odeval.engines.hf_model import HfModel

    return HfModel(teacher, device), HfModel(student, device)
