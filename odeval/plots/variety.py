"""How many different right answers there are, and where a change of diversity comes from. Draws, never computes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from odeval.lookup import pair_of
from odeval.plots.canvas import MUTED, RULE, figure, form, margins, px
from odeval.plots.families import along_powers, band_line, legend_top
from odeval.plots.style import Look, legend_above, looks
from odeval.visible import visible

PARTS = ("whole", "fewer_wrong", "more_right", "narrowing")
_ROW = 17  # design pixels of a candidate


def draw_diversity(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw where a change of diversity comes from; narrowing among right answers, the loss proper, on its own scale.

    Args:
        comparison: From `compare`; pairs hold `diversity`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    found = [pair for pair in varied(comparison, list(style)) if pair["diversity"]["split"]]
    named = [style[pair["candidate"]] for pair in found]
    line = max(len(found), 1) * _ROW + 24
    drawing = figure(len(PARTS) * line + 120 + legend_top(named))
    panels = drawing.subplots(2, 1, gridspec_kw={"height_ratios": (len(PARTS) - 1, 1)})
    room = 216 if form().direct else 170
    below = 54 if form().direct else 72
    margins(drawing, room, 16, legend_top(named), below, high=(below + 12) / (2 * line))
    for axes, parts in zip(panels, (PARTS[:-1], PARTS[-1:]), strict=True):
        axes.axvline(0, color=MUTED, linewidth=px(1))
        axes.set_yticks([])
        if not found:
            axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=MUTED)
            continue
        splits = [(style[pair["candidate"]], pair["diversity"]["split"]) for pair in found]
        _ranges(axes, splits, parts, line, style[found[0]["baseline"]].label)
    legend_above(drawing, named, always=True)
    return drawing


def _ranges(
    axes: Any, splits: Sequence[tuple[Look, dict[str, Any]]], parts: Sequence[str], line: float, against: str
) -> None:
    """One row a part, in it one interval a candidate."""
    for row, part in enumerate(parts):
        if row:
            axes.axhline(row - 0.5, color=RULE, linewidth=px(0.8))
        for place, (look, split) in enumerate(splits):
            item = split[part]
            y = row + (place - (len(splits) - 1) / 2) * _ROW / line
            if item["low"] is not None and item["high"] is not None:
                axes.hlines(y, item["low"], item["high"], color=look.color, linewidth=px(1.6))
            if item["value"] is not None:
                axes.plot([item["value"]], [y], marker=look.marker, color=look.color, markersize=px(6.5), linestyle="")
    axes.set_ylim(len(parts) - 0.5, -0.5)
    first = splits[0][1]
    names = [textwrap.fill(visible(first[part]["label"], 80), 29 if form().direct else 22) for part in parts]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    unit = visible(first[parts[0]]["unit"], 30)
    words = f"change against {against}, {unit}" if unit else f"change against {against}"
    axes.set_xlabel(words if form().direct else words.replace(", ", ",\n"), parse_math=False)


def varied(comparison: dict[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Each candidate's pair with the reference, where diversity is known."""
    pairs = [pair for label in labels if (pair := pair_of(comparison, label, "baseline", "teacher"))]
    return [pair for pair in pairs if (pair.get("diversity") or {}).get("answers")]


def draw_distinct(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw how many different right answers k right completions hold, equal sample sizes for all.

    Args:
        comparison: From `compare`; pairs hold `diversity`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    found = [pair for pair in varied(comparison, list(style)) if pair["diversity"]["among_right"]]
    named = [style[pair["baseline"]] for pair in found[:1]] + [style[pair["candidate"]] for pair in found]
    top = legend_top(named)
    drawing = figure(300 + top)
    axes = drawing.subplots()
    margins(drawing, 66, 14, top, 54)
    axes.set_xlabel("k right completions (log scale)")
    axes.set_ylabel("different right answers")
    if not found:
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=MUTED)
        return drawing
    legend_above(drawing, named, always=True)
    rows = [(named[0], found[0]["diversity"]["among_right"], "baseline")]
    rows += [(style[pair["candidate"]], pair["diversity"]["among_right"], "candidate") for pair in found]
    for look, item, side in rows:
        band_line(axes, look, item["k"], item[side], scale=1.0)
    along_powers(axes, rows[0][1]["k"])
    return drawing
