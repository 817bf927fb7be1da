"""Curves over k, tokens or samples that a comparison holds beside pass@k. Draws, never computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from odeval.lookup import pair_of, run_of
from odeval.plots.canvas import MUTED, figure, margins, px
from odeval.plots.style import Look, legend_above, legend_columns, looks

RELIABILITY = {
    "pass_hat_k": "all of k right, %",
    "g_pass_at_k": "≥ half of k right, %",
    "majority_at_k": "commonest of k right, %",
    "best_of_k": "best-rewarded right, %",
}


def supported(columns: dict[str, Any]) -> np.ndarray:
    """Points of a curve that at least half of its first point's prompts stand behind: others are of other prompts."""
    known = np.array([value is not None for value in columns["value"]], dtype=bool)
    counts = np.array(columns.get("n") or [1] * len(known), dtype=float)
    found: np.ndarray = known & (2 * counts >= counts[0] if len(counts) else known)
    return found


def band_line(axes: Any, look: Look, grid: Sequence[float], columns: dict[str, Any], scale: float = 100.0) -> None:
    """Draw one curve with its intervals, as far as it is supported."""
    used = supported(columns)
    x = np.array(grid, dtype=float)[used]
    value, low, high = (scale * np.array(columns[key], dtype=float)[used] for key in ("value", "low", "high"))
    axes.fill_between(x, low, high, color=look.color, alpha=0.13, linewidth=0)
    axes.plot(x, value, color=look.color, linestyle=look.dash, linewidth=px(look.width), marker=look.marker,
              markersize=px(5))  # fmt: skip


def along_powers(axes: Any, grid: Sequence[float], most: int = 7) -> None:
    """A log axis with ticks at powers of two."""
    ticks = [x for x in grid if x >= 1 and float(x).is_integer() and int(x) & (int(x) - 1) == 0] or list(grid)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: max(1, -(-len(ticks) // most))]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def legend_top(named: Sequence[Look]) -> float:
    """Design pixels that a legend above all takes."""
    return 20 * -(-len(named) // legend_columns()) + 12


def draw_reliability(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw how dependable k completions are: all right, half right, the commonest right.

    Args:
        comparison: From `compare`; runs hold `families`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    runs = [(look, run_of(comparison, label).get("families") or {}) for label, look in style.items()]
    kinds = [kind for kind in RELIABILITY if any(kind in families for _, families in runs)]
    rows, columns = max(1, -(-len(kinds) // 2)), min(2, max(1, len(kinds)))
    top = legend_top(list(style.values()))
    drawing = figure(rows * 215 + 50 + top)
    panels = drawing.subplots(rows, columns, squeeze=False).ravel()
    margins(drawing, 62, 12, top + 22, 54, wide=0.22, high=0.42)
    legend_above(drawing, list(style.values()), always=True)
    for axes in panels[len(kinds) :]:
        axes.set_axis_off()
    for axes, kind in zip(panels, kinds, strict=False):
        axes.set_title(RELIABILITY[kind], loc="left", color=MUTED)
        for look, families in runs:
            if kind in families:
                band_line(axes, look, families[kind]["grid"], families[kind])
        along_powers(axes, next(families[kind]["grid"] for _, families in runs if kind in families))
    for axes in panels[max(0, len(kinds) - columns) : len(kinds)]:
        axes.set_xlabel("k (log scale)")
    if not kinds:
        panels[0].text(0.5, 0.5, "not known", transform=panels[0].transAxes, ha="center", color=MUTED)
    return drawing


def draw_exposure(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw how much error comes from the student's own earlier tokens, by position.

    Args:
        comparison: From `compare`; pairs with the teacher hold `exposure_bias`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    found = exposed(comparison, list(style))
    named = [style[pair["candidate"]] for pair in found]
    drawing = figure(290 + legend_top(named))
    axes = drawing.subplots()
    margins(drawing, 92, 12, legend_top(named), 54)
    legend_above(drawing, named, always=True)
    axes.axhline(0, color=MUTED, linewidth=px(1))
    axes.set(xlabel="tokens of a completion (log scale)", ylabel="error added by the\nstudent's own tokens, %")
    for look, pair in zip(named, found, strict=True):
        band_line(axes, look, pair["exposure_bias"]["tokens"], pair["exposure_bias"])
        along_powers(axes, pair["exposure_bias"]["tokens"])
    if not found:
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=MUTED)
    return drawing


def exposed(comparison: dict[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs with the teacher whose exposure bias is known."""
    pairs = [pair for label in labels if (pair := pair_of(comparison, label, "teacher"))]
    found = [(pair, (pair.get("exposure_bias") or {}).get("tokens")) for pair in pairs]
    return [pair for pair, tokens in found if tokens and None not in tokens]


def draw_extrapolation(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw pass@k as measured, and dotted beyond n what two models of the solve rates make of it; no rule reads that.

    Args:
        comparison: From `compare`; runs hold `extrapolation`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    found = [(style[run["label"]], run) for run in extrapolated(comparison, list(style))]
    named = [look for look, _ in found]
    drawing = figure(340 + legend_top(named))
    axes = drawing.subplots()
    margins(drawing, 66, 12, legend_top(named), 54)
    legend_above(drawing, named, always=True)
    axes.set(xlabel="k (log scale); dotted: extrapolated", ylabel="pass@k, % of prompts")
    for look, run in found:
        band_line(axes, look, run["pass_at_k"]["k"], run["pass_at_k"])
        further = run["extrapolation"]
        low, high = (100 * np.array(further[key], dtype=float) for key in ("value", "without_zeros"))
        axes.fill_between(further["k"], low, high, color=look.color, alpha=0.13, linewidth=0)
        axes.plot(further["k"], low, color=look.color, linestyle=(0, (1, 2)), linewidth=px(1.6))
        along_powers(axes, [*run["pass_at_k"]["k"], *further["k"]])
    if not found:
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=MUTED)
    return drawing


def extrapolated(comparison: dict[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Runs with a curve beyond n."""
    return [run for run in comparison["runs"] if run["label"] in labels and run.get("extrapolation")]
