"""Reads a page as strictly as a browser would not: nesting, texts, numbers, contrast."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np

VOID = {"meta", "link", "br", "hr", "img", "input", "use", "path", "image"}


class Page(HTMLParser):
    """Reads a page strictly: elements nest, and texts are told apart from axis ticks."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self.open]
        ticks = any("tick_" in (attributes.get("id") or "") for _, attributes in self.open)
        if "style" not in inside and not ticks and data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def numbers_in(text: str) -> Iterator[tuple[float, int]]:
    """Each number of a text with its decimals; parts of words, versions and hashes are no numbers."""
    for found in re.finditer(r"(?<![\w@.:-])[+−-]?(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w@]|\.\d)", text):
        shown = found[1]
        yield float(shown), len(shown.partition(".")[2]) if "e" not in shown else 9


def stored(value: Any) -> Iterator[float]:
    """Every number of the inputs that a page may show, those inside texts included; not what only figures draw."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in ("survival", "covariance", "counts", "trials", "scale", "degrees", "history"):
                yield from stored(key)
                yield from stored(item)
    elif isinstance(value, list):
        for item in value:
            yield from stored(item)
    elif isinstance(value, str):
        yield from (number for number, _ in numbers_in(value))
        yield from (float(number) for number in re.findall(r"\d+", value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield abs(float(value))


def invented(page: str, audit: Sequence[Any]) -> list[str]:
    """Numbers of the page that stand in neither input, up to rounding and percent."""
    known = np.unique([scale * number for part in audit for number in stored(part) for scale in (1, 100)])
    return [
        f"{number:g}"
        for number, places in numbers_in(Page(page).text)
        if np.abs(known - number).min() > 0.5 * 10**-places + 1e-9
    ]


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast of two colours."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
