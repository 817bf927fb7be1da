"""What each candidate gained at one sample against what it lost at many. Draws, never computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from odeval.plots.canvas import INK, MUTED, figure, form, margins, px
from odeval.plots.curves import Limit, points
from odeval.plots.style import legend_above, legend_rows, looks

_ACCEPT = "#e4f2ea"


def draw_tradeoff(
    comparison: dict[str, Any], shown: Sequence[str] | None = None, limits: Sequence[Limit] = (),
    scope: str = "population",
) -> Figure:  # fmt: skip
    """Draw each candidate as a point in a box: its difference at the smallest k across, at the largest judged k up.

    Args:
        comparison: From `compare`.
        shown: Candidates to draw.
        limits: Rules over the difference; they bound the accept region.
        scope: Which regions to draw.
    """
    style = looks(comparison, shown)
    found = drawn_points(comparison, list(style))
    named = [style[point["candidate"]] for point in found] if not form().direct else []
    rows = legend_rows(len(named))
    drawing = figure(430 + 18 * rows)
    axes = drawing.subplots()
    margins(drawing, 74, 22, 16 + 18 * rows, 54)
    legend_above(drawing, named)
    if not found:
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_axis_off()
        return drawing
    against, ks = found[0]["baseline"], found[0]["k"]
    anchors = [
        item for item in comparison["tradeoff"]["anchors"] if item["against"] == against and item["label"] in style
    ]
    bounds = _bounds(limits, against, ks)
    _frame(axes, found, anchors, bounds, scope)
    accept_region(axes, bounds)
    for point in found:
        look, box = style[point["candidate"]], point[scope]
        x, y = _hundred(point["difference"])
        left, low, right, high = (value for side in ("low", "high") for value in _hundred(box[side]))
        if None not in (left, low, right, high):
            corner, size = (left, low), (right - left, high - low)
            axes.add_patch(Rectangle(corner, *size, facecolor=look.color, alpha=0.16, linewidth=0))
            line = {"edgecolor": look.color, "linestyle": look.dash, "linewidth": px(1.1)}
            axes.add_patch(Rectangle(corner, *size, fill=False, **line))
        axes.plot([x], [y], marker=look.marker, color=look.color, markersize=px(8), linestyle="", zorder=4)
    for anchor in anchors:
        look = style[anchor["label"]]
        x, y = _hundred(anchor["difference"])
        axes.plot([x], [y], marker="o", color=look.color, markersize=px(8), linestyle="", zorder=4)
    origin = style[against]
    axes.plot([0], [0], marker=origin.marker, color=origin.color, markersize=px(8), linestyle="", zorder=4)
    _name(axes, [(style[point["candidate"]], _hundred(point["difference"])) for point in found if form().direct]
          + [(style[anchor["label"]], _hundred(anchor["difference"])) for anchor in anchors]
          + [(origin, [0.0, 0.0])])  # fmt: skip
    axes.set_xlabel(f"pass@{ks[0]}, difference to {origin.label}, points", parse_math=False)
    axes.set_ylabel(f"pass@{ks[1]}, difference to {origin.label}, points", parse_math=False)
    return drawing


def drawn_points(comparison: dict[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """One point a candidate, all against the same reference and at the same k: the baseline where there is one."""
    points = (comparison.get("tradeoff") or {}).get("points", ())
    points = [item for item in points if item["candidate"] in labels and item["baseline"] in labels]
    first = next((item for item in points if item["role"] == "baseline"), points[0] if points else None)
    return [item for item in points if first is not None and all(item[key] == first[key] for key in ("baseline", "k"))]


def _hundred(values: Sequence[float | None]) -> list[Any]:
    return [None if value is None else 100 * value for value in values]


def _bounds(limits: Sequence[Limit], against: str, ks: Sequence[int]) -> list[float | None]:
    """The strictest rule at either end, in points."""
    own = [[100 * limit.value for limit in limits if limit.against == against and k in limit.ks] for k in ks]
    return [max(found) if found else None for found in own]


def accept_region(axes: Any, bounds: Sequence[float | None]) -> None:
    """Shade where the rules hold, and draw their limits."""
    if bounds == [None, None]:
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    x, y = (end if bound is None else bound for bound, end in zip(bounds, (left, low), strict=True))
    axes.add_patch(Rectangle((x, y), right - x, high - y, facecolor=_ACCEPT, linewidth=0, zorder=0))
    dotted = {"color": INK, "linewidth": px(1.3), "linestyle": (0, (1, 2))}
    if bounds[0] is not None:
        axes.plot((x, x), (y, high), **dotted)
    if bounds[1] is not None:
        axes.plot((x, right), (y, y), **dotted)
    axes.annotate("accepted by the rules", (right, y), (px(-6), px(5)), textcoords="offset points", color=INK,
                  ha="right", va="bottom", fontsize=px(12), zorder=5, bbox=_halo())  # fmt: skip


def _frame(axes: Any, found: Sequence[dict[str, Any]], anchors: Sequence[dict[str, Any]],
           bounds: Sequence[float | None], scope: str) -> None:  # fmt: skip
    for place, fix in ((0, axes.set_xlim), (1, axes.set_ylim)):
        ends = [point[scope][side][place] for point in found for side in ("low", "high")]
        ends += [item["difference"][place] for item in (*found, *anchors)]
        known = [0.0, *(100 * value for value in ends if value is not None)]
        known += [bound for bound in bounds[place : place + 1] if bound is not None]
        room = max(0.09 * (max(known) - min(known)), 0.5)
        fix(min(known) - room, max(known) + room)
    for axis, line in ((axes.xaxis, axes.axvline), (axes.yaxis, axes.axhline)):
        line(0, color=MUTED, linewidth=px(1), zorder=1)
        axis.set_major_formatter(FuncFormatter(lambda value, _: points(value)))


def _name(axes: Any, entries: Sequence[tuple[Any, Sequence[float | None]]]) -> None:
    """Write each name beside its mark: right of it, or where no earlier name and no mark stands."""
    places = [axes.transData.transform(at) for _, at in entries if None not in at]
    taken: list[tuple[float, float, float, float]] = [(x - px(6), y - px(6), x + px(6), y + px(6)) for x, y in places]
    box = axes.get_window_extent()
    for (look, at), (x, y) in zip([entry for entry in entries if None not in entry[1]], places, strict=True):
        wide, high = px(7.6) * len(look.label), px(13)
        for dx, dy in ((9, -6), (-9, -6), (9, 8), (9, -20), (-9, 8), (-9, -20), (9, 22), (9, -34), (-9, 22), (-9, -34)):
            left = x + px(dx) if dx > 0 else x + px(dx) - wide
            own = (left, y + px(dy), left + wide, y + px(dy) + high)
            if own[0] < box.x0 or own[2] > box.x1 + px(20) or own[1] < box.y0 or own[3] > box.y1:
                continue
            if not any(_meet(own, other) for other in taken):
                break
        taken.append(own)
        axes.annotate(look.label, at, (px(dx), px(dy) + px(2)), textcoords="offset points", color=look.ink,
                      ha="left" if dx > 0 else "right", parse_math=False, zorder=5,
                      bbox=_halo())  # fmt: skip


def _halo() -> dict[str, Any]:
    """What keeps a name readable over lines."""
    return {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": px(0.5)}


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
