"""Comparison + verdict → one self-contained page and its Markdown twin. Pure functions: nothing is computed here."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from odeval.atomic import write_text
from odeval.lookup import scope_of
from odeval.report import sections as parts
from odeval.report import view
from odeval.report.tiles import across, tiles
from odeval.visible import visible


def write_report(comparison: dict[str, Any], verdict: dict[str, Any], out: Path) -> Path:
    """Write report.html and report.md into a folder.

    Args:
        comparison: From `compare`.
        verdict: From `gate.as_json`, of the same comparison.
        out: The folder; created when missing.

    Returns:
        Path of report.html.

    Raises:
        OdevalError: The folder cannot be written.
    """
    write_text(out / "report.md", render_markdown(comparison, verdict))
    write_text(out / "report.html", render_html(comparison, verdict))
    return out / "report.html"


def render_html(comparison: dict[str, Any], verdict: dict[str, Any]) -> str:
    """The page: no script, nothing fetched, every text from outside escaped."""
    content = _content(comparison, verdict)
    figures = _figures(comparison, verdict, content["sections"])
    return _environment(html=True).get_template("report.html.j2").render(**content, figures=figures)


def render_markdown(comparison: dict[str, Any], verdict: dict[str, Any]) -> str:
    """The verdict, the numbers, the rules and how to reproduce them, for places that show no HTML."""
    return _environment(html=False).get_template("report.md.j2").render(**_content(comparison, verdict))


def _content(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "name": view.name(one["candidate"]),
            "mark": view.MARKS[one["verdict"]],
            "diagnosis": visible(one["diagnosis"]),
            "tiles": tiles(comparison, verdict, one),
        }
        for one in view.ranked(verdict)
    ]
    return {
        "version": visible(str(comparison["provenance"].get("versions", {}).get("odeval", ""))),
        "header": view.header(comparison),
        "banner": view.banner(comparison, verdict),
        "rows": rows,
        "numbers": across(rows),
        "question": parts.question(comparison, verdict),
        "trust": view.trust(comparison),
        "sections": parts.sections(comparison, verdict),
    }


def _figures(comparison: dict[str, Any], verdict: dict[str, Any], sections: list[dict[str, Any]]) -> dict[str, Markup]:
    from odeval import plots  # here, so that nothing but a written page loads matplotlib

    told = {section["figure"]: section for section in sections if section.get("figure")}
    names = view.drawn(verdict)
    lines = [plots.Limit(*limit) for limit in parts.limits(comparison, verdict)]
    found = {}
    for kind, section in told.items():
        options: dict[str, Any] = {"shown": names}
        if plots.FIGURES[kind].judged:
            options |= {"limits": lines, "scope": scope_of(verdict)}
        if kind == "passk":
            options["bands"] = section["bands"]
        words = " ".join(section.get("findings", ())) or section["title"]
        # The drawing code escapes every text it writes, so its SVG is the one thing a template may trust.
        found[kind] = Markup(plots.svg(kind, comparison, section["title"], words, **options))
    return found


@cache
def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("odeval"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = _markdown
    environment.filters["code"] = _code
    environment.globals["stylesheet"] = lambda: Markup(environment.get_template("report.css").render())
    return environment


def _markdown(text: str) -> str:
    """Escape what Markdown would read as structure, a link, an image or HTML."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """An inline code span that no text can end."""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"
