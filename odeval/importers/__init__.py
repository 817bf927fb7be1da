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
from odeval.importers import counts
from odeval.importers.base import Imported, Importer, ImportOptions, write_imported
from odeval.store import RunFolder

IMPORTERS: dict[str, Importer] = {
    "counts": Importer(counts.read, counts.detect, "{id, n, c} a line: JSONL, CSV, parquet; also passk-inference"),
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
    if name is not None and name not in IMPORTERS:
        raise OdevalError(unknown("format", name, IMPORTERS))
    if not path.exists():
        raise OdevalError(f"{path}: no such file")
    return IMPORTERS[name or detect(path)].read(path, options or ImportOptions())


def open_run(path: Path) -> RunFolder:
    """Turn a path into a run folder: it is one, or it is a log and is imported into a temporary one.

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
    write_imported(import_file(path), run, path)
    return run
