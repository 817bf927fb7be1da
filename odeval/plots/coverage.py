"""How much of the teacher's repertoire the student reaches, and which branches it dropped. Draws, never computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from odeval.lookup import pair_of
from odeval.plots.canvas import INK, MUTED, RULE, figure, form, margins, px
from odeval.plots.families import along_powers, band_line
from odeval.plots.style import Look, legend_above, legend_columns, line_of, looks, name_all
from odeval.visible import visible

_BRANCHES = 12
_LEAST = 1e-5  # probability, at the left edge
_TICKS = (_LEAST, 1e-3, 0.1, 1.0)
_SIDES = ("student", "teacher")
_TAIL = 22  # characters of prompt and context before a branch


def draw_coverage(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw the chance that k completions hold a fresh output of the teacher, with the teacher's own as the ceiling.

    Args:
        comparison: From `compare`; pairs with the teacher hold `coverage`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    found = covered(comparison, list(style))
    kinds = list(dict.fromkeys((view["by"], view["draws"]) for _, views in found for view in views))[:2]
    teacher = [style[pair["baseline"]] for pair, _ in found[:1]]
    named = [*teacher, *(style[pair["candidate"]] for pair, _ in found)]
    top = 20 * -(-len(named) // legend_columns()) + 36
    drawing = figure(400 + top)
    panels = drawing.subplots(2, max(len(kinds), 1), sharex="col", sharey="row", squeeze=False,
                              gridspec_kw={"height_ratios": (3, 2)})  # fmt: skip
    margins(drawing, 70, 14, top, 54, wide=0.1, high=0.1)
    legend_above(drawing, named, always=True)
    for (upper, lower), (by, draws) in zip(panels.T, kinds, strict=False):
        own = [(style[pair["candidate"]], view) for pair, views in found for view in views
               if (view["by"], view["draws"]) == (by, draws)]  # fmt: skip
        upper.set_title(visible(str(draws), 30), loc="left", parse_math=False, color=MUTED)
        panels[0][0].set_ylabel(f"teacher's {visible(str(by), 12)}s\nreached, %", parse_math=False)
        band_line(upper, teacher[0], own[0][1]["k"], own[0][1]["ceiling"])
        for look, view in own:
            band_line(upper, look, view["k"], view["recall"])
            band_line(lower, look, view["k"], view["gap"])
        lower.axhline(0, color=MUTED, linewidth=px(1))
        along_powers(lower, own[0][1]["k"])
        lower.set_xlabel("k (log scale)")
    panels[1][0].set_ylabel("gap to ceiling,\npoints")
    if not kinds:
        for axes in panels.ravel():
            axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=MUTED)
    return drawing


def covered(comparison: dict[str, Any], labels: Sequence[str]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Pairs with the teacher whose coverage is known, with their views."""
    pairs = [pair for label in labels if (pair := pair_of(comparison, label, "teacher"))]
    return [(pair, views) for pair in pairs if (views := (pair.get("coverage") or {}).get("views"))]


def draw_branches(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw the likeliest dropped branches: the teacher's probability of a token against the student's.

    Args:
        comparison: From `compare`; pairs with the teacher hold `branches`.
        shown: Candidates; the one with most dropped branches is drawn.
    """
    style = looks(comparison, shown)
    pair = next(iter(dropped(comparison, list(style))), None)
    listed = pair["branches"]["listed"][:_BRANCHES] if pair else []
    drawing = figure(96 + 27 * max(len(listed), 4))
    axes = drawing.subplots()
    margins(drawing, 236 if form().direct else 190, 104, 36, 54)
    axes.set(xscale="log", xlim=(0.6 * _LEAST, 1.3), xlabel="probability of the token, % (log scale)")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(_TICKS, [f"{'≤' if tick == _LEAST else ''}{100 * tick:g}" for tick in _TICKS])
    if pair is None or not listed:
        axes.text(0.5, 0.5, "no branch is known to be dropped", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_yticks([])
        return drawing
    teacher, student = style[pair["baseline"]], style[pair["candidate"]]
    for place, row in enumerate(listed):
        ends = [math.nan if row[f"{side}_prob"] is None else max(row[f"{side}_prob"], _LEAST) for side in _SIDES]
        axes.plot(ends, [place, place], color=RULE, linewidth=px(2), zorder=1)
        for look, x in zip((student, teacher), ends, strict=True):
            axes.plot([x], [place], marker=look.marker, color=look.color, markersize=px(7), linestyle="", clip_on=False)
        told = f"{row['correct']} of {row['graded']}" if row["graded"] else "–"
        axes.text(1.03, place, told, transform=axes.get_yaxis_transform(), va="center", parse_math=False)
    axes.set_ylim(len(listed) - 0.5, -0.5)
    axes.set_yticks(range(len(listed)), [branch_name(row) for row in listed], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    above: dict[str, Any] = {"transform": axes.transAxes, "va": "bottom", "color": INK}
    axes.text(1.03, 1.01, "ended right", **above)
    axes.text(-0.02, 1.01, "text → dropped token", **above, ha="right")
    _key(axes, (student, teacher))
    return drawing


def dropped(comparison: dict[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs with the teacher that know which branches were dropped, the one with most first."""
    pairs = [pair for label in labels if (pair := pair_of(comparison, label, "teacher"))]
    return sorted(
        (pair for pair in pairs if pair.get("branches")), key=lambda pair: -(pair["branches"]["branches"] or 0)
    )


def branch_name(row: dict[str, Any]) -> str:
    """The end of a context, and the token that was dropped there."""
    text = visible(f"{row['prompt'][-_TAIL:].strip()} {row['context']}".strip())
    tail = f"…{text[-_TAIL:]}" if len(text) > _TAIL or row["cut"] else text
    return f"{tail} → {visible(row['branch'], 12)}"


def _key(axes: Any, entries: Sequence[Look]) -> None:
    handles = [line_of(look) for look in entries]
    for handle in handles:
        handle.set_linestyle("")
    legend = axes.legend(handles, ["-"] * len(handles), loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=2,
                         handletextpad=0.2, columnspacing=1.2, borderpad=0.1)  # fmt: skip
    name_all(legend, entries)
