"""Two models and a task → verdict and report. An audit only chains the stages; each can be run alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from odeval.atomic import write_json, write_text
from odeval.compare import CompareSettings, compare
from odeval.config import GateConfig, load_yaml
from odeval.errors import OdevalError
from odeval.gate import as_json, judge
from odeval.grading import grade
from odeval.report import write_report
from odeval.sampling import Advance, sample
from odeval.store import RunFolder
from odeval.tasks import load_task
from odeval.tasks.base import Task
from odeval.types import Judgement, SamplingParams

Stage = Callable[[str], AbstractContextManager[Advance]]  # opens a progress bar with this name


class AuditConfig(BaseModel):
    """What `odeval audit` needs. Every field is a flag, a key of --config, and ODEVAL_<FIELD> in the environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    students: tuple[Path, ...] = Field(min_length=1)
    teacher: Path
    task: str
    out: Path
    baseline: Path | None = None
    grader: str | None = None
    n: int = 64
    limit: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    seed: int = 0
    ks: tuple[int, ...] | Literal["all"] = ()
    threshold: float = Field(default=0.8, gt=0)
    rules: Path | None = None
    device: str = "auto"


def audit(config: AuditConfig, stage: Stage) -> tuple[dict[str, Any], list[Judgement], Path]:
    """Sample, grade, score, compare, gate, report. What is there already is not done again.

    Args:
        config: Models, task, sampling.
        stage: Opens a progress bar.

    Returns:
        The comparison, the judgements, and the path of report.html.

    Raises:
        OdevalError: Anything the user can mend; checked before the first completion is sampled where possible.
    """
    rules = None if config.rules is None else load_yaml(config.rules, GateConfig)
    task = load_task(config.task, config.grader, config.limit, config.max_tokens)
    params = SamplingParams(
        n=config.n, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k,
        max_tokens=task.max_tokens, seed=config.seed,
    )  # fmt: skip
    for k in config.ks if config.ks != "all" else ():
        if k > config.n:
            raise OdevalError(
                f"k {k} exceeds n {config.n}: pass@{k} needs at least {k} samples; raise -n or lower --ks"
            )
    write_text(
        config.out / "audit.yaml",
        yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False),
    )
    runs = _folders(config)
    _sample_all(runs, task, params, config.device, stage)
    for path, run in runs.items():
        if path != config.teacher:
            score_pair(config.teacher, path, runs[config.teacher], run, config.device, stage)
    comparison = compare(
        [runs[path] for path in config.students],
        teacher=runs[config.teacher],
        baseline=None if config.baseline is None else runs[config.baseline],
        settings=CompareSettings(ks=config.ks, threshold=config.threshold),
    )
    judgements = judge(comparison, rules, str(config.rules or "default rules"))
    verdict = as_json(judgements, rules)
    write_json(config.out / "comparison.json", comparison)
    write_json(config.out / "verdict.json", verdict)
    return comparison, judgements, write_report(comparison, verdict, config.out)


def _folders(config: AuditConfig) -> dict[Path, RunFolder]:
    """One run folder a model, named after the model's folder."""
    models = [config.teacher, *([config.baseline] if config.baseline else []), *config.students]
    if len(set(models)) < len(models):
        twice = next(path for path in models if models.count(path) > 1)
        raise OdevalError(f"{twice}: is named twice; teacher, baseline and students must be different models")
    names = [path.resolve().name for path in models]
    unique = [
        name if names.count(name) == 1 else f"{path.resolve().parent.name}-{name}"
        for name, path in zip(names, models, strict=True)
    ]
    if len(set(unique)) < len(unique):
        raise OdevalError(f"the model folders {', '.join(map(str, models))} have equal names; rename one")
    return {path: RunFolder(config.out / name) for path, name in zip(models, unique, strict=True)}


def _sample_all(
    runs: dict[Path, RunFolder], task: Task, params: SamplingParams, device: str, stage: Stage
) -> None:
    from odeval.engines.hf import HfEngine
    from odeval.engines.hf_model import HfModel, check_same_vocabulary, load_vocabulary

    teacher, *others = runs
    vocabulary = load_vocabulary(teacher)
    for path in others:  # before the first completion is paid for
        check_same_vocabulary(vocabulary, load_vocabulary(path), f"{teacher} / {path}")
    for path, run in runs.items():
        model = HfModel(path, device)
        with stage(f"sample {run.label}") as advance:
            sample(HfEngine(model), model.ref(), task, params, run, advance)
        with stage(f"grade {run.label}") as advance:
            grade(run, task.grade, task.grader, advance)


def score_pair(
    teacher: Path, student: Path, teacher_run: RunFolder, student_run: RunFolder, device: str, stage: Stage
) -> None:
    """Load two models and score them on both runs."""
    from odeval.engines.hf_model import HfModel
    from odeval.scoring import score

    with stage(f"score {student_run.label}") as advance:
        score(HfModel(teacher, device), HfModel(student, device), teacher_run, student_run, advance)
