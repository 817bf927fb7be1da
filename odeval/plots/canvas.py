"""The sheet a figure is drawn on: formats for pages and papers, and files that are the same bytes each time."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from odeval.visible import visible

INK, MUTED, RULE, LOST = "#1a1a1a", "#5f6368", "#dadce0", "#b04700"
_FONT = 13.0  # design pixels


@dataclass(frozen=True, slots=True)
class Format:
    """The size at which a figure is drawn. Drawing code speaks design pixels, in which text is always 13 high.

    Attributes:
        width: Of the figure, in design pixels.
        scale: Points of paper per design pixel.
        direct: There is room to write names beside their curves; otherwise they stand in a legend above.
        outlines: Write text of SVG as outlines, which need no font.
    """

    width: float
    scale: float
    direct: bool
    outlines: bool = False

    @property
    def inches(self) -> float:
        return self.width * self.scale / 72


_PAPER = 8 / _FONT  # text of 8 points
FORMATS = {
    # 13 px text is still read when a 500 px screen shrinks it
    "report": Format(560, 1.0, direct=True),
    "paper": Format(3.25 * 72 / _PAPER, _PAPER, direct=False, outlines=True),
    "paper-wide": Format(6.75 * 72 / _PAPER, _PAPER, direct=True, outlines=True),
}
_current: ContextVar[Format] = ContextVar("format", default=FORMATS["report"])


def _settings(form: Format) -> dict[str, Any]:
    font, hair = _FONT * form.scale, 0.8 * form.scale
    sizes = ("font.size", "axes.labelsize", "axes.titlesize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize")
    return {
        **dict.fromkeys(sizes, font),
        **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 3.5 * form.scale),
        **dict.fromkeys(("xtick.minor.size", "ytick.minor.size"), 2 * form.scale),
        **dict.fromkeys(("axes.linewidth", "grid.linewidth", "xtick.major.width", "ytick.major.width"), hair),
        "axes.axisbelow": True,
        "axes.edgecolor": MUTED,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.dpi": 72,  # one point is one pixel, as in SVG
        "font.family": ["DejaVu Sans"],
        "grid.color": "#eceef0",
        "legend.frameon": False,
        "pdf.fonttype": 42,  # TrueType, embedded: what publishers ask for
        "savefig.dpi": 72,
        "svg.fonttype": "path" if form.outlines else "none",
        "svg.hashsalt": "odeval",
        "text.color": INK,
        "xtick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.color": MUTED,
        "ytick.labelcolor": INK,
    }


@contextmanager
def styled(form: str = "report") -> Iterator[None]:
    """Draw and write in one of FORMATS, whatever the user's own matplotlib settings are."""
    token = _current.set(FORMATS[form])
    try:
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_settings(FORMATS[form]))
            yield
    finally:
        _current.reset(token)


def form() -> Format:
    """The format that is drawn in."""
    return _current.get()


def px(size: float) -> float:
    """Design pixels as points."""
    return size * _current.get().scale


def figure(height: float) -> Figure:
    """An empty figure of the format's width.

    Args:
        height: Design pixels.
    """
    return Figure(figsize=(form().inches, px(height) / 72))


def margins(
    drawing: Figure, left: float, right: float, top: float, bottom: float, wide: float = 0.2, high: float = 0.2
) -> None:
    """Leave design pixels free around the panels.

    Args:
        drawing: The figure.
        left: Design pixels, as are the next three.
        right: Beside the panels.
        top: Above.
        bottom: Below.
        wide: Room between columns, in widths of a panel.
        high: Room between rows, in heights of a panel.
    """
    width, height = (72 * side / form().scale for side in drawing.get_size_inches())
    drawing.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, wide, high)


def write_svg(drawing: Figure, name: str, title: str, description: str, alone: bool = False) -> str:
    """Write a figure as SVG that may stand in a page beside others: same input, same bytes.

    Args:
        drawing: Drawn under `styled`.
        name: Prefix of every id inside, unique in the page.
        title: What is drawn.
        description: What it shows, for those who cannot see it.
        alone: A file of its own, which states its size.
    """
    buffer = io.BytesIO()
    FigureCanvasSVG(drawing).print_svg(buffer, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    text = _embeddable(root, name, visible(title), visible(description))
    if alone:
        width, height = (
            f"{side:.4g}in" if form().outlines else f"{72 * side:.4g}" for side in drawing.get_size_inches()
        )
        text = text.replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
    return text


def write_png(drawing: Figure) -> bytes:
    """Write a figure as PNG, at twice the size for dense screens, at 300 dots an inch for paper."""
    buffer = io.BytesIO()
    drawing.set_dpi(300 if form().outlines else 144)
    FigureCanvasAgg(drawing).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def write_pdf(drawing: Figure) -> bytes:
    """Write a figure as PDF with its fonts embedded: same input, same bytes."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Producer", "CreationDate"))
    FigureCanvasPdf(drawing).print_pdf(buffer, metadata=nothing)
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
