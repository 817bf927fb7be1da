"""How often each prompt is solved, reference against candidate: the lost ones stand out. Draws, never computes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from odeval.lookup import pair_of, run_of
from odeval.plots.canvas import LOST, MUTED, RULE, figure, form, margins, px
from odeval.plots.style import looks

_VECTOR_POINTS = 1500  # a scatter of more is drawn as pixels, so that no page grows with the number of prompts


def draw_lost(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw each prompt's solve rate under the reference and under the candidate; a lost prompt is a cross.

    Args:
        comparison: From `compare`; runs hold `counts` in the order of `prompt_ids`.
        shown: Candidates to draw, one panel each.
    """
    style = looks(comparison, shown)
    pairs = [pair for label in style if (pair := pair_of(comparison, label, "teacher", "baseline"))]
    columns = min(max(len(pairs), 1), 2)
    rows = max(math.ceil(len(pairs) / columns), 1)
    beside = len(pairs) == 1 and form().direct
    side = (form().width - (215 if beside else 76)) / columns + 28  # of a square panel and its title
    height = rows * side + 50
    drawing = figure(height)
    panels = drawing.subplots(rows, columns, squeeze=False).ravel()
    margins(drawing, 67, 148 if beside else 9, 34, 54, wide=0.26, high=0.36)
    for axes in panels[len(pairs) :]:
        axes.set_axis_off()
    for place, (axes, pair) in enumerate(zip(panels, pairs, strict=False)):
        _rates(axes, *(run_of(comparison, pair[side]).get("counts") for side in ("baseline", "candidate")))
        axes.set_title(style[pair["candidate"]].label, loc="left", color=style[pair["candidate"]].ink, parse_math=False)
        if beside:
            _key(axes)
        if place % columns == 0:
            axes.set_ylabel("solved by the candidate, %")
        if place + columns >= len(pairs):
            axes.set_xlabel(f"solved by {style[pair['baseline']].label}, %", parse_math=False)
    return drawing


def _rates(axes: Any, base: dict[str, Any] | None, own: dict[str, Any] | None) -> None:
    axes.set(xlim=(-4, 104), ylim=(-4, 104), aspect="equal", xticks=range(0, 101, 25), yticks=range(0, 101, 25))
    axes.plot((0, 100), (0, 100), color=RULE, linewidth=px(1.2), zorder=1)
    if base is None or own is None:
        axes.text(0.5, 0.5, "counts per prompt are not known", transform=axes.transAxes, ha="center", color=MUTED)
        return
    rows = zip(base["n"], base["c"], own["n"], own["c"], strict=True)
    places = Counter((100 * c / n, 100 * d / m) for n, c, m, d in rows if n and m and c is not None and d is not None)
    lost = {place: count for place, count in places.items() if place[1] == 0 < place[0]}
    kept = {place: count for place, count in places.items() if place not in lost}
    pixels = len(places) > _VECTOR_POINTS
    for group, marks in (
        (kept, {"marker": "o", "color": "#0072b2", "alpha": 0.45, "markeredgewidth": 0}),
        (lost, {"marker": "x", "color": LOST, "markeredgewidth": px(1.6), "zorder": 3, "clip_on": False}),
    ):
        for count in sorted(set(group.values()), reverse=True):
            x, y = zip(*(place for place, found in group.items() if found == count), strict=True)
            size = px(4.6 * math.sqrt(count) if group is kept else 4.4 + 1.4 * math.sqrt(count))
            axes.plot(x, y, linestyle="", markersize=size, rasterized=pixels, **marks)


def _key(axes: Any) -> None:
    """Name the marks in the free space beside a single panel."""
    dot = Line2D([], [], linestyle="", marker="o", color="#0072b2", alpha=0.45, markersize=px(7), markeredgewidth=0)
    cross = Line2D([], [], linestyle="", marker="x", color=LOST, markersize=px(7), markeredgewidth=px(1.6))
    line = Line2D([], [], color=RULE, linewidth=px(1.6))
    names = ["a prompt", "a lost prompt", "equally often"]
    axes.legend([dot, cross, line], names, loc="upper left", bbox_to_anchor=(1.0, 1.0))
