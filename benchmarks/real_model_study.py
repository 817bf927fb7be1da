"""Reverse, forward and blended KL on a real language model: SmolLM2-135M, a pruned student, reasoning-gym's countdown.

    python benchmarks/real_model_study.py            # needs `make models`; about two hours on one thread, resumable

    1. how far the model as it is, few-shot, lies from guessing
    2. the teacher: the same model fine-tuned on right answers, drawn evenly from all right ones
    3. the start: the teacher with a third of its layers dropped, warmed up by forward KL on right answers
    4. three arms from that start, equal prompts, seeds, updates, completions and learning rate
    5. audit of all of them by odeval on held-out prompts, gate and report

Everything is kept in runs/real_model; killed, the same command goes on. The result is written to benchmarks/results and
rendered into reports/real_model by real_model_report.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import countdown_task
import numpy as np
import real_models
import torch
from hardware import hardware, result_path
from real_model_report import changed, verdict, write

from odeval.atomic import read_json, write_json
from odeval.chance import chance_of
from odeval.compare import compare
from odeval.curves import curve_per_prompt
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.gate import as_json, judge
from odeval.grading import grade
from odeval.measure import measure
from odeval.pairing import columns, counts_of
from odeval.plots import save
from odeval.report import write_report
from odeval.sampling import sample
from odeval.scoring import score
from odeval.stats import estimate, linearise
from odeval.store import RunFolder, provenance
from odeval.tasks import load_task
from odeval.types import SamplingParams
from odkd.config import make_config
from odkd.train import train

REPORTS = Path(__file__).resolve().parent.parent / "reports" / "real_model"
FIGURES = ("passk", "objectives", "tradeoff", "coverage", "diversity")
FIGURES_OF_SCORES = ("retention", "branches", "tokens")
RUNS = Path("runs/real_model")
MODEL = Path("models") / real_models.TEACHER
TRAIN, HELDOUT, TEACHING = 3000, 300, 3000
PROMPTS, SAMPLES, MAX_TOKENS, SEED = 60, 32, 16, 0
LAYERS_OF_TEACHER, LAYERS = 30, 26
BATCH = "per_device_train_batch_size"
SHOTS = 4
TEACHER = {
    "objective": "cross_entropy", "lmbda": 0.0, "corpus": str(RUNS / "data" / "corpus.jsonl"), "max_steps": 90,
    BATCH: 32, "learning_rate": 1.5e-4, "lr_scheduler_type": "cosine", "warmup_steps": 8,
}  # fmt: skip
WARM_UP = {
    "objective": "forward_kl", "lmbda": 0.0, "corpus": str(RUNS / "data" / "corpus.jsonl"), "max_steps": 14,
    "learning_rate": 2e-4, "warmup_steps": 2,
}  # fmt: skip
ARM = {
    "max_steps": 240, "num_generations": 4, "learning_rate": 1e-4, "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 3,
}  # fmt: skip
ARMS: dict[str, dict[str, Any]] = {
    "reverse_kl": {"recipe": "reverse_kl"},
    "forward_kl": {"recipe": "forward_kl"},
    "blend": {"recipe": "blend", "forward_weight": 0.3},
}
SHARED = {
    "dataset_name": str(RUNS / "data" / "train.jsonl"), BATCH: 16,
    "max_completion_length": MAX_TOKENS, "save_steps": 1000, "seed": SEED, "device": "cpu",
}  # fmt: skip


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def data() -> None:
    """The task's files, written once; all three are functions of the seed."""
    folder = RUNS / "data"
    if not (folder / "train.jsonl").is_file():
        countdown_task.write(folder / "heldout.jsonl", countdown_task.rows("heldout", HELDOUT))
        countdown_task.write(folder / "corpus.jsonl", countdown_task.corpus("train", TEACHING))
        countdown_task.write(folder / "train.jsonl", countdown_task.rows("train", TRAIN))
    if not (folder / "few_shot.jsonl").is_file():
        countdown_task.write(folder / "few_shot.jsonl", few_shot(folder))


def few_shot(folder: Path) -> list[dict[str, Any]]:
    """The held-out questions after solved ones, for a model that has never seen the task."""
    solved = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()[:SHOTS]]
    before = "".join(f"{row['prompt']}{row['completion']}\n" for row in solved)
    asked = [json.loads(line) for line in (folder / "heldout.jsonl").read_text().splitlines()]
    return [{**row, "prompt": f"{before}{row['prompt']}"} for row in asked]


def trained(name: str, student: Path, teacher: Path, settings: dict[str, Any]) -> Path:
    """Train a model into runs/real_model/<name>; what is there already is kept."""
    out = RUNS / name
    where = {
        "model_name_or_path": str(student), "teacher_model_name_or_path": str(teacher), "output_dir": str(out)
    }  # fmt: skip
    say(f"train {name}")
    return train(make_config({**SHARED, **settings, **where}, name))


def dropped(source: Path, layers: int, name: str) -> Path:
    """A copy of a model with fewer layers, untrained."""
    return real_models.whole(RUNS / name, lambda target: real_models.prune(source, target, layers), f"{layers} layers")


def answered(name: str, model: Path, prompts: str, samples: int, first: int) -> RunFolder:
    """Sample and grade a run."""
    run = RunFolder(RUNS / "audit" / name)
    task = load_task(str(RUNS / "data" / prompts), "reasoning_gym", first, MAX_TOKENS)
    say(f"sample {name}")
    engine = HfEngine(HfModel(model, "cpu"))
    sample(engine, engine.ref(), task, SamplingParams(samples, max_tokens=MAX_TOKENS, seed=SEED), run)
    grade(run, task.grade, task.grader)
    return run


def scored(models: dict[str, Path], runs: dict[str, RunFolder], names: Sequence[str]) -> None:
    """Score each arm against the teacher, on the teacher's completions."""
    for name in names:
        say(f"score {name}")
        both = (HfModel(models[side], "cpu") for side in ("teacher", name))
        score(*both, runs["teacher"], runs[name], trajectories=("teacher",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", choices=("teacher", "start", "arms"), help="stop there")
    parser.add_argument("--no-score", action="store_true", help="leave token metrics out, a third of the audit's time")
    given = parser.parse_args()
    until = given.until
    torch.set_num_threads(1)
    data()
    bystander = dropped(MODEL, 2, "bystander")  # cross-entropy asks no teacher, but odkd measures against one
    models = {"teacher": trained("teacher", MODEL, bystander, TEACHER)}
    if until == "teacher":
        return
    pruned = dropped(models["teacher"], LAYERS, "pruned")
    models["start"] = trained("warm_start", pruned, models["teacher"], WARM_UP)
    if until == "start":
        return
    for name, settings in ARMS.items():
        models[name] = trained(f"arms/{name}", models["start"], models["teacher"], {**ARM, **settings})
    if until == "arms":
        return
    runs = {name: answered(name, model, "heldout.jsonl", SAMPLES, PROMPTS) for name, model in models.items()}
    raw = answered("as_it_is", MODEL, "few_shot.jsonl", SAMPLES, PROMPTS)
    if not given.no_score:
        scored(models, runs, list(ARMS))
    finish(runs, raw)


def finish(runs: dict[str, RunFolder], raw: RunFolder) -> None:
    """Compare, judge, draw, and keep what the report is rendered from."""
    arms = [runs[name] for name in ARMS]
    comparison = compare(arms, teacher=runs["teacher"], baseline=runs["start"])
    judged = as_json(judge(comparison))
    REPORTS.mkdir(parents=True, exist_ok=True)
    write_json(REPORTS / "comparison.json", comparison)
    write_json(REPORTS / "verdict.json", judged)
    write_report(comparison, judged, REPORTS)
    told = any("retention@teacher" in run["metrics"] for run in comparison["runs"])
    for kind in (*FIGURES, *(FIGURES_OF_SCORES if told else ())):
        save(kind, comparison, REPORTS / f"{kind}.svg")
    reverse = compare(arms[1:], baseline=arms[0])
    example = load_task(str(RUNS / "data" / "heldout.jsonl"), "reasoning_gym", 1).prompts[0]
    against = [
        {"candidate": pair["candidate"], "at": {str(k): changed(pair, k) for k in comparison["settings"]["ks"]}}
        for pair in reverse["pairs"]
    ]
    result = {
        "hardware": hardware(),
        "setting": {
            "package": real_models.PACKAGE, "layers": {"teacher": LAYERS_OF_TEACHER, "student": LAYERS},
            "teacher": TEACHER, "warm_up": WARM_UP, "arm": ARM, "arms": ARMS, "batch": SHARED[BATCH], "seed": SEED,
            "example": example.text, "solutions": solutions_each(), "prompts": PROMPTS, "samples": SAMPLES,
        },
        "verdict": verdict(comparison, list(ARMS), against),
        "as_it_is": {"shots": SHOTS, **alone(raw, comparison["settings"]["ks"])},
        "against_reverse": against,
        "ledgers": {
            name: read_json(RUNS / folder / "training.json")["ledger"]
            for name, folder in {"teacher": "teacher", "start": "warm_start", **{a: f"arms/{a}" for a in ARMS}}.items()
        },
        "provenance": provenance(),
    }  # fmt: skip
    target = result_path("real_model_study")
    write_json(target, result)
    say(f"{target.name}, {write(target, REPORTS)}")


def alone(run: RunFolder, ks: Sequence[int]) -> dict[str, Any]:
    """One run's curve with intervals over prompts, and the floor beside it."""
    own = measure(run, "as it is", 0.8)
    names = sorted(own.prompts)
    curve = linearise(curve_per_prompt(counts_of(own, names), np.asarray(names, dtype=object), ks), names)
    floor = chance_of([own], ks)
    return {"k": list(ks), **columns(estimate(curve, 0.95, (0, 1))), "chance": floor and floor["value"]}


def solutions_each() -> float:
    """Right answers of a held-out question, on average."""
    rows = [json.loads(line) for line in (RUNS / "data" / "heldout.jsonl").read_text().splitlines()[:PROMPTS]]
    known = [json.loads(row["answer"])["metadata"] for row in rows]
    return mean(len(countdown_task.solutions(entry["numbers"], entry["target"])) for entry in known)


if __name__ == "__main__":
    main()
