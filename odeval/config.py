"""pydantic models of every YAML file, and the one way to read them: an unknown key is an error with a suggestion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from odeval.errors import OdevalError, unknown

Model = TypeVar("Model", bound=BaseModel)


class RuleConfig(BaseModel):
    """One rule of a gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    severity: Literal["fail", "warn"] = "fail"
    against: Literal["baseline", "teacher", "auto"] = "auto"
    why: str = ""


class GateConfig(BaseModel):
    """A rules file.

    Attributes:
        alpha: One-sided error rate of each rule; a rule over a whole curve spends it on the curve as one.
        scope: What a rule on the pass@k curve must hold for: these prompts sampled again ("benchmark"), or other
            prompts of their kind ("population").
        rules: What must hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    scope: Literal["benchmark", "population"] = "population"
    rules: tuple[RuleConfig, ...] = Field(min_length=1)


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file into a model.

    Args:
        path: The file.
        model: What it must look like.

    Raises:
        OdevalError: It is missing, no YAML, or has a wrong key or value; the text names file, key and what is allowed.
    """
    return parse(read_yaml(path, model), model, str(path))


def read_yaml(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    """Read a YAML mapping whose values are not checked yet, but whose keys are those of the model."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OdevalError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise OdevalError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise OdevalError(f"{path}{where}: is no YAML ({getattr(error, 'problem', None) or 'syntax error'})") from error
    if not isinstance(content, dict):
        raise OdevalError(f"{path}: expected a mapping with the keys {', '.join(sorted(model.model_fields))}")
    for key in content:
        if key not in model.model_fields:
            raise OdevalError(f"{path}: {unknown('key', str(key), model.model_fields)}")
    return content


def parse(content: dict[str, Any], model: type[Model], where: str) -> Model:
    """Validate a mapping; see `load_yaml`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise OdevalError(_worded(error, model, where)) from error


def _worded(error: ValidationError, model: type[BaseModel], where: str) -> str:
    # a misspelt key is both unknown and missing: name what stands there
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        owner = _model_at(model, first["loc"][:-1])
        return f"{where}: {unknown('key', str(first['loc'][-1]), owner.model_fields)}"
    if first["type"] == "missing":
        return f"{where}: key '{key}' is missing"
    return f"{where}: {key} is {first['input']!r}: {first['msg'].removeprefix('Value error, ')}"


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Follow a location such as ("rules", 0) to the model that describes it."""
    for part in location:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            found = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
            model = next((a for a in found if issubclass(a, BaseModel)), model)
    return model


def resolve(
    model: type[Model], flags: dict[str, Any], path: Path | None, environment: Mapping[str, str]
) -> tuple[Model, dict[str, str]]:
    """Combine defaults < YAML file < ODEVAL_* environment < flags.

    Args:
        model: What is configured.
        flags: Values given on the command line; None and empty tuples were not given.
        path: Of the YAML file, or None.
        environment: Usually os.environ.

    Returns:
        The configuration, and for each field where its value came from.

    Raises:
        OdevalError: A key or value is wrong; the text says from where.
    """
    content: dict[str, Any] = {}
    sources = dict.fromkeys(model.model_fields, "default")
    if path is not None:
        content.update(read_yaml(path, model))
        sources.update(dict.fromkeys(content, str(path)))
    for name in model.model_fields:
        if (text := environment.get(f"ODEVAL_{name.upper()}")) is not None:
            content[name] = yaml.safe_load(text)
            sources[name] = f"ODEVAL_{name.upper()}"
    for name, value in flags.items():
        if value is not None and value != () and value != []:
            content[name] = value
            sources[name] = f"--{name.replace('_', '-')}"
    try:
        return model.model_validate(content), {key: sources.get(key, "") for key in model.model_fields}
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        where = sources.get(key, "default")
        raise OdevalError(_worded(error, model, "command line" if where in ("default", "") else where)) from error
