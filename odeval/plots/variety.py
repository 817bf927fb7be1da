"""How many different right answers there are, and where a change of diversity comes from. Draws, never computes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from odeval.lookup import pair_of
from odeval.plots.canvas import MUTED, RULE, figure, form, margins, px
from odeval.plots.style import legend_above, legend_columns, looks
from odeval.visible import visible

PARTS = ("whole", "fewer_wrong", "more_right", "narrowing")


def draw_diversity(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw where a change of diversity comes from: fewer wrong answers, more right ones, narrowing among the right.

    Args:
        comparison: From `compare`; pairs hold `diversity`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    found = [pair for pair in varied(comparison, list(style)) if pair["diversity"]["split"]]
    named = [style[pair["candidate"]] for pair in found]
    top = 20 * -(-len(named) // legend_columns()) + 10
    lines = max(len(found), 1) * 17 + 24
    drawing = figure(len(PARTS) * lines + 58 + top)
    axes = drawing.subplots()
    left = 216 if form().direct else 170
    margins(drawing, left, 16, top, 54)
    axes.axvline(0, color=MUTED, linewidth=px(1))
    axes.set_yticks([])
    if not found:
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=MUTED)
        return drawing
    legend_above(drawing, named, always=True)
    shown_parts = [part for part in PARTS if part in found[0]["diversity"]["split"]]
    for row, part in enumerate(shown_parts):
        if row:
            axes.axhline(row - 0.5, color=RULE, linewidth=px(0.8))
        for place, pair in enumerate(found):
            item, look = pair["diversity"]["split"][part], style[pair["candidate"]]
            y = row + (place - (len(found) - 1) / 2) * 17 / lines
            if item["low"] is not None and item["high"] is not None:
                axes.hlines(y, item["low"], item["high"], color=look.color, linewidth=px(1.6))
            if item["value"] is not None:
                axes.plot([item["value"]], [y], marker=look.marker, color=look.color, markersize=px(6.5), linestyle="")
    axes.set_ylim(len(shown_parts) - 0.5, -0.5)
    split = found[0]["diversity"]["split"]
    names = [textwrap.fill(visible(split[part]["label"], 80), 29 if form().direct else 22) for part in shown_parts]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    unit = visible(split["whole"]["unit"], 30)
    axes.set_xlabel(f"change, {unit}" if unit else "change", parse_math=False)
    return drawing


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
    top = 20 * -(-len(named) // legend_columns()) + 14
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
        value, low, high = (np.array(item[side][key], dtype=float) for key in ("value", "low", "high"))
        axes.fill_between(item["k"], low, high, color=look.color, alpha=0.13, linewidth=0)
        axes.plot(item["k"], value, color=look.color, linestyle=look.dash, linewidth=px(look.width),
                  marker=look.marker, markersize=px(5))  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(rows[0][1]["k"]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return drawing
