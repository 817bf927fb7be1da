"""Every setting of a training run, with TRL's names where TRL has one. Unknown settings are errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from odeval.errors import OdevalError, unknown
from odkd.objectives import OBJECTIVES, objective


class TrainConfig(BaseModel):
    """One run. Names in other tools: `odkd objectives`; formulas: `odkd/objectives.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_name_or_path: str = Field(description="Folder of the student, in Hugging Face format.")
    teacher_model_name_or_path: str = Field(description="Folder of the teacher; same vocabulary.")
    dataset_name: str = Field(description="A built-in world (its train split), or a prompts.jsonl file.")
    output_dir: str = Field(description="New folder for the trained student, its log and this configuration.")

    objective: str = Field("reverse_kl", description="What is minimised at each token; see OBJECTIVES.")
    forward_weight: float = Field(
        0.5, ge=0, le=1, description="blend only: weight of forward KL; 0 is reverse KL, 1 is forward KL."
    )
    beta: float = Field(
        0.5,
        ge=0,
        le=1,
        description="jsd only: 0 is forward KL, 1 is reverse KL (the direction of TRL and GKD).",
    )

    lmbda: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Chance that a step learns from the student's own completions, else the teacher's.",
    )
    teacher_samples_per_prompt: int = Field(
        1,
        ge=1,
        description="Size of the fixed corpus of teacher completions that off-policy steps learn from.",
    )
    temperature: float = Field(1.0, gt=0, description="Of the rollouts; the loss compares untempered models.")
    max_completion_length: int = Field(256, ge=1, description="Tokens; a longer rollout is cut, without an end.")

    learning_rate: float = Field(1e-6, gt=0, description="Peak, of AdamW.")
    lr_scheduler_type: Literal["constant", "linear"] = Field(
        "linear", description="After the warm-up; linear ends at 0."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear rise to learning_rate.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled.")
    max_grad_norm: float = Field(1.0, gt=0, description="The gradient is scaled down to this norm.")
    max_steps: int = Field(ge=1, description="Updates.")
    per_device_train_batch_size: int = Field(8, ge=1, description="Completions per update, one per prompt.")
    seed: int = Field(42, ge=0, description="Of prompts, coin and rollouts; the same seed gives the same weights.")
    device: str = Field("auto", description="cpu, cuda, or auto for a GPU where there is one.")

    @pydantic.model_validator(mode="after")
    def _dials_are_used(self) -> TrainConfig:
        used = objective(self.objective).dials
        for name in sorted({dial for entry in OBJECTIVES.values() for dial in entry.dials}.difference(used)):
            if name in self.model_fields_set:
                has = f"its dials are {', '.join(used)}" if used else "it has no dial"
                raise OdevalError(f"{name}: objective {self.objective} does not use it ({has}); leave it out")
        return self

    def dials(self) -> dict[str, float]:
        """The settings that the chosen objective reads."""
        return {name: getattr(self, name) for name in objective(self.objective).dials}


def make_config(settings: Mapping[str, Any], where: str = "settings") -> TrainConfig:
    """Check settings.

    Args:
        settings: Name -> value.
        where: What an error names as their origin.

    Raises:
        OdevalError: A setting is unknown, missing or out of range; one line for the first of them.

    Example:
        >>> make_config({"learningrate": 1}, "run.yaml")
        Traceback (most recent call last):
        odeval.errors.OdevalError: run.yaml: unknown setting 'learningrate': expected one of ...
    """
    unknown_names = [name for name in settings if name not in TrainConfig.model_fields]
    if unknown_names:
        raise OdevalError(f"{where}: {unknown('setting', str(unknown_names[0]), TrainConfig.model_fields)}")
    try:
        return TrainConfig(**settings)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise OdevalError(f"{where}: {name} is missing: {TrainConfig.model_fields[name].description}") from None
        if isinstance(first.get("ctx", {}).get("error"), OdevalError):
            raise OdevalError(f"{where}: {first['ctx']['error']}") from None
        raise OdevalError(f"{where}: {name} {first['input']!r}: {first['msg']}") from None


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings, unchecked.

    Raises:
        OdevalError: It cannot be read, or is no mapping.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OdevalError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OdevalError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise OdevalError(f"{path}: is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        raise OdevalError(f"{path}: expected lines like `objective: reverse_kl`, found {type(found).__name__}")
    return found
