"""pass@k of every run over the paired difference, on one axis of k. Draws, never computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from odeval.lookup import band_of, judged_ks, reference_pairs
from odeval.plots.style import INK, MUTED, Look, annotate_ends, figure, looks

_TICKS = 12


@dataclass(frozen=True, slots=True)
class Limit:
    """A rule over the pass@k difference, as a line.

    Attributes:
        value: The limit, a share.
        ks: Where it is judged; empty for nowhere.
        against: Label of the run that the rule compares with.
    """

    value: float
    ks: tuple[int, ...]
    against: str


def draw_passk(
    comparison: dict[str, Any], shown: Sequence[str] | None = None, limits: Sequence[Limit] = (),
    scope: str = "population", bands: bool = True,
) -> Figure:  # fmt: skip
    """Draw pass@k of every run over the paired difference to the reference, on one axis of k.

    Args:
        comparison: From `compare`.
        shown: Candidates to draw; by default as many as a figure holds.
        limits: Rules to draw into the difference.
        scope: Which band the difference gets.
        bands: Draw every run's own interval, too; those of many runs hide each other.
    """
    style = looks(comparison, shown)
    drawing = figure(520)
    top, bottom = drawing.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 2)})
    drawing.subplots_adjust(left=0.125, right=0.725, top=0.975, bottom=0.1, hspace=0.08)
    pairs = reference_pairs(comparison, list(style))
    judged = max((k for pair in pairs for k in judged_ks(pair, scope)), default=math.inf)
    ks = comparison["settings"]["ks"]
    ends = []
    for run in comparison["runs"]:
        if (look := style.get(run["label"])) is not None:
            curve = run["pass_at_k"]
            ends.append((look.label, *_curve(top, look, curve, "value", curve if bands else None, judged)))
    _limits_of(top, [value for run in comparison["runs"] for value in run["pass_at_k"]["value"]], 0.0, 100.0)
    _across_k(drawing, (top, bottom), ks, judged)
    top.set_ylabel("pass@k, % of prompts")
    annotate_ends(top, ends)
    _differences(bottom, pairs, style, limits, judged, scope)
    bottom.set_xlabel("k, samples a user may draw per prompt (log scale)")
    return drawing


def _differences(
    axes: Any, pairs: Sequence[dict[str, Any]], style: dict[str, Look], limits: Sequence[Limit],
    judged: float, scope: str,
) -> None:  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=1)
    ends = [(f"= {style[pairs[0]['baseline']].label}", 0.0, MUTED)] if pairs else []
    values: list[float | None] = [0.0]
    for pair in pairs:
        look, curve, band = style[pair["candidate"]], pair["pass_at_k"], band_of(pair, scope)
        ends.append((look.label, *_curve(axes, look, curve, "difference", band, judged)))
        values += [*curve["difference"], *band["low"], *band["high"]]
    against = {pair["baseline"] for pair in pairs}
    for value, where in sorted({(limit.value, limit.ks) for limit in limits if limit.ks and limit.against in against}):
        values.append(value)
        ends.append((f"rule: at least {_points(100 * value)}", 100 * value, INK))
        if len(where) == 1:
            axes.plot(where, [100 * value], marker="_", color=INK, markersize=16)
        else:
            axes.plot((where[0], where[-1]), [100 * value] * 2, color=INK, linewidth=1.4, linestyle=(0, (1, 2)))
    _limits_of(axes, values)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _points(value)))
    axes.set_ylabel("paired difference,\npoints")
    if not pairs:
        axes.text(0.5, 0.5, "nothing to compare with", transform=axes.transAxes, ha="center", color=MUTED)
    annotate_ends(axes, ends)


def _points(value: float) -> str:
    return f"{round(value, 6):+g}".replace("-", "−") if round(value, 6) else "0"


def _curve(
    axes: Any, look: Look, curve: dict[str, Any], key: str, band: dict[str, Any] | None, judged: float
) -> tuple[float, str]:
    """Draw one curve with its band: as judged up to n/2, dashed and hollow beyond; return its end and its ink."""
    ks = np.array(curve["k"], dtype=float)
    values = 100 * np.array(curve[key], dtype=float)
    if band is not None:
        low, high = (100 * np.array(band[side], dtype=float) for side in ("low", "high"))
        axes.fill_between(ks, low, high, color=look.color, alpha=0.13, linewidth=0)
    inside, beyond = ks <= judged, ks >= max((k for k in ks if k <= judged), default=0)
    marks = {"marker": look.marker, "markersize": 5.5, "color": look.color}
    axes.plot(ks[beyond], values[beyond], linestyle=(0, (2, 2.5)), linewidth=1.2, **marks, markerfacecolor="white")
    axes.plot(ks[inside], values[inside], linestyle=look.dash, linewidth=look.width, **marks)
    known = values[np.isfinite(values)]
    return (float(known[-1]) if len(known) else math.nan), look.ink


def _limits_of(axes: Any, values: Sequence[float | None], low: float = -math.inf, high: float = math.inf) -> None:
    """Show what is there with a little room, never beyond what is possible; the axis need not start at 0."""
    known = [100 * value for value in values if value is not None]
    if not known:
        axes.set_ylim(0, 100)
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=MUTED)
        return
    room = max(0.06 * (max(known) - min(known)), 0.5)
    axes.set_ylim(max(low - 1.5, min(known) - room), min(high + 1.5, max(known) + room))


def _across_k(drawing: Figure, panels: Sequence[Any], ks: Sequence[int], judged: float) -> None:
    """One log axis with ticks at the evaluated k; what lies beyond n/2 is marked once."""
    powers = [k for k in ks if k & (k - 1) == 0]
    ticks = list(ks) if len(ks) <= _TICKS else powers
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xlim(ks[0] / 1.15, ks[-1] * 1.15)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if judged < ks[-1]:
            following = min(k for k in ks if k > judged)
            axes.axvspan(math.sqrt(judged * following), ks[-1] * 1.15, color="#f4f5f6", zorder=0)
    if judged < ks[-1]:
        place = {"transform": panels[0].get_xaxis_transform(), "ha": "right", "va": "bottom", "fontsize": 11}
        panels[0].text(ks[-1] * 1.12, 0.02, "k > n/2", color=MUTED, **place)
