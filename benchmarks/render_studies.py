"""Render the committed studies of the embedded worlds: `odeval demo`, then page, verdict and figures into reports/.

    python benchmarks/render_studies.py            # both worlds, about two minutes on 2 cores

Writes the index reports/README.md too: one line and one verdict a study.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import agreement_report
import calibration_report
import forgetting_report
import objective_report
import real_model_report
from hardware import RESULTS

from odeval.atomic import read_json, write_text
from odeval.cli import run
from odeval.testbed import WORLDS

FIGURES = ("passk", "objectives", "tradeoff", "entropy", "retention", "branches", "tokens", "coverage", "diversity")
REPORTS = Path(__file__).resolve().parent.parent / "reports"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index-only", action="store_true", help="write reports/README.md alone")
    for world in () if parser.parse_args().index_only else WORLDS:
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
    write_text(REPORTS / "README.md", index())


def index() -> str:
    """One line and one verdict a study."""
    lines = [
        "# Reports",
        "",
        "Rendered evidence; every page is one file that opens offline. What did not hold stands in [LOG.md](LOG.md).",
        "",
        "| study | question | verdict |",
        "|---|---|---|",
        "| [testbed](testbed/README.md) | what the embedded students show, exactly, over three training seeds | "
        "reverse KL bought pass@1 with the rest of the curve in both worlds; on graph paths a blend kept both |",
    ]
    for world in WORLDS:
        verdict, comparison = (read_json(REPORTS / world / f"{name}.json") for name in ("verdict", "comparison"))
        samples = comparison["runs"][0]["samples"]
        lines.append(
            f"| [{world}]({world}/report.html) ([figures]({world}), [Markdown]({world}/report.md)) | "
            f"`odeval demo --world {world}`: {comparison['prompts']} prompts × {samples} samples, four students | "
            f"{told(verdict)} |"
        )
    lines += others()
    made = (
        "render_studies", "train_testbed", "objective_study", "gate_calibration", "interval_calibration", "agreement",
        "real_model_study", "forgetting",
    )  # fmt: skip
    return "\n".join([*lines, "", f"Made by {', '.join(f'`python benchmarks/{name}.py`' for name in made)}.", ""])


def others() -> list[str]:
    """The studies that are rendered from benchmarks/results, with their first finding as the verdict."""
    return [
        "| [objectives](objectives/README.md) | what each objective, data source, start and size does to the exact "
        f"pass@k curve, at equal budget | {objective_report.headline(objective_report.newest(RESULTS))} |",
        "| [calibration](calibration/README.md) | whether intervals cover what they claim and the gate holds its "
        f"error rates | {calibration_report.headline(RESULTS)} |",
        "| [agreement](agreement/README.md) | whether other packages give the same numbers on the same inputs | "
        f"{agreement_report.headline(RESULTS)} |",
        "| [real_model](real_model/README.md) ([page](real_model/report.html)) | reverse, forward and blended KL on "
        f"SmolLM2-135M, at equal budget | {real_model_report.headline(real_model_report.newest(RESULTS))} |",
        "| [forgetting](forgetting/README.md) | what fine-tuning on one set takes from another, and what the recipe "
        f"`recover` brings back | {forgetting_report.headline(REPORTS / 'forgetting')} |",
    ]


def told(verdict: dict[str, Any]) -> str:
    return "; ".join(
        f"`{row['candidate']}` {row['verdict']}" + (f" · {row['diagnosis']}" if row["diagnosis"] else "")
        for row in verdict["candidates"]
    )


if __name__ == "__main__":
    main()
