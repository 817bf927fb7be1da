"""How a number looks: percent and points, as many digits as its interval supports, "n/a" where it is unknown.

Nothing is computed here but the rounding; a share is shown times one hundred.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odeval.stats import digits
from odeval.types import Estimate

UNKNOWN = "n/a"
_MINUS = "−"


@dataclass(frozen=True, slots=True)
class Shown:
    """A number as text.

    Attributes:
        text: The value, with its unit when asked for; "n/a" when unknown.
        interval: "[low, high]", or "".
        note: What a careful reader should know, or "".
        trend: "better" or "worse" where the interval leaves no doubt about the direction, or "".
    """

    text: str
    interval: str = ""
    note: str = ""
    trend: str = ""


def shown(item: Mapping[str, Any] | None, unit: str = "", signed: bool = False, full: bool = False) -> Shown:
    """Format an estimate of comparison.json.

    Args:
        item: With value, low and high (null when unknown), and perhaps caution; None when it was not measured.
        unit: As in METRICS; a "share" is shown in percent, a signed one in points.
        signed: A difference, shown with its sign.
        full: Write the unit behind the value.

    Example:
        >>> shown({"value": 0.12345, "low": 0.1, "high": 0.15}, "share", signed=True, full=True)
        Shown(text='+12.3 points', interval='[+10.0, +15.0]', note='', trend='')
        >>> shown({"value": None, "low": None, "high": None, "caution": "no prompt says anything"}).text
        'n/a'
    """
    if item is None:
        return Shown(UNKNOWN, note="not measured")
    value, low, high = (_number(item.get(key), unit) for key in ("value", "low", "high"))
    note = str(item.get("caution") or "")
    if math.isnan(value):
        return Shown(UNKNOWN, note=note)
    places = min(_places(value, low, high), 2 if unit == "share" else 6)
    interval = f"[{fixed(low, places, signed)}, {fixed(high, places, signed)}]" if high > low else ""
    return Shown(fixed(value, places, signed) + (suffix(unit, signed) if full else ""), interval, note)


def _number(value: Any, unit: str) -> float:
    if value is None:
        return math.nan
    return 100 * float(value) if unit == "share" else float(value)


def _places(value: float, low: float, high: float) -> int:
    """How many decimals the interval supports; without one, two significant digits but at least one decimal."""
    if high > low:
        return digits(Estimate(value, low, high))
    return min(4, max(1, 1 - math.floor(math.log10(abs(value))))) if value else 1


def fixed(value: float, places: int, signed: bool = False) -> str:
    """Write a number with a typographic minus, and zero without a sign.

    Example:
        >>> fixed(-0.04, 2), fixed(-0.04, 1), fixed(3, 1, signed=True)
        ('−0.04', '0.0', '+3.0')
    """
    text = f"{value:+.{places}f}" if signed else f"{value:.{places}f}"
    if not text.strip("+-0."):
        text = text.strip("+-")
    return text.replace("-", _MINUS)


def suffix(unit: str, signed: bool = False) -> str:
    """The unit as it stands behind a number."""
    if unit == "share":
        return " points" if signed else "%"
    return f" {unit}" if unit else ""


def unit_name(unit: str, signed: bool = False) -> str:
    """The unit as it stands in a table of its own."""
    return suffix(unit, signed).strip()


def count(value: int | None) -> str:
    """A number of things, which may be unknown too."""
    return UNKNOWN if value is None else str(value)


def trend(item: Mapping[str, Any] | None, direction: str) -> str:
    """Say "better" or "worse" where a difference's interval excludes 0 and the metric has a direction.

    Example:
        >>> trend({"value": -0.2, "low": -0.3, "high": -0.1}, "higher")
        'worse'
    """
    if item is None or item.get("low") is None or item.get("high") is None or direction == "neutral":
        return ""
    if item["low"] > 0:
        return "better" if direction == "higher" else "worse"
    if item["high"] < 0:
        return "worse" if direction == "higher" else "better"
    return ""


def grid(ks: Sequence[int], most: int = 12) -> list[int]:
    """Positions of a curve's points that a table or an axis can hold: all, else powers of two and the last.

    Example:
        >>> [list(range(1, 21))[j] for j in grid(range(1, 21))]
        [1, 2, 4, 8, 16, 20]
    """
    if len(ks) <= most:
        return list(range(len(ks)))
    return [j for j, k in enumerate(ks) if k & (k - 1) == 0 or j == len(ks) - 1]


def spans(ks: Sequence[int], where: Sequence[bool]) -> str:
    r"""Name the points of a grid at which something holds.

    Example:
        >>> spans([1, 2, 4, 8, 16], [True, True, False, False, True])
        'k\xa0=\xa01 to 2 and k\xa0=\xa016'
    """
    runs: list[list[int]] = []
    for j, holds in enumerate(where):
        if holds and j and where[j - 1]:
            runs[-1].append(ks[j])
        elif holds:
            runs.append([ks[j]])
    names = [at(f"{run[0]} to {run[-1]}" if len(run) > 1 else run[0]) for run in runs]
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)


def at(k: Any) -> str:
    """Name a k so that no line breaks inside."""
    return f"k\u00a0=\u00a0{k}"
