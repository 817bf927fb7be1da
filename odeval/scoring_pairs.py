"""Teacher and student opened and scored on both runs, by whichever engine tells most of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from odeval.engines import check_executor, open_engine
from odeval.engines.base import EngineOptions
from odeval.errors import CannotJudge
from odeval.executors import Executor
from odeval.sampling import Advance
from odeval.store import RunFolder

if TYPE_CHECKING:
    from odeval.engines.hf_model import HfModel
    from odeval.scoring_bounds import TopK

Stage = Callable[[str], AbstractContextManager[Advance]]  # opens a progress bar with this name


def bound_pair(
    engine: str, models: Sequence[EngineOptions], teacher_run: RunFolder, student_run: RunFolder,
    top_logprobs: int, stage: Stage, on: Executor, needed: bool = True,
) -> None:  # fmt: skip
    """Bound entropies of teacher and student by their likeliest tokens; what tells none is passed over, unless needed.

    Raises:
        CannotJudge: It is needed, and the engine gives no log-probabilities of given tokens.
        OdevalError: A server's requests are to be sent from many machines.
    """
    from odeval.scoring_bounds import score_bounds

    check_executor(engine, on)
    opened = partial(_open, engine, models, top_logprobs)
    try:
        with on.crew(opened, models[0].device) as crew, stage(f"bound {student_run.label}") as advance:
            score_bounds(crew, teacher_run, student_run, top_logprobs, advance)
    except _TellsNone:
        if needed:
            raise


def score_pair(
    models: tuple[Path, Path], teacher_run: RunFolder, student_run: RunFolder, device: str, stage: Stage, on: Executor
) -> None:
    """Load teacher and student and score them on both runs."""
    from odeval.scoring import score_by

    with stage(f"score {student_run.label}") as advance, on.crew(partial(_load, *models, device), device) as crew:
        score_by(crew, teacher_run, student_run, advance)


class _TellsNone(CannotJudge):
    """An engine without log-probabilities of given tokens."""


def _open(engine: str, models: Sequence[EngineOptions], top_logprobs: int) -> tuple[TopK, TopK]:
    from odeval.scoring_bounds import TopK

    opened: list[TopK] = []
    for options in models:
        one = open_engine(engine, options)
        if not isinstance(one, TopK) or not one.gives_top_logprobs(top_logprobs):
            raise _TellsNone(
                f"{one.ref().path}: gives no top {top_logprobs} log-probabilities of a prompt; a vLLM server does, "
                f"with --max-logprobs {top_logprobs} or more"
            )
        opened.append(one)
    return opened[0], opened[1]


def _load(teacher: Path, student: Path, device: str) -> tuple[HfModel, HfModel]:
    from odeval.engines.hf_model import HfModel

    return HfModel(teacher, device), HfModel(student, device)
