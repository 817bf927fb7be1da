"""Comparison + verdict → one self-contained HTML page. A pure function of the two: it computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_report(comparison: dict[str, Any], verdict: dict[str, Any], out: Path) -> Path:
    """Write report.html into a folder."""
    return out / "report.html"
