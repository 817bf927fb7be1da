"""The embedded default: two worlds whose truth is computable, and tiny models trained on them. No torch here.

The models lie beside this file, `checkpoints/<world>/<model>/`, in Hugging Face format, each with a
`training.json` that says how it was made. `benchmarks/train_testbed.py` trains them all from scratch.
"""

from __future__ import annotations

from pathlib import Path

from odeval.errors import OdevalError, unknown
from odeval.tasks import countdown, graph_paths
from odeval.tasks.worlds import World

WORLDS: dict[str, World] = {world.name: world for world in (graph_paths.WORLD, countdown.WORLD)}
DEFAULT_WORLD = "graph_paths"

_SCHEME = "embedded:"
_CHECKPOINTS = Path(__file__).parent / "checkpoints"
_FIRST = ("teacher", "warm_start")  # the others follow by name


def world(name: str = DEFAULT_WORLD) -> World:
    """Return a world by name.

    Raises:
        OdevalError: No such world.

    Example:
        >>> world().name, world("countdown").max_tokens
        ('graph_paths', 19)
    """
    if name not in WORLDS:
        raise OdevalError(unknown("world", name, WORLDS))
    return WORLDS[name]


def models(name: str = DEFAULT_WORLD) -> list[str]:
    """List the embedded models of a world: the teacher, the student before distillation, then every arm.

    Raises:
        OdevalError: No such world.

    Example:
        >>> models("graph_paths")[:2]
        ['teacher', 'warm_start']
    """
    found = {path.parent.name for path in (_CHECKPOINTS / world(name).name).glob("*/config.json")}
    return [model for model in _FIRST if model in found] + sorted(found.difference(_FIRST))


def checkpoint(name: str, model: str) -> Path:
    """Return the folder of an embedded model, in Hugging Face format.

    Args:
        name: World, one of WORLDS.
        model: One of `models(name)`.

    Raises:
        OdevalError: No such world or model.

    Example:
        >>> checkpoint("graph_paths", "teacher").name
        'teacher'
    """
    known = models(name)
    if model not in known:
        raise OdevalError(unknown(f"{name} model", model, known))
    return _CHECKPOINTS / name / model


def embedded(name: str, model: str) -> Path:
    """Name an embedded model so that it means the same on every machine, wherever a model folder is asked for.

    Example:
        >>> embedded("graph_paths", "teacher").as_posix()
        'embedded:graph_paths/teacher'
    """
    checkpoint(name, model)
    return Path(f"{_SCHEME}{name}/{model}")


def is_embedded(name: str | Path) -> bool:
    """Tell whether a model's name is that of an embedded one.

    Example:
        >>> is_embedded("embedded:graph_paths/teacher"), is_embedded("models/mine")
        (True, False)
    """
    return Path(name).as_posix().startswith(_SCHEME)


def model_folder(name: str | Path) -> Path:
    """Return the folder that a model's name means: itself, or that of an embedded model `embedded:WORLD/MODEL`.

    Raises:
        OdevalError: No such embedded model.
    """
    text = Path(name).as_posix()
    if not is_embedded(name):
        return Path(name)
    own, _, model = text.removeprefix(_SCHEME).partition("/")
    return checkpoint(own, model)
