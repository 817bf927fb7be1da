"""`odkd`: each verb a few lines. Results go to stdout, progress, notes and errors to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import App, CycloptsError, Parameter
from pydantic import Field, create_model

from odeval.errors import OdevalError

try:
    from odkd.config import TrainConfig, make_config, notes, read_settings, recipe, recipes
except ModuleNotFoundError as missing:
    print(f"error: odkd trains models and needs {missing.name}: pip install 'odeval[train]'", file=sys.stderr)
    raise SystemExit(2) from missing

app = App(
    suppress_keyboard_interrupt=False,
    name="odkd",
    help="On-policy distillation in one readable loop. Audit the result with `odeval audit`.",
)

# Every setting is a flag. They stay text here, so that file and flags are checked, and worded, in one place.
_fields: dict[str, Any] = {
    name: (
        str | None,
        Field(None, description=f"{field.description}" + ("" if field.is_required() else f" [{field.default}]")),
    )
    for name, field in TrainConfig.model_fields.items()
}
_Flags: Any = create_model("Flags", **_fields)
Flags = Annotated[_Flags | None, Parameter(name="*")]


@app.command
def train(
    *,
    config: Path | None = None,
    recipe: str | None = None,
    print_config: Annotated[bool, Parameter(negative="")] = False,
    flags: Flags = None,
) -> None:
    """Distil a teacher into a student; the same call again goes on with a run that was killed.

    Args:
        config: YAML file of settings, ours or TRL's.
        recipe: Settings of a published method, see `odkd recipes`; file and flags win.
        print_config: Show the resolved settings and where each came from, and stop.
        flags: Each setting of the file is a flag too, which wins.
    """
    resolved, origins = _resolve(config, recipe, flags)
    for note in notes(resolved):
        print(f"note: {note}", file=sys.stderr)
    if print_config:
        for name, value in {**resolved.model_dump(mode="json"), **resolved.dials()}.items():
            if value is not None or name in origins:
                print(f"{yaml.safe_dump({name: value}, allow_unicode=True).strip()}  # {origins.get(name, 'default')}")
        return
    from odkd.live import live_view
    from odkd.train import train as run  # torch loads only when there is work for it

    with live_view(resolved) as watch:
        out = run(resolved, watch)
    print(out)


@app.command
def estimate(
    *,
    config: Path | None = None,
    recipe: str | None = None,
    steps: int = 3,
    json: Annotated[bool, Parameter(negative="")] = False,
    flags: Flags = None,
) -> None:
    """Tell memory and time of a run before they are spent: shapes counted, a few steps taken and thrown away.

    Args:
        config: As in train.
        recipe: As in train.
        steps: Updates that are timed.
        json: Print JSON.
        flags: As in train.
    """
    resolved, _ = _resolve(config, recipe, flags)
    from odkd.estimate import estimate as run
    from odkd.estimate import lines_of

    found = run(resolved, steps)
    if json:
        _print_json(found)
    else:
        print("\n".join(lines_of(found)))


@app.command(name="compare-objectives")
def compare_objectives(study: Path, /, *, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Train every arm of a study from one base at equal budget, over several seeds, and compare them.

    Args:
        study: YAML file: base, arms, seeds, out; see `odkd/study.py`.
        json: Print the whole result as JSON.
    """
    from odkd.study import lines_of, run_study

    found = run_study(study, lambda line: print(line, file=sys.stderr, flush=True))
    if json:
        _print_json(found)
    else:
        print("\n".join(lines_of(found)))
    return 0


@app.command
def objectives(name: str | None = None, /, *, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """List what can be minimised: formula, gradient, direction, dials, and the names in other trainers.

    Args:
        name: One of them; all by default.
        json: Print JSON.
    """
    from odkd.objectives import OBJECTIVES, kind_of, objective

    chosen = OBJECTIVES if name is None else {name: objective(name)}
    if json:
        keys = ("formula", "gradient", "direction", "source", "dials", "on_policy", "elsewhere")
        _print_json(
            {
                key: {k: getattr(entry, k) for k in keys} | {"fused": kind_of(key, {}) is not None}
                for key, entry in chosen.items()
            }
        )
        return
    print("p teacher, q student, y sampled token, sg no gradient; per token, in nats")
    for key, entry in chosen.items():
        print(f"\n{key}\n  loss      {entry.formula}\n  gradient  ∂/∂z_v = {entry.gradient}")
        print(f"  direction {entry.direction}")
        if entry.dials:
            print(f"  dials     {', '.join(f'{dial}: {value}' for dial, value in entry.dials.items())}")
        if kind_of(key, {}):
            print("  fused     formed without logits, from a vocabulary of 512 tokens")
        for tool, said in entry.elsewhere.items():
            print(f"  {tool:<9} {said}")
        print(f"  source    {entry.source}")


@app.command(name="recipes")
def list_recipes() -> None:
    """List the recipes of published methods, with what each one sets."""
    for name in recipes():
        about = recipe(name, about=True)
        print(f"{name}\n  {about['about']}\n  {about['source']}")
        print("\n".join(f"    {line}" for line in yaml.safe_dump(recipe(name), sort_keys=False).splitlines()))


def _resolve(config: Path | None, name: str | None, flags: Any) -> tuple[TrainConfig, dict[str, str]]:
    from_file = read_settings(config) if config else {}
    from_flags = flags.model_dump(exclude_none=True) if flags else {}
    if isinstance(from_flags.get("phases"), str):
        from_flags["phases"] = yaml.safe_load(from_flags["phases"])
    named = {"recipe": name} if name else {}
    resolved = make_config({**from_file, **named, **from_flags}, str(config) if config else "flags")
    taken = recipe(str({**from_file, **named}["recipe"])) if named or from_file.get("recipe") else {}
    origins = dict.fromkeys(taken, "recipe") | dict.fromkeys(from_file, str(config)) | dict.fromkeys(from_flags, "flag")
    return resolved, origins


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=list))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Of the command line; sys.argv when None.

    Returns:
        Exit code: 0, 2 for a mistake in usage or configuration, 130 when interrupted.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads would spin
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except (OdevalError, CycloptsError) as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr)
        return error.exit_code if isinstance(error, OdevalError) else 2
    except KeyboardInterrupt:
        print("error: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    return 0
