"""training.html: the curves of one run, drawn from log.jsonl and probes.jsonl, on a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from odeval.atomic import write_text
from odkd.loggers import rows_of

_WIDE, _HIGH, _EDGE = 640, 180, 46
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by the colour-blind too
_CHARTS = {
    "loss": ("loss",),
    "divergences, nats": ("forward_kl", "reverse_kl"),
    "entropy, nats": ("student_entropy", "teacher_entropy"),
    "high-entropy positions": ("retention", "student_high_entropy", "teacher_high_entropy"),
    "gradient norm": ("grad_norm",),
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:720px;margin:2em auto;padding:0 1em;color:#222}}
svg{{width:100%;height:auto}} text{{font-size:12px;fill:#444}} h2{{font-size:1em;margin:1.5em 0 0}}</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""


def write_page(out: Path) -> Path:
    """Draw a run's curves.

    Args:
        out: Folder with log.jsonl, and probes.jsonl where there were probes.

    Returns:
        Path of training.html.
    """
    log, probes = rows_of(out / "log.jsonl"), rows_of(out / "probes.jsonl")
    parts = [_chart(title, {name: _series(log, name) for name in names}) for title, names in _CHARTS.items()]
    if probes:
        ks = list(probes[0]["pass@k"])
        shown = {f"pass@{k}": [(row["step"], row["pass@k"][k]) for row in probes] for k in (ks[0], ks[-1])}
        shown[f"coverage gap@{ks[-1]}"] = [(row["step"], row["coverage_gap"][ks[-1]]) for row in probes]
        parts.append(_chart("probes on fixed prompts", shown))
    path = out / "training.html"
    write_text(path, _PAGE.format(title=escape(f"Training of {out.resolve().name}"), body="\n".join(parts)))
    return path


def _series(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if row.get(name) is not None]


def _chart(title: str, lines: dict[str, list[tuple[float, float]]]) -> str:
    points = [point for series in lines.values() for point in series]
    if not points:
        return ""
    right, low = max(x for x, _ in points) or 1, min(0.0, *(y for _, y in points))
    high = max(y for _, y in points)
    high = high if high > low else low + 1

    def place(point: tuple[float, float]) -> str:
        x = _EDGE + (_WIDE - 2 * _EDGE) * point[0] / right
        return f"{x:.1f},{_HIGH - 24 - (_HIGH - 48) * (point[1] - low) / (high - low):.1f}"

    drawn = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join(map(place, series))}"/>'
        f'<text x="{_EDGE + 190 * i}" y="14" style="fill:{colour}">{escape(name.replace("_", " "))}</text>'
        for i, ((name, series), colour) in enumerate(zip(lines.items(), _COLOURS, strict=False))
    ]
    axes = (
        f'<text x="4" y="{_HIGH - 24}">{low:.3g}</text><text x="4" y="28">{high:.3g}</text>'
        f'<text x="{_EDGE}" y="{_HIGH - 6}">step 0</text>'
        f'<text x="{_WIDE - 2 * _EDGE}" y="{_HIGH - 6}">step {right:g}</text>'
    )
    label = escape(f"{title} by step")
    return (
        f'<h2>{escape(title)}</h2><svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{label}">{axes}'
        f"{''.join(drawn)}</svg>"
    )
