"""Two models and a task → verdict and report. An audit only chains the stages; each can be run alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from odeval.atomic import write_json, write_text
from odeval.bounds import Levels
from odeval.compare import CompareSettings, compare
from odeval.config import GateConfig, load_yaml
from odeval.engines import engine_crew
from odeval.engines.base import EngineOptions
from odeval.errors import OdevalError
from odeval.executors import Executor
from odeval.gate import as_json, judge
from odeval.grading import grade
from odeval.looks import spending
from odeval.pilot import PROMPTS, is_due, lines_of, pilot, warning
from odeval.report import write_report
from odeval.rules import default_rules, parse_rule
from odeval.sampling import sample
from odeval.scoring_pairs import Stage, bound_pair, score_pair
from odeval.store import RunFolder
from odeval.tasks import load_task
from odeval.tasks.base import Task
from odeval.testbed import is_embedded
from odeval.types import Judgement, SamplingParams

_TOP_LOGPROBS = 20  # what a vLLM server allows unless told otherwise
Tell = Callable[[str, bool], None]  # given a line, and whether it warns


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
    looks: tuple[int, ...] = ()
    confirm: bool = False
    pilot: int | None = Field(default=None, ge=0)
    device: str = "auto"
    engine: str = "hf"
    base_url: tuple[str, ...] = ()
    endpoint: Literal["completions", "chat"] = "completions"
    concurrency: int = 32
    key_variable: str = ""
    executor: Literal["local", "ray"] = "local"
    workers: int | None = Field(default=None, ge=1)
    ray_address: str = ""


def audit(
    config: AuditConfig, stage: Stage, tell: Tell = lambda line, warns: None
) -> tuple[dict[str, Any], list[Judgement], Path]:
    """Sample, grade, score, compare, gate, report. What is there already is not done again.

    Args:
        config: Models, task, sampling.
        stage: Opens a progress bar.
        tell: Given what the pilot found, line by line.

    Returns:
        The comparison, the judgements, and the path of report.html.

    Raises:
        OdevalError: Anything the user can mend; checked before the first completion is sampled where possible.
    """
    rules, task, params, looks = _prepare(config)
    runs = _folders(config)
    levels = None
    _pilot(config, runs, task, replace(params, n=looks[0][0]), tell)
    for n, level in looks:
        _sample_all(config, runs, task, replace(params, n=n), stage)
        levels = level
        if n == config.n or _decided(config, runs, judge(_compare(config, runs), rules, levels=level)):
            break
    write_text(
        config.out / "audit.yaml",
        yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False),
    )
    _score_all(config, runs, stage)
    comparison = _compare(config, runs)
    judgements = judge(comparison, rules, levels=levels)
    if config.confirm and "FAIL" in [judgement.verdict for judgement in judgements]:
        judgements = _confirmed(config, judgements, task, params, rules, stage)
    verdict = as_json(judgements, rules)
    write_json(config.out / "comparison.json", comparison)
    write_json(config.out / "verdict.json", verdict)
    return comparison, judgements, write_report(comparison, verdict, config.out)


Look = tuple[int, Levels | None]


def _prepare(config: AuditConfig) -> tuple[GateConfig | None, Task, SamplingParams, list[Look]]:
    """Check everything that can be checked before a model is loaded."""
    rules = None if config.rules is None else load_yaml(config.rules, GateConfig)
    for rule in rules.rules if rules else ():
        parse_rule(rule, str(config.rules))
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
    if not config.looks:
        return rules, task, params, [(config.n, None)]
    if config.looks[-1] != config.n:
        raise OdevalError(f"looks end at {config.looks[-1]}, but n is {config.n}; the last look is the whole run")
    alpha = (rules or default_rules({"runs": []})).alpha
    return rules, task, params, list(zip(config.looks, spending(alpha, config.looks), strict=True))


def _compare(config: AuditConfig, runs: dict[Path, RunFolder]) -> dict[str, Any]:
    deepest = min(run.meta()["sampling"]["n"] for run in runs.values())
    ks = config.ks if config.ks == "all" else tuple(k for k in config.ks if k <= deepest)
    return compare(
        [runs[path] for path in config.students],
        teacher=runs[config.teacher],
        baseline=None if config.baseline is None else runs[config.baseline],
        settings=CompareSettings(ks=ks, threshold=config.threshold),
    )


def _decided(config: AuditConfig, runs: dict[Path, RunFolder], judgements: Sequence[Judgement]) -> bool:
    """A FAIL may stop early; a PASS only where every k that the whole run would judge is judged already."""
    n = min(run.meta()["sampling"]["n"] for run in runs.values())
    wanted = config.ks if config.ks and config.ks != "all" else (config.n // 2,)
    whole = all(k <= n // 2 for k in wanted if k <= config.n // 2)
    return all(item.verdict == "FAIL" or (item.verdict == "PASS" and whole) for item in judgements)


def _confirmed(
    config: AuditConfig, first: Sequence[Judgement], task: Task, params: SamplingParams, rules: GateConfig | None,
    stage: Stage,
) -> list[Judgement]:  # fmt: skip
    """Repeat with fresh samples what failed: a FAIL that does not come again was chance."""
    again = config.model_copy(update={"out": config.out / "confirm"})
    runs = _folders(again)
    _sample_all(config, runs, task, replace(params, seed=params.seed + 1), stage)
    _score_all(again, runs, stage)
    second = {item.candidate: item for item in judge(_compare(again, runs), rules)}
    return [_after(item, second[item.candidate]) if item.verdict == "FAIL" else item for item in first]


def _after(first: Judgement, second: Judgement) -> Judgement:
    """A failed rule that did not fail again is inconclusive."""
    checks = tuple(
        replace(check, verdict="INCONCLUSIVE", detail=f"failed once, with fresh samples not again: {check.detail}")
        if check.verdict == "FAIL" and check.severity == "fail" and repeated.verdict != "FAIL"
        else check
        for check, repeated in zip(first.checks, second.checks, strict=True)
    )
    if any(check.verdict == "FAIL" and check.severity == "fail" for check in checks):
        return replace(first, checks=checks, headline=f"{first.headline}; confirmed with fresh samples")
    headline = f"failed once, but not again with fresh samples: {first.headline}"
    return replace(first, checks=checks, verdict="INCONCLUSIVE", diagnosis="", headline=headline)


def _folders(config: AuditConfig) -> dict[Path, RunFolder]:
    """One run folder a model, named after the model's folder."""
    models = [config.teacher, *([config.baseline] if config.baseline else []), *config.students]
    if len(set(models)) < len(models):
        twice = next(path for path in models if models.count(path) > 1)
        raise OdevalError(f"{twice}: is named twice; teacher, baseline and students must be different models")
    names = [path.name or path.resolve().name for path in models]
    unique = [
        name if names.count(name) == 1 else f"{path.resolve().parent.name}-{name}"
        for name, path in zip(names, models, strict=True)
    ]
    if len(set(unique)) < len(unique):
        raise OdevalError(f"the model folders {', '.join(map(str, models))} have equal names; rename one")
    return {path: RunFolder(config.out / name) for path, name in zip(models, unique, strict=True)}


def _pilot(config: AuditConfig, runs: dict[Path, RunFolder], task: Task, params: SamplingParams, tell: Tell) -> None:
    """A few completions of every model that is not known to answer this task, before any budget is spent."""
    known = all(is_embedded(path) for path in runs)
    prompts = config.pilot if config.pilot is not None else 0 if known else PROMPTS
    if prompts and config.engine != "server":
        _check_vocabularies(list(runs))
    for path, run in runs.items() if prompts else ():
        if not is_due(run):
            continue
        with engine_crew(config.engine, _options(config, path), _executor(config)) as crew:
            asked = pilot(crew, task, params, run, prompts)
        for line in lines_of(run.label, asked):
            tell(line, False)
        if doubt := warning(run.label, asked, params.max_tokens):
            tell(doubt, True)


def _sample_all(
    config: AuditConfig, runs: dict[Path, RunFolder], task: Task, params: SamplingParams, stage: Stage
) -> None:
    if config.engine != "server":
        _check_vocabularies(list(runs))
    on = _executor(config)
    for path, run in runs.items():
        with engine_crew(config.engine, _options(config, path), on) as crew, stage(f"sample {run.label}") as advance:
            sample(crew, crew.ask(methodcaller("ref")), task, params, run, advance)
        with on.crew(lambda: task.grade) as graders, stage(f"grade {run.label}") as advance:
            grade(run, graders, task.grader, advance)


def _executor(config: AuditConfig) -> Executor:
    return Executor(config.executor, config.workers, config.ray_address)


def _options(config: AuditConfig, model: Path) -> EngineOptions:
    return EngineOptions(
        str(model), config.device, config.base_url, config.endpoint, config.concurrency,
        key_variable=config.key_variable,
    )  # fmt: skip


def _check_vocabularies(models: Sequence[Path]) -> None:
    """Before the first completion is paid for."""
    from odeval.engines.hf_model import check_same_vocabulary, load_vocabulary

    teacher, *others = models
    vocabulary = load_vocabulary(teacher)
    for path in others:
        check_same_vocabulary(vocabulary, load_vocabulary(path), f"{teacher} / {path}")


def _score_all(config: AuditConfig, runs: dict[Path, RunFolder], stage: Stage) -> None:
    """Whole distributions need the weights; a server tells the likeliest tokens, or nothing."""
    for path, run in runs.items():
        if path == config.teacher:
            continue
        if config.engine != "server":
            models = config.teacher, path
            score_pair(models, runs[config.teacher], run, config.device, stage, _executor(config))
            continue
        options = [_options(config, model) for model in (config.teacher, path)]
        on = _executor(config)
        bound_pair(config.engine, options, runs[config.teacher], run, _TOP_LOGPROBS, stage, on, needed=False)
