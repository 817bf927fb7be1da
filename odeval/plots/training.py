"""How the candidates were trained: odkd's own log, one small panel a quantity. Draws, never computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from odeval.lookup import run_of
from odeval.plots.canvas import MUTED, figure, margins, px
from odeval.plots.families import legend_top
from odeval.plots.style import Look, legend_above, looks

_PANELS = {
    "forward_kl": "forward KL, nats",
    "reverse_kl": "reverse KL, nats",
    "student_entropy": "entropy, nats (thin: teacher)",
    "retention": "high-entropy tokens kept, %",
}


def draw_training(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> Figure:
    """Draw divergences, entropies, retention and probes over the updates of each candidate's training, as logged.

    Args:
        comparison: From `compare`; runs hold `training`.
        shown: Candidates to draw.
    """
    style = looks(comparison, shown)
    found = [(style[label], told) for label, told in trained(comparison, list(style))]
    probed = [(look, told["probes"]) for look, told in found if told["probes"]]
    kinds = [*_PANELS, *(["probe 0", "probe 1"] if probed else [])] if found else []
    rows = max(1, len(kinds) // 2)
    top = legend_top([look for look, _ in found])
    drawing = figure(rows * 180 + 50 + top)
    panels = drawing.subplots(rows, 2, squeeze=False, sharex=True).ravel()
    margins(drawing, 62, 12, top + 22, 54, wide=0.24, high=0.34)
    legend_above(drawing, [look for look, _ in found], always=True)
    for axes, kind in zip(panels, kinds, strict=False):
        if kind.startswith("probe"):
            _probe(axes, probed, int(kind[-1]))
            continue
        axes.set_title(_PANELS[kind], loc="left", color=MUTED)
        for look, told in found:
            scale = 100.0 if kind == "retention" else 1.0
            _line(axes, look, told["history"]["step"], told["history"][kind], scale)
            if kind == "student_entropy":
                _line(axes, look, told["history"]["step"], told["history"]["teacher_entropy"], thin=True)
    for axes in panels[-2:]:
        axes.set_xlabel("updates")
    if not found:
        panels[0].text(0.5, 0.5, "not known", transform=panels[0].transAxes, ha="center", color=MUTED)
    return drawing


def trained(comparison: dict[str, Any], labels: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Runs whose training is known, in the order of drawing."""
    pairs = [(label, run_of(comparison, label).get("training")) for label in labels]
    return [(label, told) for label, told in pairs if told]


def _probe(axes: Any, probed: Sequence[tuple[Look, dict[str, Any]]], place: int) -> None:
    ks = [told["pass_at_k"][min(place, len(told["pass_at_k"]) - 1)]["k"] for _, told in probed]
    names = " and ".join(f"pass@{'k' if k is None else k}" for k in dict.fromkeys(ks))
    axes.set_title(f"{names} of probes, %", loc="left", color=MUTED)
    for look, told in probed:
        columns = told["pass_at_k"][min(place, len(told["pass_at_k"]) - 1)]
        _line(axes, look, told["step"], columns["value"], 100.0)


def _line(
    axes: Any, look: Look, steps: Sequence[int], values: Sequence[float | None], scale: float = 1.0, thin: bool = False
) -> None:
    y = scale * np.array(values, dtype=float)
    if thin:
        axes.plot(steps, y, color=look.color, linestyle="-", linewidth=px(0.7))
        return
    every = max(1, len(y) // 6)
    axes.plot(steps, y, color=look.color, linestyle=look.dash, linewidth=px(1.4), marker=look.marker,
              markersize=px(5), markevery=every)  # fmt: skip
