"""pass@k of every run over the paired difference, on one axis of k: all in one, or one column a candidate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from odeval.lookup import band_of, judged_ks, reference_pairs, run_of
from odeval.plots.canvas import INK, MUTED, figure, form, margins, px
from odeval.plots.style import CHANCE, Look, annotate_ends, ends_room, legend_above, legend_rows, looks

_TICKS = 12
_K_LABEL = "k, samples a user may draw per prompt (log scale)"


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


@dataclass(frozen=True, slots=True)
class _Panel:
    """What all panels of a figure share."""

    ks: list[int]
    judged: float
    scope: str
    limits: Sequence[Limit]


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
    floor = comparison.get("chance")
    named = [*style.values(), *([CHANCE] if floor else [])]
    rows = legend_rows(len(named))
    drawing = figure(520 + 18 * rows)
    top, bottom = drawing.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 2)})
    margins(drawing, 76, ends_room(), 13 + 18 * rows, 52, high=0.08)
    legend_above(drawing, named)
    pairs = reference_pairs(comparison, list(style))
    panel = _panel(comparison, pairs, limits, scope)
    ends = [(CHANCE.label, _floor(top, floor), CHANCE.ink)] if floor else []
    for run in comparison["runs"]:
        if (look := style.get(run["label"])) is not None:
            curve = run["pass_at_k"]
            ends.append((look.label, *_curve(top, look, curve, "value", curve if bands else None, panel.judged)))
    _fit(top, _shares(comparison, [run["label"] for run in comparison["runs"]]), 0.0, 100.0)
    _across_k((top, bottom), panel)
    top.set_ylabel("pass@k, % of prompts")
    annotate_ends(top, ends)
    _differences(bottom, pairs, style, panel)
    bottom.set_xlabel(_K_LABEL if form().width > 450 else "k, samples per prompt (log scale)")
    return drawing


def draw_objectives(
    comparison: dict[str, Any], shown: Sequence[str] | None = None, limits: Sequence[Limit] = (),
    scope: str = "population",
) -> Figure:  # fmt: skip
    """Draw one column a candidate: its pass@k beside the references, and below it the paired difference.

    Args:
        comparison: From `compare`.
        shown: Candidates to draw; by default as many as a figure holds.
        limits: Rules to draw into the differences.
        scope: Which band the difference gets.
    """
    style = looks(comparison, shown)
    pairs = reference_pairs(comparison, list(style))
    wide = 4 if form().width > 700 else 3 if form().direct else 2
    columns = min(max(len(pairs), 1), 2 if len(pairs) == 4 and wide == 3 else wide)
    rows = max(math.ceil(len(pairs) / columns), 1)
    references = [look for label, look in style.items() if label not in {pair["candidate"] for pair in pairs}]
    drawing = figure(rows * 300 + 66)
    grid = drawing.subplots(rows * 3, columns, squeeze=False, sharex=True,
                            gridspec_kw={"height_ratios": (5, 4, 1.15) * rows})  # fmt: skip
    margins(drawing, 80, 12, 58, 18, wide=0.12, high=0.12)
    panel = _panel(comparison, pairs, limits, scope)
    shares, floor = _shares(comparison, list(style)), comparison.get("chance")
    changes = _values_of(pairs, panel)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        top, bottom, gap = (grid[3 * row + part][column] for part in range(3))
        gap.set_axis_off()
        if place >= len(pairs):
            top.set_axis_off()
            bottom.set_axis_off()
            continue
        pair = pairs[place]
        look = style[pair["candidate"]]
        for label in (*(own for own in style if style[own] in references), pair["candidate"]):
            _curve(top, style[label], run_of(comparison, label)["pass_at_k"], "value", None, panel.judged)
        if floor:
            _floor(top, floor)
        _fit(top, shares, 0.0, 100.0)
        _across_k((top, bottom), panel, mark=False)
        bottom.axhline(0, color=MUTED, linewidth=px(1))
        _curve(bottom, look, pair["pass_at_k"], "difference", band_of(pair, scope), panel.judged)
        for limit in _drawn_limits([pair], panel):
            _limit_line(bottom, limit)
        _fit(bottom, changes)
        bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: points(value)))
        top.set_title(look.label, loc="left", color=look.ink, parse_math=False)
        for axes, label in ((top, "pass@k, %"), (bottom, "difference,\npoints")):
            axes.set_ylabel(label if column == 0 else "")
            axes.tick_params(labelleft=column == 0)
        top.tick_params(labelbottom=False)
        bottom.tick_params(labelbottom=True)
        bottom.set_xlabel("k, samples per prompt" if place + columns >= len(pairs) else "")
    if not pairs:
        drawing.text(0.5, 0.5, "nothing to compare with", ha="center", color=MUTED)
    legend_above(drawing, [*references, *([CHANCE] if floor else [])], always=True)
    return drawing


def _shares(comparison: dict[str, Any], labels: Sequence[str]) -> list[float | None]:
    """All that a panel of curves must hold."""
    found = [value for label in labels for value in run_of(comparison, label)["pass_at_k"]["value"]]
    return found + ((comparison.get("chance") or {}).get("value") or [])


def _floor(axes: Any, floor: dict[str, Any]) -> float:
    """Draw what guessing would score; return its end."""
    values = 100 * np.array(floor["value"], dtype=float)
    axes.plot(floor["k"], values, color=CHANCE.color, linestyle=CHANCE.dash, linewidth=px(CHANCE.width), zorder=1)
    return float(values[-1])


def _panel(comparison: dict[str, Any], pairs: Sequence[dict[str, Any]], limits: Sequence[Limit], scope: str) -> _Panel:
    judged = max((k for pair in pairs for k in judged_ks(pair, scope)), default=math.inf)
    return _Panel(comparison["settings"]["ks"], judged, scope, limits)


def _differences(axes: Any, pairs: Sequence[dict[str, Any]], style: dict[str, Look], panel: _Panel) -> None:
    axes.axhline(0, color=MUTED, linewidth=px(1))
    ends = [(f"= {style[pairs[0]['baseline']].label}", 0.0, MUTED)] if pairs else []
    for pair in pairs:
        look, curve, band = style[pair["candidate"]], pair["pass_at_k"], band_of(pair, panel.scope)
        ends.append((look.label, *_curve(axes, look, curve, "difference", band, panel.judged)))
    for limit in _drawn_limits(pairs, panel):
        words = f"rule: at least {points(100 * limit.value)}"
        ends.append((words, 100 * limit.value, INK))
        _limit_line(axes, limit)
        if not form().direct:
            axes.annotate(words, (panel.ks[0], 100 * limit.value), (0, px(-3)), textcoords="offset points", va="top")
    _fit(axes, _values_of(pairs, panel))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: points(value)))
    axes.set_ylabel("paired difference,\npoints")
    if not pairs:
        axes.text(0.5, 0.5, "nothing to compare with", transform=axes.transAxes, ha="center", color=MUTED)
    annotate_ends(axes, ends)


def _drawn_limits(pairs: Sequence[dict[str, Any]], panel: _Panel) -> list[Limit]:
    against = {pair["baseline"] for pair in pairs}
    own = {(limit.value, limit.ks): limit for limit in panel.limits if limit.ks and limit.against in against}
    return [own[key] for key in sorted(own)]


def _values_of(pairs: Sequence[dict[str, Any]], panel: _Panel) -> list[float | None]:
    """All that a panel of differences must hold."""
    found: list[float | None] = [0.0, *(limit.value for limit in _drawn_limits(pairs, panel))]
    for pair in pairs:
        band = band_of(pair, panel.scope)
        found += [*pair["pass_at_k"]["difference"], *band["low"], *band["high"]]
    return found


def _limit_line(axes: Any, limit: Limit) -> None:
    if len(limit.ks) == 1:
        axes.plot(limit.ks, [100 * limit.value], marker="_", color=INK, markersize=px(16))
    else:
        ends = (limit.ks[0], limit.ks[-1])
        axes.plot(ends, [100 * limit.value] * 2, color=INK, linewidth=px(1.4), linestyle=(0, (1, 2)))


def points(value: float) -> str:
    """A difference in points, as an axis says it."""
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
    marks = {"marker": look.marker, "markersize": px(5.5), "color": look.color, "markeredgewidth": px(1)}
    axes.plot(ks[beyond], values[beyond], linestyle=(0, (2, 2.5)), linewidth=px(1.2), **marks, markerfacecolor="white")
    axes.plot(ks[inside], values[inside], linestyle=look.dash, linewidth=px(look.width), **marks)
    known = values[np.isfinite(values)]
    return (float(known[-1]) if len(known) else math.nan), look.ink


def _fit(axes: Any, values: Sequence[float | None], low: float = -math.inf, high: float = math.inf) -> None:
    """Show what is there with a little room, never beyond what is possible; the axis need not start at 0."""
    known = [100 * value for value in values if value is not None]
    if not known:
        axes.set_ylim(0, 100)
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=MUTED)
        return
    room = max(0.06 * (max(known) - min(known)), 0.5)
    axes.set_ylim(max(low - 1.5, min(known) - room), min(high + 1.5, max(known) + room))


def _across_k(panels: Sequence[Any], panel: _Panel, mark: bool = True) -> None:
    """One log axis with ticks at the evaluated k; what lies beyond n/2 is marked once."""
    ks, judged = panel.ks, panel.judged
    powers = [k for k in ks if k & (k - 1) == 0]
    ticks = list(ks) if len(ks) <= _TICKS else powers
    if not mark:
        ticks = ticks[:: max(1, -(-len(ticks) // 4))]
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xlim(ks[0] / 1.15, ks[-1] * 1.15)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if judged < ks[-1]:
            following = min(k for k in ks if k > judged)
            axes.axvspan(math.sqrt(judged * following), ks[-1] * 1.15, color="#f4f5f6", zorder=0)
    if judged < ks[-1] and mark:
        place = {"transform": panels[0].get_xaxis_transform(), "ha": "right", "va": "bottom", "fontsize": px(11)}
        panels[0].text(ks[-1] * 1.12, 0.02, "k > n/2", color=MUTED, **place)
