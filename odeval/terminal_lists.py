"""Lists behind the numbers, for a terminal: lost prompts and dropped branches, every text made visible."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from odeval.visible import visible

_LOST = (
    "lost: share of the teacher's completions of the prompt that are right, went this way, and would not with the "
    "student's probability"
)
_SHORT, _TAIL = 40, 32  # characters of a text, and of the end of a context


def print_lost(pair: dict[str, Any], most: int) -> None:
    """Print the prompts that the reference solved and the candidate never, with how sure that is.

    Args:
        pair: One of comparison["pairs"].
        most: Rows.
    """
    rows = pair["lost_prompts"]
    console = _console()
    console.print(Text(f"{_names(pair)}: {len(rows)} prompts lost (solved by the reference, never by the candidate)"))
    if not rows:
        return
    head = ("prompt", "reference", "candidate", "still possible", "question", "right answer", "candidate's")
    table = _table(head)
    for row in rows[:most]:
        solved = [f"{row[side]['c']}/{row[side]['n']}" for side in ("baseline", "candidate")]
        texts = [_short(row.get(name, "")) for name in ("prompt", "baseline_answer", "candidate_answer")]
        table.add_row(*map(Text, (_short(row["prompt_id"]), *solved, f"< {row['upper']:.1%}", *texts)))
    console.print(table)


def print_branches(pair: dict[str, Any], most: int) -> None:
    """Print the dropped branches, those first through which most right completions went.

    Args:
        pair: One of comparison["pairs"], with branches.
        most: Rows.
    """
    found = pair["branches"]
    console = _console()
    counted = f"{found['branches']} dropped branches in {found['contexts']} contexts of {found['prompts']} prompts"
    console.print(Text(f"{_names(pair)}: {counted}"))
    if not found["listed"]:
        return
    table = _table(("prompt … so far", "branch", "teacher", "student", "taken", "right", "lost"))
    for row in found["listed"][:most]:
        before = f"{row['prompt']}{row['context']}"
        table.add_row(
            Text(("…" if len(before) > _TAIL else "") + visible(before[-_TAIL:])),
            Text(_short(row["branch"])),
            f"{row['teacher_prob']:.2f}",
            f"{row['student_prob']:.2g}",
            f"{row['taken']} of {row['visits']}",
            f"{row['correct']} of {row['graded']}",
            "n/a" if row["lost"] is None else f"{row['lost']:.1%}",
        )
    console.print(table)
    console.print(Text(_LOST, "dim"))


def _names(pair: dict[str, Any]) -> str:
    return f"{visible(pair['candidate'])} against {visible(pair['baseline'])} ({pair['role']})"


def _short(text: str) -> str:
    return visible(" ".join(text.split()), _SHORT)


def _table(head: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in head:
        table.add_column(name, overflow="fold")
    return table


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)
