"""What all figures share: one look per run, and names that do not overlap.

Colours are those of Okabe and Ito, told apart by colour-blind readers; marker and line style tell the same in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from odeval.plots.canvas import INK, MUTED, form, px
from odeval.visible import shortened

_LABEL = 16  # characters of a run's name in a figure
_GAP = 16.0  # design pixels between the middles of two labels


@dataclass(frozen=True, slots=True)
class Look:
    """How a run is drawn on every figure.

    Attributes:
        label: Its name, safe and short.
        color: Of lines and marks.
        ink: Of text: the same hue, dark enough to read on white.
        marker: Its mark.
        dash: Its line style.
        width: Of its line.
    """

    label: str
    color: str
    ink: str
    marker: str
    dash: Any
    width: float


_TEACHER = ("#000000", INK, "o", "-", 2.0)
_BASELINE = ("#8a8d91", MUTED, "D", "-", 1.4)
_CANDIDATES = (
    ("#d55e00", "#b04700", "s", (0, (7, 2)), 1.9),
    ("#0072b2", "#0066a1", "^", (0, (7, 2, 1.5, 2)), 1.9),
    ("#009e73", "#00714f", "v", (0, (2, 1.5)), 1.9),
    ("#cc79a7", "#9c3f74", "P", "-", 1.9),
    ("#e69f00", "#8a5f00", "X", (0, (7, 2, 1.5, 2, 1.5, 2)), 1.9),
    ("#56b4e9", "#1f6f9f", "p", (0, (3, 3)), 1.9),
)
MOST_CANDIDATES = len(_CANDIDATES)
CHANCE = Look("chance", MUTED, MUTED, "", (0, (1, 2)), 1.6)


def looks(comparison: dict[str, Any], shown: Sequence[str] | None = None) -> dict[str, Look]:
    """Give each drawn run its look: teacher, baseline, and as many candidates as a figure can hold.

    Args:
        comparison: From `compare`.
        shown: Labels of the candidates to draw; by default the first ones.

    Returns:
        Label in the comparison → look, in the order of drawing.
    """
    names = [run["label"] for run in comparison["runs"] if run["role"] == "candidate"]
    drawn = [name for name in names if shown is None or name in shown][:MOST_CANDIDATES]
    by_role = {"teacher": _TEACHER, "baseline": _BASELINE}
    found = {
        run["label"]: Look(shortened(run["label"], _LABEL), *by_role[run["role"]])
        for run in comparison["runs"]
        if run["role"] in by_role
    }
    places = names if len(names) <= MOST_CANDIDATES else drawn  # drawn alone, a candidate keeps its look
    return found | {name: Look(shortened(name, _LABEL), *_CANDIDATES[places.index(name)]) for name in drawn}


def ends_room() -> float:
    """Design pixels that names beside the curves take."""
    return 154 if form().direct else 10


def legend_rows(count: int) -> int:
    """Lines of the legend that stands in for names beside the curves; none where those have room."""
    return 0 if form().direct else -(-count // 2)


def legend_above(drawing: Figure, entries: Sequence[Look], always: bool = False) -> None:
    """Name the curves above the panels, where there is no room beside them."""
    if not entries or not (always or legend_rows(len(entries))):
        return
    handles = [line_of(look) for look in entries]
    place = {"loc": "upper left", "bbox_to_anchor": (0.0, 1.0), "ncols": legend_columns(), "handlelength": 3.0}
    name_all(drawing.legend(handles, ["-"] * len(handles), **place, borderpad=0.1, labelspacing=0.25), entries)


def legend_columns() -> int:
    """Names that fit beside each other."""
    return max(2, int(form().width // 185))


def line_of(look: Look) -> Line2D:
    """A run's line, for a legend."""
    return Line2D([], [], color=look.color, linestyle=look.dash, linewidth=px(look.width), marker=look.marker,
                  markersize=px(5))  # fmt: skip


def name_all(legend: Any, entries: Sequence[Look]) -> None:
    """Write names afterwards: as a label, one with a leading underscore would vanish and "$" would start a formula."""
    for text, look in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(look.label)
        text.set_color(look.ink)


def annotate_ends(axes: Any, entries: Sequence[tuple[str, float, str]]) -> None:
    """Write names in the right margin, each at its height or as near as its neighbours allow.

    Args:
        axes: With final limits.
        entries: (text, height in data units, colour); heights that are not finite are left out.
    """
    if not form().direct:
        return
    known = sorted((entry for entry in entries if entry[1] == entry[1]), key=lambda entry: entry[1])
    if not known:
        return
    box = axes.get_window_extent()
    wanted = [float(axes.transData.transform((1, height))[1]) for _, height, _ in known]
    placed = _spread(wanted, px(_GAP), box.y0, box.y1)
    for (text, _, color), own, at in zip(known, wanted, placed, strict=True):
        start, end = (own - box.y0) / box.height, (at - box.y0) / box.height
        axes.plot((1.005, 1.03), (start, end), transform=axes.transAxes, color=color, linewidth=px(0.7), clip_on=False)
        axes.text(1.038, end, text, transform=axes.transAxes, color=color, va="center_baseline", parse_math=False)


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move sorted heights apart by at least `gap`, inside [low, high] where they fit, each as little as possible."""

    def middle(block: Sequence[float]) -> float:
        room = gap * (len(block) - 1) / 2
        return min(max(sum(block) / len(block), low + room), max(high - room, low + room))

    blocks: list[list[float]] = []
    for place in wanted:
        blocks.append([place])
        while len(blocks) > 1:
            below, above = blocks[-2:]
            if middle(above) - middle(below) >= gap * (len(above) + len(below)) / 2:
                break
            blocks[-2:] = [below + above]
    return [middle(block) + gap * (i - (len(block) - 1) / 2) for block in blocks for i in range(len(block))]
