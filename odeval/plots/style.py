"""What all figures share: one look per run, labels that do not overlap, and SVG that may stand inside a page.

Colours are those of Okabe and Ito, told apart by colour-blind readers; marker and line style tell the same in grey.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from odeval.visible import shortened, visible

WIDTH = 560  # of every figure, in CSS pixels: its 13 px text is still read when a 500 px screen shrinks it
INK, MUTED, RULE, LOST = "#1a1a1a", "#5f6368", "#dadce0", "#b04700"
_LABEL = 16  # characters of a run's name in a figure
_GAP = 16.0  # pixels between the middles of two labels

_RC = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 13,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 13,
    "figure.dpi": 72,  # one point is one pixel, as in SVG
    "font.family": ["DejaVu Sans"],
    "font.size": 13,
    "grid.color": "#eceef0",
    "grid.linewidth": 0.8,
    "legend.fontsize": 13,
    "legend.frameon": False,
    "savefig.dpi": 72,
    "svg.fonttype": "none",
    "svg.hashsalt": "odeval",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 13,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 13,
}


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
    return found | {name: Look(shortened(name, _LABEL), *_CANDIDATES[place]) for place, name in enumerate(drawn)}


@contextmanager
def styled() -> Iterator[None]:
    """Draw and write under odeval's style, whatever the user's own matplotlib settings are."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def figure(height: int) -> Figure:
    """An empty figure of the common width."""
    return Figure(figsize=(WIDTH / 72, height / 72))


def annotate_ends(axes: Any, entries: Sequence[tuple[str, float, str]]) -> None:
    """Write names in the right margin, each at its height or as near as its neighbours allow.

    Args:
        axes: With final limits.
        entries: (text, height in data units, colour); heights that are not finite are left out.
    """
    known = sorted((entry for entry in entries if entry[1] == entry[1]), key=lambda entry: entry[1])
    if not known:
        return
    box = axes.get_window_extent()
    wanted = [float(axes.transData.transform((1, height))[1]) for _, height, _ in known]
    placed = _spread(wanted, _GAP, box.y0, box.y1)
    for (text, _, color), own, at in zip(known, wanted, placed, strict=True):
        start, end = (own - box.y0) / box.height, (at - box.y0) / box.height
        axes.plot((1.005, 1.03), (start, end), transform=axes.transAxes, color=color, linewidth=0.7, clip_on=False)
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


def write_svg(drawing: Figure, name: str, title: str, description: str) -> str:
    """Write a figure as SVG that may stand in a page beside others: same input, same bytes.

    Args:
        drawing: Drawn under `styled`.
        name: Prefix of every id inside, unique in the page.
        title: What is drawn.
        description: What it shows, for those who cannot see it.
    """
    buffer = io.BytesIO()
    FigureCanvasSVG(drawing).print_svg(buffer, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    return _embeddable(root, name, visible(title), visible(description))


def write_png(drawing: Figure) -> bytes:
    """Write a figure as PNG, at twice the size for dense screens."""
    buffer = io.BytesIO()
    FigureCanvasAgg(drawing).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


_FAMILY = re.compile(r"font: (?:(\d+) )?([\d.]+px)[^;]*|font-family: [^;]*;? ?")
_XLINK = "{http://www.w3.org/1999/xlink}href"


def _embeddable(root: ElementTree.Element, name: str, title: str, description: str) -> str:
    """Make ids unique, fonts those of the page, and drop what a page has no use for."""
    values = " ".join(value for node in root.iter() for value in node.attrib.values())
    used = set(re.findall(r"#([\w.-]+)", values))
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for node in root.iter():
        own = node.attrib.pop("id", None)
        if own in used or (own or "").startswith(("xtick", "ytick")):
            node.set("id", f"{name}-{own}")
        target = node.attrib.pop(_XLINK, None)
        if target is not None:
            node.set("href", f"#{name}-{target[1:]}" if target.startswith("#") else target)
        for key, value in node.attrib.items():
            if key in ("d", "x", "y", "transform"):
                value = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", value)
            node.set(key, value.replace("url(#", f"url(#{name}-"))
        style = node.get("style")
        if style is not None:
            node.set("style", _FAMILY.sub(_font, style))
        if node.text is not None and not node.text.strip():
            node.text = None
        node.tail = None
    for group in root.iter("g"):  # marks of one kind repeat their style hundreds of times
        styles = {child.get("style") for child in group}
        if len(group) > 1 and len(styles) == 1 and all(child.tag == "use" for child in group):
            group.set("style", f"{group.get('style', '')}; {styles.pop()}".strip("; "))
            for child in group:
                child.attrib.pop("style", None)
    view = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": view,
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "font-family": "DejaVu Sans, Verdana, sans-serif",
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _font(match: re.Match[str]) -> str:
    if match[2] is None:
        return ""
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"
