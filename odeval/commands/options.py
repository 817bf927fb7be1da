"""What several verbs share: reading --ks, writing a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from odeval.errors import OdevalError


def parse_ks(text: str | None) -> tuple[int, ...] | Literal["all"]:
    if text is None:
        return ()
    if text == "all":
        return "all"
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise OdevalError(f"--ks {text}: expected comma-separated whole numbers such as 1,4,16, or all") from None


def parse_whole(text: str, flag: str) -> list[int]:
    """Read a flag such as --prompts 100,200."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OdevalError(f"{flag} {text}: expected comma-separated whole numbers such as 100,200") from None


def emit(result: dict[str, Any], out: Path | None, as_json: bool, show: Callable[[], None]) -> None:
    from odeval.atomic import write_json

    if out is not None:
        write_json(
            out / f"{result['schema'].split('/')[0].removeprefix('odeval.')}.json" if out.is_dir() else out,
            result,
        )
    if as_json:
        print(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        show()


def parse_named(given: list[str], option: str) -> dict[str, Path]:
    """Read NAME=FOLDER as often as it is given.

    Raises:
        OdevalError: There is no name, or no folder.
    """
    found = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise OdevalError(f"{option} {text}: expected NAME=FOLDER, such as new=runs/new")
        found[name] = Path(folder)
    return found
