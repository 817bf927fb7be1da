"""From files, recipes and flags to one checked configuration. Unknown settings are errors, with a suggestion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from odeval.errors import OdevalError, unknown
from odkd.checks import DIALS, worded
from odkd.settings import TrainConfig as TrainConfig
from odkd.trl_names import translate

_RECIPES = Path(__file__).parent / "recipes"
_ABOUT = ("about", "source")  # keys of a recipe that are for people


def make_config(settings: Mapping[str, Any], where: str = "settings") -> TrainConfig:
    """Check settings, ours or TRL's.

    Args:
        settings: Name -> value; `recipe` fills in what is not given.
        where: What an error names as their origin.

    Returns:
        The configuration; `notes` tells what was accepted without effect.

    Raises:
        OdevalError: A setting is unknown, missing or out of range; one line for the first of them.

    Example:
        >>> make_config({"learningrate": 1}, "run.yaml")
        Traceback (most recent call last):
        odeval.errors.OdevalError: run.yaml: unknown setting 'learningrate': expected one of ...
    """
    given = dict(settings)
    try:
        base = recipe(str(given.pop("recipe"))) if given.get("recipe") else {}
        own, remarks = translate(given)
        if "objective" in own and own["objective"] != base.get("objective"):
            base = {key: value for key, value in base.items() if key not in DIALS}  # they belong to the recipe's own
    except OdevalError as error:
        raise OdevalError(f"{where}: {error}") from None
    own = {**base, **own}
    unknown_names = [name for name in own if name not in TrainConfig.model_fields]
    if unknown_names:
        raise OdevalError(f"{where}: {unknown('setting', str(unknown_names[0]), TrainConfig.model_fields)}")
    try:
        config = TrainConfig(**own)
    except OdevalError as error:
        raise OdevalError(f"{where}: {error}") from None
    except pydantic.ValidationError as error:
        raise OdevalError(f"{where}: {worded(error, TrainConfig)}") from None
    config._notes = (*remarks, *_doubts(config))
    return config


def notes(config: TrainConfig) -> tuple[str, ...]:
    """What the user should know before the run: settings without effect, settings that mean less than they say."""
    return config._notes


def _doubts(config: TrainConfig) -> list[str]:
    found = []
    if config.top_p < 1 or config.top_k > 0:
        cut = f"top_p {config.top_p}" if config.top_p < 1 else f"top_k {config.top_k}"
        found.append(f"{cut}: rollouts never hold the tail of the student, so nothing is learnt about it")
    if config.temperature != 1.0 and config.objective.startswith(("pg_", "sampled_", "eopd")):
        found.append(
            f"temperature {config.temperature}: {config.objective} takes its tokens for samples at temperature 1"
        )
    return found


def recipes() -> list[str]:
    """Names of the recipes.

    Example:
        >>> "gkd" in recipes()
        True
    """
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def recipe(name: str, about: bool = False) -> dict[str, Any]:
    """Read a recipe's settings.

    Args:
        name: One of `recipes()`.
        about: Return what it says about itself instead: `about` and `source`.

    Raises:
        OdevalError: No such recipe.
    """
    if name not in recipes():
        raise OdevalError(unknown("recipe", name, recipes()))
    found = read_settings(_RECIPES / f"{name}.yaml")
    return {key: value for key, value in found.items() if (key in _ABOUT) == about}


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
