"""Comparison → figures. Draws, never computes: each position is a number of comparison.json.

FIGURES is the index. `svg` gives a figure as text for a page, `save` writes it and its numbers to files. No windows,
no global pyplot state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from odeval.atomic import write_bytes, write_text
from odeval.errors import OdevalError, unknown
from odeval.plots import data
from odeval.plots.canvas import styled, write_pdf, write_png, write_svg
from odeval.plots.coverage import draw_branches, draw_coverage
from odeval.plots.curves import Limit, draw_objectives, draw_passk
from odeval.plots.entropy import draw_entropy, draw_retention
from odeval.plots.families import draw_exposure, draw_extrapolation, draw_reliability
from odeval.plots.prompts import draw_lost
from odeval.plots.tokens import draw_tokens
from odeval.plots.tradeoff import draw_tradeoff
from odeval.plots.training import draw_training
from odeval.plots.variety import draw_distinct, draw_diversity

__all__ = ["FIGURES", "FORMATS", "STYLES", "Drawing", "Limit", "save", "svg"]

_SCORES = "scored runs: odeval score, then compare with the teacher"
_TEXTS = "graded completions with answers, and a teacher; counts alone do not tell"
_LOGS = "a candidate that odkd trained, or --training NAME=FOLDER"
FORMATS = (".svg", ".png", ".pdf", ".csv")
STYLES = ("report", "paper")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure of the index.

    Attributes:
        draw: From a comparison to a matplotlib figure.
        rows: The same numbers as a table.
        title: What it shows.
        needs: What a comparison must hold for it.
        judged: It draws rules, in the scope of the verdict.
        wide: On paper it takes both columns.
    """

    draw: Callable[..., Figure]
    rows: Callable[..., Iterable[data.Row]]
    title: str
    needs: str
    judged: bool = False
    wide: bool = False


FIGURES: dict[str, Drawing] = {
    "passk": Drawing(draw_passk, data.curve_rows, "pass@k of every run, and paired differences", "runs", judged=True),
    "objectives": Drawing(
        draw_objectives, data.curve_rows, "the same, one column a candidate", "runs", judged=True, wide=True
    ),
    "tradeoff": Drawing(
        draw_tradeoff, data.tradeoff_rows, "what was gained at one sample and lost at many, with joint regions",
        "two or more k up to half of n, compared by this version", judged=True,
    ),
    "lost": Drawing(draw_lost, data.lost_rows, "how often each prompt is solved; lost prompts stand out", "counts"),
    "entropy": Drawing(draw_entropy, data.entropy_rows, "share of tokens above each entropy", _SCORES),
    "retention": Drawing(draw_retention, data.retention_rows, "branch points kept, at each threshold", _SCORES),
    "branches": Drawing(draw_branches, data.branch_rows, "branches of the teacher that the student dropped", _SCORES,
                        wide=True),
    "tokens": Drawing(draw_tokens, data.token_rows, "one completion, token by token", _SCORES, wide=True),
    "coverage": Drawing(draw_coverage, data.coverage_rows, "how much of the teacher's repertoire is reached", _TEXTS),
    "diversity": Drawing(draw_diversity, data.diversity_rows, "where a change of diversity comes from", _TEXTS),
    "distinct": Drawing(draw_distinct, data.distinct_rows, "different answers among k right completions", _TEXTS),
    "reliability": Drawing(draw_reliability, data.reliability_rows, "how dependable k completions are", "runs"),
    "exposure": Drawing(draw_exposure, data.exposure_rows, "error added by the student's own tokens", _SCORES),
    "extrapolation": Drawing(
        draw_extrapolation, data.extrapolation_rows, "pass@k beyond n, which no rule reads", "several samples a prompt"
    ),
    "training": Drawing(draw_training, data.training_rows, "how the candidates were trained", _LOGS),
}  # fmt: skip


def svg(kind: str, comparison: dict[str, Any], title: str, description: str, **options: Any) -> str:
    """Draw a figure as SVG for a page.

    Args:
        kind: One of FIGURES; also the prefix of the ids inside.
        comparison: From `compare`.
        title: Read out before the figure.
        description: Read out instead of it.
        options: Of the drawing function.
    """
    with styled():
        return write_svg(FIGURES[kind].draw(comparison, **options), kind, title, description)


def save(
    kind: str, comparison: dict[str, Any], path: Path, style: str = "report", limits: Iterable[Limit] = (),
    scope: str = "population", shown: Sequence[str] | None = None,
) -> list[Path]:  # fmt: skip
    """Write a figure to .svg, .png or .pdf and its numbers to .csv beside it; a .csv path gets those alone.

    Args:
        kind: One of FIGURES.
        comparison: From `compare`.
        path: Of the figure.
        style: "report", or "paper": 3.25 or 6.75 inches wide, 8 point text, fonts embedded or outlined.
        limits: Rules to draw, where the figure draws rules.
        scope: Which band to draw, where it draws one.
        shown: Candidates to draw; by default as many as a figure holds.

    Returns:
        What was written.

    Raises:
        OdevalError: No such figure, style or format; nothing to draw; or a file cannot be written.
    """
    if kind not in FIGURES:
        raise OdevalError(unknown("figure", kind, FIGURES))
    if style not in STYLES:
        raise OdevalError(unknown("style", style, STYLES))
    if path.suffix.lower() not in FORMATS:
        raise OdevalError(f"{path}: a figure is written as {', '.join(FORMATS[:-1])}, its numbers as {FORMATS[-1]}")
    wanted = FIGURES[kind]
    scoped = {"scope": scope} if wanted.judged else {}
    rows = data.known(wanted.rows(comparison, shown, **scoped))
    if not rows:
        raise OdevalError(f"figure {kind}: this comparison holds nothing to draw; it needs {wanted.needs}")
    table = path.with_suffix(".csv")
    write_text(table, data.as_csv(rows))
    if path == table:
        return [table]
    ruled = {"limits": list(limits)} if wanted.judged else {}
    with styled("report" if style == "report" else "paper-wide" if wanted.wide else "paper"):
        drawing = wanted.draw(comparison, shown, **scoped, **ruled)
        written = {
            ".svg": lambda: write_text(path, write_svg(drawing, kind, wanted.title, wanted.title, alone=True)),
            ".png": lambda: write_bytes(path, write_png(drawing)),
            ".pdf": lambda: write_bytes(path, write_pdf(drawing)),
        }
        written[path.suffix.lower()]()
    return [path, table]
