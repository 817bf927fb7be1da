"""The verb that draws one figure: plot. The figures themselves are in `odeval.plots.FIGURES`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from odeval.commands.options import parse_ks
from odeval.errors import OdevalError, unknown


def plot(
    name: str = "", sources: list[Path] | None = None, /, *,
    out: Annotated[list[Path] | None, Parameter(name=["-o", "--out"], consume_multiple=False)] = None,
    style: Literal["report", "paper"] = "report", teacher: Path | None = None, ks: str | None = None,
    candidate: Annotated[list[str] | None, Parameter(consume_multiple=False)] = None,
    allow_mismatch: list[str] | None = None, list_: Annotated[bool, Parameter(name="--list")] = False,
) -> int:  # fmt: skip
    """Draw one figure of a comparison, and write its numbers as CSV beside it.

    Args:
        name: The figure; --list names them all.
        sources: comparison.json, or a folder that holds it; or runs, logs and counts files to compare first:
            BASELINE CANDIDATE…, or one CANDIDATE with --teacher.
        out: The file to write, .svg, .png or .pdf; .csv for the numbers alone. May be given more than once.
        style: report, or paper: 3.25 or 6.75 inches wide, 8 point text, fonts embedded.
        teacher: The teacher's run, where runs are given.
        ks: Comma-separated k, or all; powers of two by default. Where runs are given.
        candidate: Draw this candidate alone; may be given more than once.
        allow_mismatch: Sampling settings that may differ, where runs are given.
        list_: Name the figures and what each one needs.
    """
    from odeval.plots import FIGURES, save

    if list_:
        for kind, drawing in FIGURES.items():
            print(f"{kind:<15}{drawing.title} (needs {drawing.needs})")
        return 0
    if name not in FIGURES:
        raise OdevalError(unknown("figure", name, FIGURES) if name else f"which figure? one of {', '.join(FIGURES)}")
    if not sources:
        raise OdevalError(f"plot {name}: name a comparison.json, or runs to compare: BASELINE CANDIDATE")
    comparison = _comparison(sources, teacher, ks, tuple(allow_mismatch or ()))
    _check(comparison, candidate or [])
    limits, scope = _rules(sources[0], comparison)
    paths = [save(name, comparison, path, style, limits, scope, candidate) for path in out or [Path(f"{name}.svg")]]
    print("\n".join(dict.fromkeys(str(path) for written in paths for path in written)))
    return 0


def _comparison(
    sources: list[Path], teacher: Path | None, ks: str | None, allow_mismatch: tuple[str, ...]
) -> dict[str, Any]:
    from odeval.gate import read_comparison

    first = sources[0]
    if len(sources) == 1 and teacher is None:
        if first.suffix != ".json" and not (first / "comparison.json").exists():
            raise OdevalError(
                f"{first}: holds no comparison.json; name two runs, BASELINE CANDIDATE, or add --teacher RUN"
            )
        return read_comparison(first)
    from odeval.compare import CompareSettings, compare
    from odeval.importers import open_run

    folders = [open_run(source) for source in sources]
    baseline = folders.pop(0) if len(folders) > 1 else None
    settings = CompareSettings(parse_ks(ks), allow_mismatch=allow_mismatch)
    return compare(folders, None if teacher is None else open_run(teacher), baseline, settings)


def _check(comparison: dict[str, Any], wanted: list[str]) -> None:
    labels = [run["label"] for run in comparison["runs"] if run["role"] == "candidate"]
    for name in wanted:
        if name not in labels:
            raise OdevalError(unknown("candidate", name, labels))


def _rules(source: Path, comparison: dict[str, Any]) -> tuple[list[Any], str]:
    """The rules and the scope of the verdict beside the comparison; without one, none and the population."""
    from odeval.atomic import read_json
    from odeval.lookup import scope_of
    from odeval.plots import Limit
    from odeval.report.sections import limits

    path = (source if source.is_dir() else source.parent) / "verdict.json"
    if not path.exists():
        return [], "population"
    verdict = read_json(path)
    if not isinstance(verdict, dict) or "candidates" not in verdict:
        raise OdevalError(f"{path}: is no verdict; make one with `odeval gate`, or move it away")
    return [Limit(*limit) for limit in limits(comparison, verdict)], scope_of(verdict)
