"""What fine-tuning on one task set does to another, and what the `recover` recipe brings back, over the whole curve.

    python benchmarks/forgetting.py            # embedded models, about four minutes on one thread

A student is fine-tuned on right answers to questions of one kind until questions of another kind, in the same
world, fall below half of their pass@1 (on selection prompts). Then its original is made the teacher of its fine-tuned
copy, on the old kind's prompts: the recipe `recover` (reverse KL), and beside it the same with forward KL. Both kinds
are audited before, between and after on held-out prompts, over three training seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from forgetting_report import write
from hardware import hardware, result_path

from odeval.atomic import read_json, write_json
from odeval.compare import compare
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.gate import as_json, judge
from odeval.grading import grade
from odeval.plots import save
from odeval.report import write_report
from odeval.sampling import sample
from odeval.store import RunFolder, provenance
from odeval.tasks import graph_paths
from odeval.tasks.base import Task
from odeval.tasks.worlds import Split
from odeval.testbed import exact
from odeval.types import Prompt, SamplingParams
from odkd.arms import merge_seeds
from odkd.config import make_config
from odkd.train import train

REPORTS = Path(__file__).resolve().parent.parent / "reports" / "forgetting"
STUDENT, BYSTANDER = "embedded:graph_paths/warm_start", "embedded:graph_paths/teacher"
SETS = {"old": "ab", "new": "ef"}  # the layer of the start; paths of the one say nothing about the other
SEEDS = (0, 1, 2)
STEPS = (40, 80, 160, 320, 640)  # of fine-tuning, the first that halves the old set is taken
PROMPTS, SAMPLES, RECOVER_STEPS = 100, 32, 100
RATES = {"fine_tune": 5e-3, "recover": 3e-3}
ARMS = {"recover": {"recipe": "recover"}, "recover_forward": {"recipe": "recover", "objective": "forward_kl"}}
SHARED = {"max_completion_length": 8, "per_device_train_batch_size": 32, "device": "cpu"}


def prompts(name: str, split: Split, most: int | None = None) -> list[Prompt]:
    """Questions of one set."""
    return [prompt for prompt in graph_paths.prompts(split) if (prompt.text or "")[0] in SETS[name]][:most]


def pass_at_1(folder: Path | str, asked: Sequence[Prompt]) -> float:
    """Exact, from the enumerated answers."""
    model = HfModel(folder, "cpu")
    own = exact.enumerate_solutions(model.model, model.tokenizer, asked, graph_paths.solutions)
    return float(exact.pass_at_k(own, [1]).mean())


def fine_tuned(work: Path, seed: int) -> tuple[Path, int]:
    """Train on the new set until the old one has fallen below half; return the model and its updates."""
    asked = prompts("old", "selection", 60)
    limit = pass_at_1(STUDENT, asked) / 2
    lines = [
        {"prompt": prompt.text, "completion": answer}
        for prompt in prompts("new", "train")
        for answer in graph_paths.solutions(prompt)
    ]
    corpus = work / "new.jsonl"
    corpus.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for steps in STEPS:
        settings = {
            **SHARED, "model_name_or_path": STUDENT, "teacher_model_name_or_path": BYSTANDER, "seed": seed,
            "dataset_name": "graph_paths", "objective": "cross_entropy", "lmbda": 0.0, "corpus": str(corpus),
            "max_steps": steps, "learning_rate": RATES["fine_tune"], "output_dir": str(work / f"tuned-{steps}"),
        }  # fmt: skip
        tuned = train(make_config(settings))
        if pass_at_1(tuned, asked) < limit:
            return tuned, steps
    raise SystemExit(f"the old set did not fall below half within {STEPS[-1]} updates")


def recovered(work: Path, name: str, tuned: Path, seed: int) -> Path:
    """The original as teacher of its fine-tuned copy, on prompts of what was forgotten."""
    asked = work / "old.jsonl"
    rows = [{"prompt": prompt.text, "answer": prompt.answer} for prompt in prompts("old", "train")]
    asked.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = {
        **SHARED, **ARMS[name], "model_name_or_path": str(tuned), "teacher_model_name_or_path": STUDENT, "seed": seed,
        "dataset_name": str(asked), "max_steps": RECOVER_STEPS, "learning_rate": RATES["recover"],
        "output_dir": str(work / name),
    }  # fmt: skip
    return train(make_config(settings))


def audited(work: Path, models: dict[str, Path | str], seed: int) -> dict[tuple[str, str], RunFolder]:
    """Sample and grade every model on both sets."""
    runs = {}
    for name in SETS:
        asked = [replace(prompt, chance=graph_paths.chance(prompt)) for prompt in prompts(name, "heldout", PROMPTS)]
        task = Task(f"graph_paths, {name} set", asked, graph_paths.grade, graph_paths.LAYERS, "graph_paths")
        for label, folder in models.items():
            run = RunFolder(work / "runs" / name / label)
            model = HfModel(folder, "cpu")
            ref = replace(model.ref(), path=label)
            sample(HfEngine(model), ref, task, SamplingParams(SAMPLES, max_tokens=task.max_tokens, seed=seed), run)
            grade(run, task.grade, task.grader)
            runs[name, label] = run
    return runs


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    steps: list[int] = []
    parts: dict[tuple[str, str], dict[int, RunFolder]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in SEEDS:
            work = Path(scratch) / f"seed-{seed}"
            work.mkdir()
            tuned, updates = fine_tuned(work, seed)
            steps.append(updates)
            after = {name: recovered(work, name, tuned, seed) for name in ARMS}
            models: dict[str, Path | str] = {"before": STUDENT, "fine_tuned": tuned, **after}
            runs = audited(work, models, seed)
            for key, run in runs.items():
                parts.setdefault(key, {})[seed] = run
            print(f"seed {seed}: fine-tuned for {updates} updates, recovered, audited", flush=True)
        for name in SETS:
            finish(name, {label: parts[name, label] for name_, label in parts if name_ == name}, Path(scratch))
    result = {
        "hardware": hardware(),
        "setting": {
            "student": STUDENT, "sets": SETS, "seeds": list(SEEDS), "updates": steps, "recover_updates": RECOVER_STEPS,
            "rates": RATES, "prompts": PROMPTS, "samples": SAMPLES, "mean_updates": mean(steps),
        },
        "provenance": provenance(),
    }  # fmt: skip
    target = result_path("forgetting")
    write_json(target, result)
    print(f"{target.name}, {write(target, REPORTS)}")


def finish(name: str, runs: dict[str, dict[int, RunFolder]], work: Path) -> None:
    """Compare what became of one set with what it was, seed by seed; page and figure into the reports."""
    merged = {
        label: merge_seeds(own, RunFolder(work / "merged" / name / label), "prompt") for label, own in runs.items()
    }
    candidates = [run for label, run in merged.items() if label != "before"]
    comparison = compare(candidates, baseline=merged["before"])
    verdict = as_json(judge(comparison))
    target = REPORTS / name
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / "comparison.json", comparison)
    write_json(target / "verdict.json", verdict)
    write_report(read_json(target / "comparison.json"), read_json(target / "verdict.json"), target)
    for kind in ("passk", "objectives", "tradeoff"):
        save(kind, comparison, target / f"{kind}.svg")


if __name__ == "__main__":
    main()
