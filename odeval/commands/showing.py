"""The verb that lists what stands behind the numbers: show. It loads no torch and reads no run, only a comparison."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError, unknown


def show(
    where: Path, /, *, lost: bool = False, branches: bool = False, candidate: str | None = None, most: int = 10,
    json: bool = False,
) -> int:  # fmt: skip
    """List the prompts that a candidate lost, and the branches it dropped.

    Args:
        where: comparison.json, a folder that holds it (an audit's), or a candidate's run folder in such a folder.
        lost: Prompts that the reference solves and the candidate never did; also without any flag.
        branches: The teacher's continuations that the candidate no longer takes.
        candidate: Only this one.
        most: Entries of each list.
        json: Print JSON on stdout and nothing else.
    """
    from odeval.gate import read_comparison
    from odeval.terminal_lists import print_branches, print_lost

    path, name = _resolved(where, candidate)
    comparison = read_comparison(path)
    known = [run["label"] for run in comparison["runs"] if run["role"] == "candidate"]
    if name is not None and name not in known:
        raise OdevalError(unknown("candidate", name, known))
    pairs = [pair for pair in comparison["pairs"] if name in (None, pair["candidate"])]
    wanted = {"lost_prompts": lost or not branches, "branches": branches}
    if branches and not any(pair["branches"] for pair in pairs):
        raise OdevalError(f"{path}: knows no dropped branches; compare with --teacher after `odeval score`")
    if json:
        rows = [{key: pair[key] for key in ("role", "baseline", "candidate", *_keys(wanted))} for pair in pairs]
        print(jsonlib.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False))
        return 0
    for pair in pairs:
        if wanted["lost_prompts"]:
            print_lost(pair, most)
        if wanted["branches"] and pair["branches"]:
            print_branches(pair, most)
    return 0


def _keys(wanted: dict[str, bool]) -> list[str]:
    return [key for key, yes in wanted.items() if yes]


def _resolved(where: Path, candidate: str | None) -> tuple[Path, Any]:
    """A run folder stands for its own part of the comparison beside it."""
    beside = where.parent / "comparison.json"
    if where.is_dir() and not (where / "comparison.json").exists() and beside.exists():
        return beside, candidate or where.resolve().name
    return where, candidate
