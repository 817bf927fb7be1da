"""What people see in a terminal: progress on stderr, verdicts on stdout; control characters are made visible."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from odeval.sampling import Advance
from odeval.types import Judgement
from odeval.visible import visible

_EVERY = 30.0  # seconds between progress lines where no bar can be drawn
_MARKS = {
    "PASS": ("✓ PASS", "green"),
    "FAIL": ("✕ FAIL", "bold red"),
    "INCONCLUSIVE": ("? INCONCLUSIVE", "yellow"),
}


@contextlib.contextmanager
def stages(quiet: bool = False) -> Iterator[Any]:
    """Open the progress display; yields a function that opens one bar by name."""
    console = Console(stderr=True)
    if quiet:
        yield _silent
    elif console.is_terminal and not os.environ.get("CI"):
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console) as progress:

            @contextlib.contextmanager
            def bar(name: str) -> Iterator[Advance]:
                task = progress.add_task(name, total=None)
                yield lambda done, total: progress.update(task, completed=done, total=total)

            yield bar
    else:
        yield _lines


@contextlib.contextmanager
def _silent(name: str) -> Iterator[Advance]:
    yield lambda done, total: None


@contextlib.contextmanager
def _lines(name: str) -> Iterator[Advance]:
    """One line at the end of a stage, and one every half minute before."""
    started = last = time.monotonic()
    seen = (0, 0)

    def advance(done: int, total: int) -> None:
        nonlocal last, seen
        seen = (done, total)
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            print(f"{name}: {done}/{total} after {last - started:.0f} s", file=sys.stderr, flush=True)

    yield advance
    print(f"{name}: {seen[0]}/{seen[1]} in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def print_verdict(judgements: Sequence[Judgement], color: bool | None = None) -> None:
    """Print one table of rules a candidate, and the verdict under it."""
    console = Console(highlight=False, no_color=None if color is None else not color, width=_width())
    several = len({judgement.benchmark for judgement in judgements}) > 1
    for judgement in judgements:
        table = Table(box=None, pad_edge=False, title=None, show_header=True, header_style="dim")
        for name in ("rule", "measured", "one-sided bounds", "verdict"):
            table.add_column(name, no_wrap=name != "rule")
        for check in judgement.checks:
            word, style = _MARKS[check.verdict]
            if check.severity == "warn" and check.verdict == "FAIL":
                word, style = "! WARN", "yellow"
            value = (
                "unknown"
                if math.isnan(check.value)
                else f"{check.value:+.3f}"
                if check.against and "delta" in check.rule
                else f"{check.value:.3f}"
            )
            bounds = (
                "" if math.isnan(check.low) or check.low == check.high else f"[{check.low:+.3f}, {check.high:+.3f}]"
            )
            table.add_row(Text(check.rule), value, Text(bounds), Text(word, style=style))
        word, style = _MARKS[judgement.verdict]
        diagnosis = f" · {judgement.diagnosis}" if judgement.diagnosis else ""
        name = visible(f"{judgement.benchmark} · {judgement.candidate}" if several else judgement.candidate)
        console.print(Text.assemble((f"{word}{diagnosis}", style), f"  {name}: {judgement.headline}"))
        console.print(table)
        for check in judgement.checks:
            if check.verdict == "INCONCLUSIVE":
                console.print(Text(f"  {check.rule}: {check.detail}", style="dim"))
        console.print()


def print_trust(comparison: dict[str, Any]) -> None:
    """Print what makes a comparison less believable; nothing when nothing does."""
    console = Console(highlight=False, width=_width())
    for row in comparison["trust"]:
        if row["status"] in ("warn", "block"):
            console.print(Text(f"! {visible(row['check'])}: {visible(row['detail'])}", style="yellow"))


def print_comparison(comparison: dict[str, Any]) -> None:
    """Print each pair's pass@k curve with its paired difference and band."""
    console = Console(highlight=False, width=_width())
    for pair in comparison["pairs"]:
        curve = pair["pass_at_k"]
        names = f"{visible(pair['candidate'])} against {visible(pair['baseline'])}"
        console.print(f"{names} ({pair['role']}), {pair['prompts']} prompts")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("k", "baseline", "candidate", "difference", "simultaneous band"):
            table.add_column(name, justify="right")
        for j, k in enumerate(curve["k"]):
            cells = [_cell(curve[key][j]) for key in ("baseline", "candidate")]
            band = f"[{_cell(curve['population']['low'][j], True)}, {_cell(curve['population']['high'][j], True)}]"
            table.add_row(str(k), *cells, _cell(curve["difference"][j], True), Text(band))
        console.print(table)
        solved = pair["solved"]
        console.print(
            f"solved by both {solved['both']}, only by {visible(pair['baseline'])} {solved['baseline_only']}, "
            f"only by {visible(pair['candidate'])} {solved['candidate_only']}, by neither {solved['neither']}\n"
        )
    print_trust(comparison)


def print_plan(plan: dict[str, Any]) -> None:
    """Print what each design sees and costs."""
    console = Console(highlight=False, width=_width())
    console.print(f"rule pass@k.delta >= {-plan['margin']:g}, one-sided α {plan['alpha']:g}")
    console.print(f"solve rates of {visible(plan['pilot'])}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    wanted = f"{100 * plan['power']:.0f} %"
    for name in (
        "prompts",
        "samples",
        "k ≤",
        "PASS if unchanged",
        f"drop seen at {wanted}",
        f"FAIL at −{plan['drop']:g}",
    ):
        table.add_column(name, justify="right")
    table.add_column("cost of one run", justify="right")
    for row in plan["designs"]:
        mark = " ←" if row == plan["enough"] else ""
        seen = "none" if row["detectable"] is None else f"{row['detectable']:.3f}"
        cost = f"{row['completions']:,} completions" + (f", {row['tokens']:,} tokens" if row["tokens"] else "")
        table.add_row(
            str(row["prompts"]), str(row["samples"]), str(row["largest_k"]), f"{row['passes']:.0%}", seen,
            f"{row['power']:.0%}", cost + mark,
        )  # fmt: skip
    console.print(table)
    if plan["enough"] is None:
        console.print(f"no design reaches {wanted} both ways: use more prompts, or a larger margin")
    else:
        best = plan["enough"]
        console.print(f"cheapest with {wanted} both ways: {best['prompts']} prompts × {best['samples']} samples")


def _cell(value: float | None, signed: bool = False) -> str:
    return "n/a" if value is None else f"{value:+.3f}" if signed else f"{value:.3f}"


def _width() -> int | None:
    return None if sys.stdout.isatty() else 120
