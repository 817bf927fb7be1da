"""The verb that writes other tools' formats: export. EXPORTS is the index."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from odeval.commands.options import parse_ks
from odeval.errors import CannotJudge, OdevalError, unknown
from odeval.visible import visible

Out = Annotated[Path, Parameter(name=["-o", "--out"])]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The arguments of one call."""

    source: Path
    out: Path
    candidate: str
    benchmark: str
    ks: str | None
    model_id: str
    organization: str
    relationship: Literal["first_party", "third_party", "collaborative", "other"]


def export(
    what: str, source: Path, /, *, out: Out, candidate: str = "", benchmark: str = "", ks: str | None = None,
    model_id: str = "", organization: str = "unknown",
    relationship: Literal["first_party", "third_party", "collaborative", "other"] = "other",
) -> int:  # fmt: skip
    """Write a run, or a gate's result, in another tool's format.

    Args:
        what: counts (a small baseline that stays paired), model-card, every-eval-ever, jsonl (one line a number), dvc
            (JSON for `dvc metrics diff`), bencher.
        source: For counts and every-eval-ever a graded run folder or a log; otherwise the folder that
            `odeval gate --out` or `odeval audit --out` wrote.
        out: The file to write; for model-card a README.md, old or new; for every-eval-ever a folder.
        candidate: For model-card: which candidate the card is about, where there are several.
        benchmark: Name of what was asked, where a log does not say.
        ks: For every-eval-ever: comma-separated k; powers of two up to n by default.
        model_id: developer/name on the Hugging Face hub, for every-eval-ever (needed) and a new model-card.
        organization: For every-eval-ever: who publishes these numbers.
        relationship: For every-eval-ever: of the publisher to the model's developer.
    """
    if what not in EXPORTS:
        raise OdevalError(unknown("export", what, EXPORTS))
    print(EXPORTS[what](_Wanted(source, out, candidate, benchmark, ks, model_id, organization, relationship)))
    return 0


def _model_card(wanted: _Wanted) -> str:
    from odeval.atomic import write_bytes
    from odeval.exporters.model_card import model_card

    comparisons, verdict = _comparisons(wanted), _verdict(wanted)
    labels = list(dict.fromkeys(row["candidate"] for row in verdict["candidates"]))
    if wanted.candidate and wanted.candidate not in labels:
        raise OdevalError(unknown("candidate", wanted.candidate, labels))
    if not wanted.candidate and len(labels) > 1:
        raise OdevalError(f"{wanted.source}: a card is about one model; name it with --candidate: {', '.join(labels)}")
    label = wanted.candidate or labels[0]
    try:
        readme = wanted.out.read_bytes().decode() if wanted.out.exists() else ""
        text = model_card(readme, comparisons, verdict, label, wanted.model_id)
    except UnicodeDecodeError as error:
        raise OdevalError(f"{wanted.out}: is not UTF-8 text (byte {error.start})") from error
    except OdevalError as error:
        raise OdevalError(f"{wanted.out}: {error}") from error
    write_bytes(wanted.out, text.encode())
    return f"{wanted.out}: {visible(label)}, {verdict['verdict']}"


def _every_eval_ever(wanted: _Wanted) -> str:
    from odeval.exporters.every_eval_ever import Described, write_every_eval_ever
    from odeval.importers import open_run

    described = Described(wanted.model_id, wanted.organization, wanted.relationship, wanted.benchmark)
    grid = parse_ks(wanted.ks)
    if grid == "all":
        raise OdevalError("--ks all: name the k, such as 1,4,16; every result is a record of its own")
    return str(write_every_eval_ever(open_run(wanted.source), wanted.out, described, grid))


def _jsonl(wanted: _Wanted) -> str:
    from odeval.exporters.flat import rows

    lines = [jsonlib.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows(_comparisons(wanted))]
    return _written(wanted.out, "".join(line + "\n" for line in lines), f"{len(lines)} numbers")


def _dvc(wanted: _Wanted) -> str:
    from odeval.exporters.flat import nested

    return _written(wanted.out, _pretty(nested(_comparisons(wanted))), "show changes with `dvc metrics diff`")


def _bencher(wanted: _Wanted) -> str:
    from odeval.exporters.flat import bencher

    return _written(wanted.out, _pretty(bencher(_comparisons(wanted))), "send it with `bencher run --file`")


def _counts(wanted: _Wanted) -> str:
    from odeval.commands.importing import export as export_counts

    export_counts("counts", wanted.source, out=wanted.out)  # prints its own line
    return f"compare with it by `odeval gate CANDIDATE --baseline {wanted.out}`"


EXPORTS: dict[str, Callable[[_Wanted], str]] = {
    "counts": _counts,
    "model-card": _model_card,
    "every-eval-ever": _every_eval_ever,
    "jsonl": _jsonl,
    "dvc": _dvc,
    "bencher": _bencher,
}


def _pretty(value: Any) -> str:
    return jsonlib.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _written(out: Path, text: str, what: str) -> str:
    from odeval.atomic import write_text

    write_text(out, text)
    return f"{out}: {what}"


def _comparisons(wanted: _Wanted) -> list[dict[str, Any]]:
    """comparison.json of a folder, or of each benchmark's folder in it."""
    from odeval.gate import read_comparison

    folder = wanted.source
    if folder.is_dir() and not (folder / "comparison.json").exists():
        inside = sorted(path.parent for path in folder.glob("*/comparison.json"))
        if wanted.benchmark and len(inside) > 1:
            raise OdevalError(f"--benchmark {wanted.benchmark}: {folder} holds {len(inside)} benchmarks with names")
        if inside:
            return [read_comparison(path) for path in inside]
    found = read_comparison(folder)
    return [{**found, "task": wanted.benchmark or found["task"]}]


def _verdict(wanted: _Wanted) -> dict[str, Any]:
    from odeval.atomic import read_json
    from odeval.gate import SCHEMA

    path = (wanted.source if wanted.source.is_dir() else wanted.source.parent) / "verdict.json"
    if not path.exists():
        raise CannotJudge(f"{path}: no verdict to export; run `odeval gate … --out {path.parent}` first")
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise OdevalError(f"{path}: is no verdict of this version (schema {SCHEMA}); make one with `odeval gate`")
    rows = [{**row, "benchmark": wanted.benchmark or row["benchmark"]} for row in found["candidates"]]
    return {**found, "candidates": rows}
