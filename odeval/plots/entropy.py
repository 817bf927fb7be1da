"""How uncertain teacher and students are at the tokens of the same texts. Draws, never computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from odeval.plots.style import MUTED, Look, figure, looks


def draw_entropy(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw the share of tokens above each entropy, teacher and students in the same contexts, with the threshold τ.

    Args:
        comparison: From `compare`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    drawing = figure(380)
    axes = drawing.subplots()
    drawing.subplots_adjust(left=0.12, right=0.985, top=0.965, bottom=0.14)
    curves = survivals(comparison, style)
    for look, entropy, shares in curves:
        known = np.isfinite(shares)
        shares = np.maximum(shares[known], 1e-9)  # a curve that ends falls out of the panel instead of stopping in it
        axes.plot(entropy[known], 100 * shares, color=look.color, linestyle=look.dash, linewidth=look.width,
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
    at = axes.get_xaxis_transform()
    axes.annotate(f"τ = {threshold:g}", (threshold, 0.025), (5, 0), at, "offset points", color=MUTED)
    axes.set(xlabel="token entropy, nats", ylabel="tokens above it, % (log scale)")
    if not curves:
        axes.text(0.5, 0.5, "no run is scored", transform=axes.transAxes, ha="center", color=MUTED)
        return drawing
    handles = [
        Line2D([], [], color=look.color, linestyle=look.dash, linewidth=look.width, marker=look.marker, markersize=5)
        for look, _, _ in curves
    ]
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
