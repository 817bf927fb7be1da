"""Comparison → figures. Draws, never computes: each position is a number of comparison.json.

FIGURES is the index: kind → function from a comparison to a matplotlib figure. `svg` gives a figure as text for a
page, `save` writes it to a file. Labels P prompts, K values of k. No windows, no global pyplot state.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from odeval.atomic import write_bytes, write_text
from odeval.errors import OdevalError, unknown
from odeval.plot_style import (
    INK,
    LOST,
    MUTED,
    RULE,
    Look,
    annotate_ends,
    figure,
    looks,
    styled,
    write_png,
    write_svg,
)
from odeval.visible import visible

_BANDS = 3  # candidates up to which every run's own interval is drawn; more would hide each other
_TICKS = 12
_VECTOR_POINTS = 1500  # a scatter of more is drawn as pixels, so that no page grows with the number of prompts


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


def reference(comparison: dict[str, Any]) -> str:
    """Which role the differences are shown against: the baseline where there is one, else the teacher."""
    return "baseline" if any(pair["role"] == "baseline" for pair in comparison["pairs"]) else "teacher"


def draw_passk(
    comparison: dict[str, Any], shown: Sequence[str] | None = None, limits: Sequence[Limit] = ()
) -> Figure:
    """Draw pass@k of every run over the paired difference to the reference, on one axis of k.

    Args:
        comparison: From `compare`.
        shown: Candidates to draw; by default as many as a figure holds.
        limits: Rules to draw into the difference.
    """
    style = looks(comparison, shown)
    drawing = figure(540)
    top, bottom = drawing.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 2)})
    drawing.subplots_adjust(left=0.105, right=0.755, top=0.97, bottom=0.095, hspace=0.09)
    pairs = [p for p in comparison["pairs"] if p["role"] == reference(comparison) and p["candidate"] in style]
    judged = max((k for p in pairs for k in p["pass_at_k"]["population"]["covariance"]["k"]), default=math.inf)
    ks = comparison["settings"]["ks"]
    crowded = len(style) > _BANDS + 2
    ends = []
    for run in comparison["runs"]:
        if (look := style.get(run["label"])) is not None:
            curve = run["pass_at_k"]
            ends.append((look.label, *_curve(top, look, curve, "value", None if crowded else curve, judged)))
    _limits_of(top, [value for run in comparison["runs"] for value in run["pass_at_k"]["value"]], 0.0, 100.0)
    _across_k(drawing, (top, bottom), ks, judged)
    top.set_ylabel("pass@k, % of prompts")
    annotate_ends(top, ends)
    _differences(bottom, pairs, style, limits, judged)
    bottom.set_xlabel("k, samples a user may draw per prompt (log scale)")
    return drawing


def _differences(
    axes: Any, pairs: Sequence[dict[str, Any]], style: dict[str, Look], limits: Sequence[Limit], judged: float
) -> None:
    axes.axhline(0, color=INK, linewidth=1)
    ends = []
    values: list[float | None] = [0.0]
    for pair in pairs:
        look, curve = style[pair["candidate"]], pair["pass_at_k"]
        ends.append((look.label, *_curve(axes, look, curve, "difference", curve["population"], judged)))
        values += [*curve["difference"], *curve["population"]["low"], *curve["population"]["high"]]
    drawn = {(limit.value, limit.ks) for limit in limits if limit.ks and any(limit.against == p["baseline"] for p in pairs)}
    for value, where in sorted(drawn):
        values.append(value)
        axes.plot((where[0], where[-1]), (100 * value, 100 * value), color=LOST, linewidth=1.3, linestyle=(0, (1.5, 1.5)))
        if len(where) == 1:
            axes.plot(where, [100 * value], marker="_", color=LOST, markersize=14)
        ends.append((f"rule: {_points(100 * value)}", 100 * value, LOST))
    _limits_of(axes, values)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _points(value)))
    against = style[pairs[0]["baseline"]].label if pairs else "reference"
    axes.set_ylabel(f"minus {against},\npoints", parse_math=False)
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


def draw_lost(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw each prompt's solve rate under the reference and under the candidate; a lost prompt is a cross.

    Args:
        comparison: From `compare`; runs hold `counts` in the order of `prompt_ids`.
        shown: Candidates to draw, one panel each.
    """
    style = looks(comparison, shown)
    runs = {run["label"]: run for run in comparison["runs"]}
    role = "teacher" if any(run["role"] == "teacher" for run in comparison["runs"]) else "baseline"
    pairs = [pair for pair in comparison["pairs"] if pair["role"] == role and pair["candidate"] in style]
    columns = min(max(len(pairs), 1), 2)
    rows = max(math.ceil(len(pairs) / columns), 1)
    side = 400 if columns == 1 else 300
    height = rows * side + 50
    drawing = figure(height)
    panels = drawing.subplots(rows, columns, squeeze=False).ravel()
    drawing.subplots_adjust(
        left=0.11, right=0.985 if columns == 2 else 0.72, top=1 - 34 / height, bottom=52 / height, wspace=0.24, hspace=0.34
    )
    for axes in panels[len(pairs) :]:
        axes.set_axis_off()
    for place, (axes, pair) in enumerate(zip(panels, pairs, strict=False)):
        _rates(axes, runs[pair["baseline"]].get("counts"), runs[pair["candidate"]].get("counts"))
        axes.set_title(style[pair["candidate"]].label, loc="left", color=style[pair["candidate"]].ink, parse_math=False)
        if place % columns == 0:
            axes.set_ylabel("solved by the candidate, %")
        if place + columns >= len(pairs):
            axes.set_xlabel(f"solved by {style[pair['baseline']].label}, %", parse_math=False)
    return drawing


def _rates(axes: Any, base: dict[str, Any] | None, own: dict[str, Any] | None) -> None:
    axes.set(xlim=(-4, 104), ylim=(-4, 104), aspect="equal", xticks=range(0, 101, 25), yticks=range(0, 101, 25))
    axes.plot((0, 100), (0, 100), color=RULE, linewidth=1.2, zorder=1)
    if base is None or own is None:
        axes.text(0.5, 0.5, "counts per prompt are not known", transform=axes.transAxes, ha="center", color=MUTED)
        return
    columns = zip(base["n"], base["c"], own["n"], own["c"], strict=True)
    places = Counter((100 * c / n, 100 * d / m) for n, c, m, d in columns if n and m and c is not None and d is not None)
    lost = {place: count for place, count in places.items() if place[1] == 0 < place[0]}
    kept = {place: count for place, count in places.items() if place not in lost}
    pixels = len(places) > _VECTOR_POINTS
    for count in sorted(set(kept.values()), reverse=True):
        x, y = zip(*(place for place, found in kept.items() if found == count), strict=True)
        axes.plot(x, y, "o", color="#0072b2", alpha=0.45, markersize=4.5 * math.sqrt(count), markeredgewidth=0, rasterized=pixels)
    if lost:
        x, y = zip(*lost, strict=True)
        axes.plot(x, y, "x", color=LOST, markersize=6, markeredgewidth=1.6, zorder=3, clip_on=False, rasterized=pixels)


def draw_entropy(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw the share of tokens above each entropy, teacher and students in the same contexts, with the threshold τ.

    Args:
        comparison: From `compare`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    drawing = figure(400)
    axes = drawing.subplots()
    drawing.subplots_adjust(left=0.105, right=0.985, top=0.965, bottom=0.13)
    curves = survivals(comparison, style)
    for look, entropy, shares in curves:
        known = np.isfinite(shares) & (shares > 1e-9)
        axes.plot(entropy[known], 100 * shares[known], color=look.color, linestyle=look.dash, linewidth=look.width,
                  marker=look.marker, markersize=5, markevery=(len(axes.lines) % 4, 6))  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    seen = [shares[np.isfinite(shares) & (shares > 1e-4)] for _, _, shares in curves]
    floor = min((float(part.min()) for part in seen if len(part)), default=1e-3)
    axes.set_ylim(100 * max(floor, 1e-4) / 1.3, 140)
    last = [entropy[: len(shares)][shares > 1e-4] for _, entropy, shares in curves]
    axes.set_xlim(0, max((float(part[-1]) for part in last if len(part)), default=3.0) * 1.04)
    threshold = comparison["settings"]["threshold"]
    axes.axvline(threshold, color=MUTED, linewidth=1.2, linestyle=(0, (2, 2)))
    axes.text(threshold, 0.025, f" τ = {threshold:g}", transform=axes.get_xaxis_transform(), color=MUTED)
    axes.set(xlabel="token entropy, nats", ylabel="tokens above it, % (log scale)")
    if not curves:
        axes.text(0.5, 0.5, "no run is scored", transform=axes.transAxes, ha="center", color=MUTED)
        return drawing
    handles = [Line2D([], [], color=k.color, linestyle=k.dash, linewidth=k.width, marker=k.marker, markersize=5) for k, _, _ in curves]
    # Text set afterwards: as a label, a name with a leading underscore would vanish and "$" would start a formula.
    legend = axes.legend(handles, ["-"] * len(handles), loc="upper right", handlelength=3.2)
    for text, (look, _, _) in zip(legend.get_texts(), curves, strict=True):
        text.set_parse_math(False)
        text.set_text(look.label)
        text.set_color(look.ink)
    return drawing


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
            write_text(path, write_svg(drawing, kind, visible(kind), ""))
        else:
            write_bytes(path, write_png(drawing))
    return path
