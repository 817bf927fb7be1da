"""Which settings go together: whatever could not mean what it says is refused, in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pydantic

from odeval.errors import OdevalError, unknown
from odkd.objectives import OBJECTIVES, kind_of, objective

if TYPE_CHECKING:
    from odkd.settings import TrainConfig

DIALS = tuple(sorted({dial for entry in OBJECTIVES.values() for dial in entry.dials}))
_PHASED = (
    "objective", "off_policy_objective", *DIALS, "lmbda", "seq_kd", "corpus", "teacher_mixed_alpha", "temperature",
    "top_p", "top_k", "loss_temperature",
)  # fmt: skip
_PG_NEEDS = "learns from tokens that the student sampled; set lmbda: 1, or off_policy_objective for the other steps"


def check(config: TrainConfig) -> None:
    """Refuse settings that contradict each other.

    Raises:
        OdevalError: For the first that do.
    """
    if config.max_steps < 1 and config.num_train_epochs is None:
        given = "max_steps is missing" if config.max_steps == -1 else f"max_steps {config.max_steps}: must be >= 1"
        raise OdevalError(f"{given}: updates; or give num_train_epochs")
    rows = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if rows % config.num_generations:
        raise OdevalError(f"num_generations {config.num_generations}: must divide the {rows} completions of an update")
    if not config.phases:
        _check_objectives(config)
        _check_data(config)
    _check_vllm(config)
    _check_probe(config)


def _check_objectives(config: TrainConfig) -> None:
    used = config.used_dials()
    for name in DIALS:
        if name in config.model_fields_set and name not in used:
            has = f"its dials are {', '.join(used)}" if used else "it has no dial"
            raise OdevalError(f"{name}: objective {config.objective} does not use it ({has}); leave it out")
    if config.lmbda < 1 and not config.off_policy_objective and objective(config.objective).on_policy:
        raise OdevalError(f"lmbda {config.lmbda}: objective {config.objective} {_PG_NEEDS}")
    if config.off_policy_objective and objective(config.off_policy_objective).on_policy:
        raise OdevalError(f"off_policy_objective {config.off_policy_objective}: {_PG_NEEDS}")
    names = {config.objective, config.off_policy_objective or config.objective}
    if config.fused is True and not any(kind_of(name, config.dials(name)) for name in names):
        can = ", ".join(name for name in OBJECTIVES if kind_of(name, {}))
        raise OdevalError(f"fused: {config.objective} as it is set here needs logits; set fused: auto, or take {can}")


def _check_data(config: TrainConfig) -> None:
    if config.lmbda < 1 and not config.seq_kd and config.corpus is None:
        raise OdevalError(
            f"lmbda {config.lmbda}: the other steps need completions to learn from; set seq_kd: true (the teacher "
            "writes them) or corpus: FILE"
        )
    if config.seq_kd and config.corpus is not None:
        raise OdevalError("seq_kd and corpus: both say where off-policy completions come from; give one of them")
    for name in ("seq_kd", "corpus", "off_policy_objective"):
        if config.lmbda == 1 and getattr(config, name):
            raise OdevalError(f"{name}: with lmbda 1 every step learns from the student; lower lmbda, or leave it out")
    if config.teacher_mixed_alpha and (config.temperature, config.top_p, config.top_k) != (1.0, 1.0, 0):
        raise OdevalError(
            "teacher_mixed_alpha: its importance weights are known for temperature 1, top_p 1 and top_k 0 only"
        )


def _check_vllm(config: TrainConfig) -> None:
    if config.use_vllm and config.teacher_mixed_alpha:
        raise OdevalError("use_vllm: vLLM cannot sample from a mixture; set teacher_mixed_alpha: 0, or use_vllm: false")
    if config.vllm_gpu_memory_utilization is not None and not config.use_vllm:
        raise OdevalError("vllm_gpu_memory_utilization: without use_vllm nothing reads it; leave it out")


def _check_probe(config: TrainConfig) -> None:
    for name in ("probe_task", "probe_grader", "rules", "max_coverage_gap", "early_stopping_patience"):
        if getattr(config, name) is not None and config.eval_steps is None:
            raise OdevalError(f"{name}: there are no probes without eval_steps; set it, or leave {name} out")
    if config.load_best_model_at_end and config.eval_steps is None:
        raise OdevalError("load_best_model_at_end: without eval_steps no model is known to be best; set eval_steps")


def make_phases(config: TrainConfig) -> tuple[tuple[int, TrainConfig], ...]:
    """Return each phase as (its first step, the configuration that then holds).

    Raises:
        OdevalError: A phase has a setting that cannot change, or settings that contradict each other.
    """
    given = {name: getattr(config, name) for name in config.model_fields_set if name != "phases"}
    found, used, start = [], set[str](), 0
    for number, phase in enumerate(config.phases):
        for name in phase:
            if name not in (*_PHASED, "steps"):
                raise OdevalError(f"phases[{number}]: {unknown('setting', str(name), (*_PHASED, 'steps'))}")
        own = {key: value for key, value in phase.items() if key != "steps"}
        names = [{**given, **own}.get(key) for key in ("objective", "off_policy_objective")]
        read = {dial for name in names if name for dial in objective(name).dials}
        used |= read
        kept = {key: value for key, value in given.items() if key not in DIALS or key in read}
        try:
            found.append((start, type(config)(**{**kept, **own})))
        except pydantic.ValidationError as error:
            raise OdevalError(f"phases[{number}]: {worded(error, type(config))}") from None
        start += _steps_of(config, phase, number)
    if idle := sorted(set(DIALS) & config.model_fields_set - used) if config.phases else []:
        raise OdevalError(f"{idle[0]}: no phase's objective uses it; leave it out")
    return tuple(found)


def _steps_of(config: TrainConfig, phase: dict[str, Any], number: int) -> int:
    steps = phase.get("steps")
    if number == len(config.phases) - 1:
        if steps is not None:
            raise OdevalError("phases: the last one lasts to the end of the run; leave out its steps")
        return 0
    if isinstance(steps, bool) or not isinstance(steps, int | float) or steps <= 0 or (steps > 1 and steps % 1):
        raise OdevalError(f"phases[{number}]: steps {steps!r}: expected a number of steps, or a share below 1")
    if steps < 1 and config.max_steps < 1:
        raise OdevalError(f"phases[{number}]: steps {steps} is a share of max_steps; give max_steps")
    return round(steps * config.max_steps) if steps < 1 else int(steps)


def worded(error: pydantic.ValidationError, model: type[TrainConfig]) -> str:
    """The first of pydantic's complaints in one line."""
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{name} is missing: {model.model_fields[name].description}"
    if isinstance(first.get("ctx", {}).get("error"), OdevalError):
        return str(first["ctx"]["error"])
    return f"{name} {first['input']!r}: {first['msg']}"
