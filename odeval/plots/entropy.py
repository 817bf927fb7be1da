"""How uncertain teacher and students are at the tokens of the same texts. Draws, never computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from odeval.plots.canvas import MUTED, figure, margins, px
from odeval.plots.style import Look, legend_above, legend_columns, line_of, looks, name_all

_BANDS = 4  # curves whose intervals can be drawn over each other


def draw_entropy(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw the share of tokens above each entropy, teacher and students in the same contexts, with the threshold τ.

    Args:
        comparison: From `compare`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    drawing = figure(380)
    axes = drawing.subplots()
    margins(drawing, 67, 9, 13, 53)
    curves = survivals(comparison, style)
    for look, entropy, shares in curves:
        known = np.isfinite(shares)
        shares = np.maximum(shares[known], 1e-9)  # a curve that ends falls out of the panel instead of stopping in it
        axes.plot(entropy[known], 100 * shares, color=look.color, linestyle=look.dash, linewidth=px(look.width),
                  marker=look.marker, markersize=px(5), markevery=(len(axes.lines) % 4, 6))  # fmt: skip
    if len(curves) <= _BANDS:
        _bands(axes, comparison, style)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    seen = [shares[np.isfinite(shares) & (shares > 1e-4)] for _, _, shares in curves]
    floor = min((float(part.min()) for part in seen if len(part)), default=1e-3)
    axes.set_ylim(100 * max(floor, 1e-4) / 1.3, 140)
    last = [entropy[: len(shares)][shares > 1e-4] for _, entropy, shares in curves]
    axes.set_xlim(0, max((float(part[-1]) for part in last if len(part)), default=3.0) * 1.04)
    threshold = comparison["settings"]["threshold"]
    axes.axvline(threshold, color=MUTED, linewidth=px(1.2), linestyle=(0, (2, 2)))
    at = axes.get_xaxis_transform()
    axes.annotate(f"τ = {threshold:g}", (threshold, 0.025), (px(5), 0), at, "offset points", color=MUTED)
    axes.set(xlabel="token entropy, nats", ylabel="tokens above it, % (log scale)")
    if not curves:
        axes.text(0.5, 0.5, "no run is scored", transform=axes.transAxes, ha="center", color=MUTED)
        return drawing
    handles = [line_of(look) for look, _, _ in curves]
    legend = axes.legend(handles, ["-"] * len(handles), loc="upper right", handlelength=3.2)
    name_all(legend, [look for look, _, _ in curves])
    return drawing


def _bands(axes: Any, comparison: dict[str, Any], style: dict[str, Look]) -> None:
    """Intervals over prompts, on their coarser grid."""
    runs = [run for run in comparison["runs"] if run["label"] in style and run["survival"].get("teacher")]
    teacher = next((style[run["label"]] for run in comparison["runs"] if run["role"] == "teacher"), None)
    wanted = [(teacher, run, "teacher_survival@teacher") for run in runs[:1] if teacher is not None]
    wanted += [(style[run["label"]], run, "student_survival@teacher") for run in runs]
    for look, run, name in wanted:
        family = (run.get("families") or {}).get(name)
        if family:
            low, high = (100 * np.maximum(np.array(family[side], dtype=float), 1e-9) for side in ("low", "high"))
            axes.fill_between(family["grid"], low, high, color=look.color, alpha=0.12, linewidth=0)


def survivals(comparison: dict[str, Any], style: dict[str, Look]) -> list[tuple[Look, np.ndarray, np.ndarray]]:
    """Collect the survival curves in the teacher's contexts: (look, entropy [B], share [B]), the teacher's first."""
    teacher = next((style[run["label"]] for run in comparison["runs"] if run["role"] == "teacher"), None)
    found: list[tuple[Look, np.ndarray, np.ndarray]] = []
    for run in comparison["runs"]:
        curves = run["survival"].get("teacher")
        if curves is None or run["label"] not in style:
            continue
        entropy = np.array(run["survival"]["entropy"], dtype=float)
        if teacher is not None and not found:
            found.append((teacher, entropy, np.array(curves["teacher"], dtype=float)))
        found.append((style[run["label"]], entropy, np.array(curves["student"], dtype=float)))
    return found


def draw_retention(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw which share of the teacher's branch points each student keeps open, at each threshold τ.

    Args:
        comparison: From `compare`; runs hold `families`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    kept = [(look, family) for label, look in style.items() if (family := retention_of(comparison, label))]
    rows = -(-len(kept) // legend_columns())
    drawing = figure(317 + 18 * rows)
    axes = drawing.subplots()
    margins(drawing, 67, 12, 12 + 20 * rows, 70)
    axes.set(xlabel="threshold τ of a branch point, nats", ylabel="branch points kept, %", ylim=(0, 103))
    if not kept:
        axes.text(0.5, 0.5, "no run is scored", transform=axes.transAxes, ha="center", color=MUTED)
        return drawing
    legend_above(drawing, [look for look, _ in kept], always=True)
    grid = sorted({value for _, family in kept for value in family["grid"]})
    room = min(np.diff(grid), default=1.0)
    for place, (look, family) in enumerate(kept):
        order = np.argsort(family["grid"])
        x = np.array(family["grid"])[order] + room * 0.09 * (place - (len(kept) - 1) / 2)
        value, low, high = (100 * np.array(family[key], dtype=float)[order] for key in ("value", "low", "high"))
        marks: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": px(5.5)}
        axes.plot(x, value, linestyle=look.dash, linewidth=px(look.width), **marks)
        axes.vlines(x, low, high, color=look.color, linewidth=px(1.2))
    ticks = _apart(grid)
    axes.set_xticks(list(ticks), ["\n".join(f"{value:g}" for value in own) for own in ticks.values()])
    return drawing


def _apart(grid: Sequence[float]) -> dict[float, list[float]]:
    """Ticks whose labels would run into each other share one place: place → thresholds."""
    found: dict[float, list[float]] = {}
    for value in grid:
        last = next(reversed(found), None)
        if last is not None and value - last < 0.09 * (grid[-1] - grid[0]):
            found[last].append(value)
        else:
            found[value] = [value]
    return found


def retention_of(comparison: dict[str, Any], label: str) -> dict[str, Any] | None:
    """A run's retention by threshold in the teacher's contexts."""
    run = next(run for run in comparison["runs"] if run["label"] == label)
    found: dict[str, Any] | None = (run.get("families") or {}).get("retention_by_threshold@teacher")
    return found
