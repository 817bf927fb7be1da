"""Everybody's logs. IMPORTERS is the index; `open_run` turns any path into a run folder.

An importer never guesses whether a completion is right, says what it dropped and why, and depends on none of the
tools whose files it reads.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from odeval.errors import CannotJudge, OdevalError, unknown
from odeval.importers import (
    bigcode,
    counts,
    evalplus,
    human_eval,
    inspect,
    lighteval,
    lm_eval,
    reasoning_gym,
    table,
    tinker,
    trl,
    verl,
)
from odeval.importers.base import Imported, Importer, ImportOptions, write_imported
from odeval.store import RunFolder
from odeval.visible import visible

IMPORTERS: dict[str, Importer] = {
    "counts": Importer(counts.read, counts.detect, "{id, n, c} a line: JSONL, CSV, parquet; also passk-inference"),
    "lm_eval": Importer(lm_eval.read, lm_eval.detect, "samples_*.jsonl of lm-eval (--log_samples)", ("metric",)),
    "inspect": Importer(inspect.read, inspect.detect, ".eval and .json logs of Inspect", ("metric", "partial")),
    "evalplus": Importer(evalplus.read, evalplus.detect, "*_eval_results.json of EvalPlus", ("metric",)),
    "human_eval": Importer(human_eval.read, human_eval.detect, "*_results.jsonl of human-eval"),
    "bigcode": Importer(bigcode.read, bigcode.detect, "generations_*.json of bigcode-evaluation-harness"),
    "lighteval": Importer(lighteval.read, lighteval.detect, "details_*.parquet of lighteval", ("metric",)),
    "reasoning_gym": Importer(reasoning_gym.read, reasoning_gym.detect, "DATASET.json, results.json of reasoning-gym"),
    "verl": Importer(verl.read, verl.detect, "STEP.jsonl of verl (trainer.validation_data_dir)", ("metric",)),
    "trl": Importer(trl.read, trl.detect, "completions_*.parquet of TRL (log_completions)", ("metric",)),
    "tinker": Importer(tinker.read, tinker.detect, "trajectories.jsonl of tinker-cookbook"),
    "table": Importer(table.read, table.detect, "any JSONL, CSV or parquet: --map prompt=…,correct=…", ("columns",)),
}


def detect(path: Path) -> str:
    """Name the format of a file.

    Raises:
        OdevalError: It is none of IMPORTERS, and the text lists them.
    """
    for name, importer in IMPORTERS.items():
        if importer.detect(path):
            return name
    raise OdevalError(
        f"{path}: is no run folder and no log that odeval knows ({', '.join(IMPORTERS)}); "
        "name the format with `odeval import FORMAT FILE`"
    )


def import_file(path: Path, name: str | None = None, options: ImportOptions | None = None) -> Imported:
    """Read a log.

    Args:
        path: The file or folder.
        name: Format; found from the content when None.
        options: Column map, grader, threshold.

    Raises:
        OdevalError: No such format, or the file is not of it.
    """
    if name is not None and name.replace("-", "_") not in IMPORTERS:
        raise OdevalError(unknown("format", name, IMPORTERS))
    if not path.is_file():
        raise OdevalError(f"{path}: is a folder, give the file in it" if path.is_dir() else f"{path}: no such file")
    chosen = detect(path) if name is None else name.replace("-", "_")
    options = options or ImportOptions()
    for option, flag in (("columns", "--map"), ("metric", "--metric"), ("partial", "--partial")):
        if getattr(options, option) and option not in IMPORTERS[chosen].takes:
            raise OdevalError(f"{path}: {flag} means nothing for the format '{chosen}'; leave it out")
    if options.grader is not None and (options.metric or options.threshold is not None):
        raise OdevalError(f"{path}: --grader decides what is right; leave out --metric and --threshold")
    try:
        return IMPORTERS[chosen].read(path, options)
    except OdevalError as error:  # names and values in it come from the file
        raise type(error)(visible(str(error))) from error


def open_run(path: Path, options: ImportOptions | None = None) -> RunFolder:
    """Turn a path into a run folder: it is one, or it is a log and is imported into a temporary one.

    Args:
        path: A run folder, a log or a counts file.
        options: For a log: grader, threshold.

    Raises:
        CannotJudge: There is nothing.
        OdevalError: The file is no log that odeval knows.
    """
    if (path / "run.json").exists() or path.is_dir():
        return RunFolder(path)
    if not path.exists():
        raise CannotJudge(f"{path}: no run here; make one with `odeval sample`, or give a log or a counts file")
    folder = Path(tempfile.mkdtemp(prefix="odeval-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run = RunFolder(folder / path.stem)
    write_imported(import_file(path, None, options), run, path)
    return run


def matched(
    candidate: Path, baseline: Path | None, teacher: Path | None
) -> list[tuple[str, Path, Path | None, Path | None]]:
    """Pair a candidate with its references: one run each, or folders of several benchmarks, matched by name.

    Args:
        candidate: A run, a log, or a folder that holds one run or log a benchmark.
        baseline: A reference of the same kind, or None.
        teacher: Likewise.

    Returns:
        (benchmark, candidate, baseline, teacher) a benchmark; the name is "" for a single one.

    Raises:
        CannotJudge: A benchmark of the candidate is missing in a reference.
    """
    if not candidate.is_dir() or (candidate / "run.json").exists():
        return [("", candidate, baseline, teacher)]
    inside = sorted(path for path in candidate.iterdir() if not path.name.startswith("."))
    if not inside:
        raise CannotJudge(f"{candidate}: holds no run and no log; make one with `odeval sample`")
    return [(own.stem, own, _inside(baseline, own), _inside(teacher, own)) for own in inside]


def _inside(folder: Path | None, own: Path) -> Path | None:
    if folder is None:
        return None
    if not (folder / own.name).exists():
        raise CannotJudge(f"{folder / own.name}: missing, but {own} is there; every benchmark needs its reference")
    return folder / own.name
