"""`odkd`: each verb a few lines. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import App, CycloptsError, Parameter
from pydantic import Field, create_model
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from odeval.errors import OdevalError
from odkd.config import TrainConfig, make_config, read_settings

app = App(name="odkd", help="On-policy distillation in one readable loop. Audit the result with `odeval audit`.")

# Every setting is a flag. They stay text here, so that file and flags are checked, and worded, in one place.
_fields: dict[str, Any] = {
    name: (
        str | None,
        Field(None, description=f"{field.description}" + ("" if field.is_required() else f" [{field.default}]")),
    )
    for name, field in TrainConfig.model_fields.items()
}
_Flags: Any = create_model("Flags", **_fields)


@app.command
def train(
    *,
    config: Path | None = None,
    print_config: Annotated[bool, Parameter(negative="")] = False,
    flags: Annotated[_Flags | None, Parameter(name="*")] = None,
) -> None:
    """Distil a teacher into a student.

    Args:
        config: YAML file of settings.
        print_config: Show the resolved settings and where each came from, and stop.
        flags: Each setting of the file is a flag too, which wins.
    """
    from_file = read_settings(config) if config else {}
    from_flags = flags.model_dump(exclude_none=True) if flags else {}
    resolved = make_config({**from_file, **from_flags}, str(config) if config else "flags")
    if print_config:
        for name, value in resolved.model_dump().items():
            origin = "flag" if name in from_flags else str(config) if name in from_file else "default"
            print(f"{yaml.safe_dump({name: value}).strip()}  # {origin}")
        return
    from odkd.train import train as run  # torch loads only when there is work for it

    columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("train", total=resolved.max_steps)
        out = run(resolved, lambda done, total: bar.update(task, completed=done))
    print(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Of the command line; sys.argv when None.

    Returns:
        Exit code: 0, or 2 for a mistake in usage or configuration.
    """
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except (OdevalError, CycloptsError) as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr)
        return error.exit_code if isinstance(error, OdevalError) else 2
    return 0
