"""Render the committed studies of the embedded worlds: `odeval demo`, then page, verdict and figures into reports/.

python benchmarks/render_studies.py            # both worlds, about a minute on 2 cores
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from odeval.cli import run
from odeval.testbed import WORLDS

FIGURES = ("passk", "objectives", "tradeoff", "entropy", "retention", "branches", "tokens", "coverage", "diversity")
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
            for kind in FIGURES:
                if run(["plot", kind, str(kept), "-o", str(kept / f"{kind}.svg")]):
                    raise SystemExit(f"{world}: {kind} was not drawn")
            shutil.rmtree(scratch, ignore_errors=True)
        print(kept)


if __name__ == "__main__":
    main()
