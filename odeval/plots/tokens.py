"""One completion as a token heat-map: the teacher's entropy above each token, the student's below. Draws only."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from odeval.lookup import pair_of
from odeval.plots.canvas import INK, LOST, MUTED, figure, form, margins, px
from odeval.plots.style import looks
from odeval.visible import visible

_LINE = 46  # design pixels
_ROWS = 24
_CELL = 8.0  # design pixels of a character
_BLUE = LinearSegmentedColormap.from_list("teacher", ["#f3f7fb", "#6aaed6", "#08306b"])
_ORANGE = LinearSegmentedColormap.from_list("student", ["#fdf6f0", "#f0924c", "#7f2704"])


@dataclass(frozen=True, slots=True)
class _Token:
    """Where a token stands: line, first column, columns, and its place in the completion."""

    line: int
    start: int
    wide: int
    at: int
    text: str


def draw_tokens(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw one of the teacher's completions: entropy of the teacher above each token, of the student below.

    Args:
        comparison: From `compare`; pairs with the teacher hold `completion`.
        shown: Candidates; the one that closed most is drawn.
    """
    style = looks(comparison, shown)
    pair = next(iter(told(comparison, list(style))), None)
    room = int((form().width - 24) / _CELL)
    tokens = [] if pair is None else _laid_out(pair["completion"]["pieces"], room)
    lines = max((token.line for token in tokens), default=0) + 1
    drawing = figure(lines * _LINE + 84)
    axes = drawing.subplots()
    margins(drawing, 12, 12, 66, 6)
    axes.set_axis_off()
    axes.set(xlim=(0, room), ylim=(lines, 0))
    if pair is None:
        axes.text(0.5, 0.5, "no completion is scored", transform=axes.transAxes, ha="center", color=MUTED)
        return drawing
    found, top = pair["completion"], _highest(pair["completion"])
    for token in tokens:
        _draw(axes, token, found, top)
    _key(axes, (style[pair["baseline"]].label, style[pair["candidate"]].label), top)
    return drawing


def told(comparison: dict[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs with the teacher that hold a completion, the one with most closed branch points first."""
    pairs = [pair for label in labels if (pair := pair_of(comparison, label, "teacher"))]
    return sorted(
        (pair for pair in pairs if pair.get("completion")), key=lambda pair: -sum(pair["completion"]["closed"])
    )


def _highest(found: dict[str, Any]) -> float:
    """Where the colours end, nats."""
    shown = [*found["teacher_entropy"], *found["student_entropy"], found["threshold"]]
    return float(max((value for value in shown if value is not None), default=1.0))


def _laid_out(pieces: Sequence[str], room: int) -> list[_Token]:
    """Set tokens in lines of equal characters; a token is broken only where it is longer than a line."""
    found: list[_Token] = []
    line, column = 0, 0
    for at, piece in enumerate(pieces):
        text = visible(piece, 3 * room).replace("␊", "↵") or "∅"
        wide = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
        if column and column + wide > room:
            line, column = line + 1, 0
        text, wide = (text, wide) if wide <= room else (f"{text[: room - 1]}…", room)
        if line >= _ROWS:
            break
        found.append(_Token(line, column, wide, at, text))
        column += wide
        if "\n" in piece:
            line, column = line + 1, 0
    return found


def _draw(axes: Any, token: _Token, found: dict[str, Any], top: float) -> None:
    values = (("teacher_entropy", _BLUE, 0.08), ("student_entropy", _ORANGE, 0.68))
    for key, colors, above in values:
        value = found[key][token.at]
        if value is not None:
            place = (token.start + 0.06, token.line + above)
            axes.add_patch(Rectangle(place, token.wide - 0.12, 0.17, facecolor=colors(value / top), linewidth=0))
    axes.text(token.start + token.wide / 2, token.line + 0.465, token.text, ha="center", va="center", color=INK,
              family="DejaVu Sans Mono", fontsize=px(_CELL / 0.602), parse_math=False)  # fmt: skip
    if found["closed"][token.at]:
        place = (token.start + 0.02, token.line + 0.02)
        axes.add_patch(Rectangle(place, token.wide - 0.04, 0.9, fill=False, edgecolor=LOST, linewidth=px(1.8)))


def _key(axes: Any, names: Sequence[str], top: float) -> None:
    """Name both strips and their colours, above the text."""
    box = axes.get_window_extent()
    told = "framed: a branch point that is closed below"
    axes.text(px(2) / box.width, 1 + px(10) / box.height, told, transform=axes.transAxes, fontsize=px(12), color=LOST)
    for place, (name, colors, word) in enumerate(zip(names, (_BLUE, _ORANGE), ("above", "below"), strict=True)):
        left, high = px(2 + place * (form().width - 20) / 2) / box.width, px(_LINE + 32) / box.height
        bar, tall = px(44) / box.width, px(10) / box.height
        for step in range(8):
            place_of = (left + step * bar / 8, 1 + high * 0.45)
            axes.add_patch(Rectangle(place_of, bar / 8, tall, facecolor=colors(step / 7), linewidth=0,
                                     transform=axes.transAxes, clip_on=False))  # fmt: skip
        words = f"0–{top:.2g} nats, {word}: {name}"
        axes.text(left + bar * 1.12, 1 + high * 0.45, words, transform=axes.transAxes, va="baseline", parse_math=False,
                  fontsize=px(12))  # fmt: skip
