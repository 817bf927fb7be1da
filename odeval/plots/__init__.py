"""Comparison → figures. Draws, never computes: each position is a number of comparison.json.

FIGURES is the index: kind → function from a comparison to a matplotlib figure. `svg` gives a figure as text for a
page, `save` writes it to a file. No windows, no global pyplot state.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from odeval.atomic import write_bytes, write_text
from odeval.errors import OdevalError, unknown
from odeval.plots.curves import Limit, draw_passk
from odeval.plots.entropy import draw_entropy
from odeval.plots.prompts import draw_lost
from odeval.plots.style import styled, write_png, write_svg

__all__ = ["FIGURES", "Limit", "save", "svg"]

FIGURES: dict[str, Callable[..., Figure]] = {"passk": draw_passk, "lost": draw_lost, "entropy": draw_entropy}


def svg(kind: str, comparison: dict[str, Any], title: str, description: str, **options: Any) -> str:
    """Draw a figure as SVG for a page.

    Args:
        kind: One of FIGURES; also the prefix of the ids inside.
        comparison: From `compare`.
        title: Read out before the figure.
        description: Read out instead of it.
        options: Of the drawing function.
    """
    with styled():
        return write_svg(FIGURES[kind](comparison, **options), kind, title, description)


def save(kind: str, comparison: dict[str, Any], path: Path, **options: Any) -> Path:
    """Write a figure to a file, .svg or .png.

    Raises:
        OdevalError: No such figure or format, or the file cannot be written.
    """
    if kind not in FIGURES:
        raise OdevalError(unknown("figure", kind, FIGURES))
    if path.suffix not in (".svg", ".png"):
        raise OdevalError(f"{path}: a figure is written as .svg or .png")
    with styled():
        drawing = FIGURES[kind](comparison, **options)
        if path.suffix == ".svg":
            write_text(path, write_svg(drawing, kind, kind, ""))
        else:
            write_bytes(path, write_png(drawing))
    return path
