"""Render the committed studies of the embedded worlds: `odeval demo`, then page, verdict and figures into reports/.

python benchmarks/render_studies.py            # both worlds, about a minute on 2 cores
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from odeval import plots
from odeval.atomic import read_json
from odeval.cli import run
from odeval.testbed import WORLDS

REPORTS = Path(__file__).resolve().parent.parent / "reports"


def main() -> None:
    for world in WORLDS:
        with tempfile.TemporaryDirectory() as scratch:
            code = run(["demo", "--world", world, "--out", scratch])
            if code > 1:
                raise SystemExit(code)
            made, kept = Path(scratch) / world, REPORTS / world
            kept.mkdir(parents=True, exist_ok=True)
            for name in ("report.html", "report.md", "verdict.json", "comparison.json"):
                text = (made / name).read_text(encoding="utf-8")
                (kept / name).write_text(text.replace(scratch, "odeval-demo"), encoding="utf-8")
            comparison = read_json(kept / "comparison.json")
            for kind in ("passk", "entropy"):
                plots.save(kind, comparison, kept / f"{kind}.svg")
            shutil.rmtree(scratch, ignore_errors=True)
        print(kept)


if __name__ == "__main__":
    main()
