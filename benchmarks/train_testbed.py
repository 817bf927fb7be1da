"""Train the embedded models from scratch, measure every arm exactly, write results, report and checkpoints.

    python benchmarks/train_testbed.py                 # both worlds, 2 processes of one thread each
    python benchmarks/train_testbed.py --report-only   # render reports/testbed from the stored results again

Per world: a teacher, trained on the true solutions; a small student, trained on the teacher's samples (the
start); and from one start every arm, with three training seeds. The learning rate of each arm is the one of
its plan's rates with the highest exact pass@1 on the selection prompts, for a seed used for nothing else.
Everything reported is measured on held-out prompts that no choice has seen.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import testbed_report
import torch
from hardware import hardware, result_path
from testbed_measure import measure, paired, strip
from testbed_supervised import Supervised, make_supervised

from odeval.atomic import read_json, write_json
from odeval.engines.hf_model import HfModel
from odeval.store import provenance
from odeval.tasks.worlds import Split
from odeval.testbed import WORLDS
from odeval.types import content_hash
from odkd.config import make_config
from odkd.train import train

ARMS: dict[str, dict[str, Any]] = {
    "reverse_kl": {"objective": "reverse_kl", "lmbda": 1.0},
    "forward_kl": {"objective": "forward_kl", "lmbda": 1.0},
    "blend": {"objective": "blend", "forward_weight": 0.3, "lmbda": 1.0},
    "gkd": {"objective": "jsd", "beta": 0.5, "lmbda": 0.5, "seq_kd": True},
}
SEEDS = (0, 1, 2)  # reported; the models of the first are embedded
SELECTION_SEED = 1000
ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / "odeval" / "testbed" / "checkpoints"


@dataclass(frozen=True, slots=True)
class Plan:
    """How one world's models are made. Several starts show whether a finding depends on the start."""

    teacher: Supervised
    starts: dict[str, Supervised]  # the first is the one learning rates are chosen on, and is embedded
    steps: int
    batch: int
    rates: tuple[float, ...]  # tried for every arm


PLANS = {
    "graph_paths": Plan(
        teacher=Supervised((64, 2, 4, 192), steps=1500, batch=128),
        starts={
            "warm_start": Supervised((12, 1, 1, 36), steps=2000, batch=128, samples=4),
            "early_start": Supervised((12, 1, 1, 36), steps=1000, batch=128, samples=4),
        },
        steps=400,
        batch=128,
        rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),  # the smaller the model, the larger the rate it needs
    ),
    "countdown": Plan(
        teacher=Supervised((96, 3, 4, 256), steps=2400, batch=64, rate=2e-3),
        starts={"warm_start": Supervised((64, 2, 4, 192), steps=2000, batch=64, rate=2e-3, samples=4)},
        steps=200,
        batch=32,
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    ),
}


def run_arm(name: str, work: Path, start: str, arm: str, rate: float, seed: int, split: Split) -> dict[str, Any]:
    """Train one arm with odkd and measure it; runs in a process of its own."""
    torch.set_num_threads(1)
    plan, world, teacher = PLANS[name], WORLDS[name], work / name / "teacher"
    out = work / name / f"{start}-{arm}-{rate}-{seed}"
    record = out.parent / f"{out.name}.json"
    if record.exists():
        return dict(read_json(record))
    shutil.rmtree(out, ignore_errors=True)  # what a killed run left
    config = make_config(
        {
            **ARMS[arm],
            "model_name_or_path": str(work / name / start),
            "teacher_model_name_or_path": str(teacher),
            "dataset_name": name,
            "output_dir": str(out),
            "learning_rate": rate,
            "max_steps": plan.steps,
            "per_device_train_batch_size": plan.batch,
            "teacher_samples_per_prompt": next(iter(plan.starts.values())).samples,
            "max_completion_length": world.max_tokens,
            "seed": seed,
            "device": "cpu",
        }
    )
    started = time.process_time()
    train(config)
    seconds = time.process_time() - started
    spent = read_json(out / "training.json")["spent"]
    row = {"arm": arm, "start": start, "learning_rate": rate, "seed": seed, "cpu_seconds": seconds, **spent}
    row |= measure(world, out, teacher, split)
    write_json(record, row)
    return row


def prepare(name: str, work: Path) -> dict[str, Any]:
    """Train the teacher and the starts of a world and measure them; runs in a process of its own."""
    torch.set_num_threads(1)
    world, plan, folder = WORLDS[name], PLANS[name], work / name
    record = folder / "models.json"
    if record.exists():
        return dict(read_json(record))
    models: dict[str, Any] = {}
    for model, how in {"teacher": plan.teacher, **plan.starts}.items():
        taught_by = None if model == "teacher" else folder / "teacher"
        seconds = make_supervised(world, how, taught_by, folder / model, seed=0)
        numbers = measure(world, folder / model, folder / "teacher", "heldout")
        size = sum(p.numel() for p in HfModel(folder / model, "cpu").model.parameters())
        models[model] = {"how": asdict(how), "parameters": size, "cpu_seconds": seconds, **numbers}
        announced(name, {"start": model, "arm": "", "learning_rate": how.rate, "seed": 0, **models[model]})
    write_json(record, models)
    return models


def study(work: Path, jobs: int) -> dict[str, Any]:
    """Train and measure everything."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {name: pool.submit(prepare, name, work) for name in sorted(PLANS)}  # countdown takes longer
        models = {name: future.result() for name, future in waiting.items()}
        grid = {name: [] for name in PLANS}
        for name, plan in PLANS.items():
            jobs_of = [(next(iter(plan.starts)), arm, rate, SELECTION_SEED) for arm in ARMS for rate in plan.rates]
            grid[name] = [pool.submit(run_arm, name, work, *job, "selection") for job in jobs_of]
        tried = {name: [announced(name, future.result()) for future in futures] for name, futures in grid.items()}
        rates = {name: {arm: best_rate(rows, arm) for arm in ARMS} for name, rows in tried.items()}
        runs = {
            name: [
                pool.submit(run_arm, name, work, start, arm, rates[name][arm], seed, "heldout")
                for start in plan.starts
                for arm in ARMS
                for seed in SEEDS
            ]
            for name, plan in PLANS.items()
        }
        done = {name: [announced(name, future.result()) for future in futures] for name, futures in runs.items()}
    return {name: summary(name, models[name], tried[name], rates[name], done[name]) for name in PLANS}


def best_rate(rows: list[dict[str, Any]], arm: str) -> float:
    """THE rule: the learning rate of the highest exact pass@1 on the selection prompts."""
    own = [row for row in rows if row["arm"] == arm]
    return float(max(own, key=lambda row: row["pass_at_k"]["1"])["learning_rate"])


def announced(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Tell on the terminal how a run came out."""
    first, last = row["pass_at_k"]["1"], row["pass_at_k"]["64"]
    label = f"{name} {row['start']} {row['arm']} rate {row['learning_rate']} seed {row['seed']}"
    print(f"{label}: {row['cpu_seconds']:.0f} s, pass@1 {first:.3f}, pass@64 {last:.3f}", flush=True)
    return row


def summary(
    name: str,
    models: dict[str, Any],
    tried: list[dict[str, Any]],
    rates: dict[str, float],
    runs: list[dict[str, Any]],
) -> dict[str, Any]:
    """Everything about one world that is stored."""
    changes = []
    for start in PLANS[name].starts:
        for arm in ARMS:
            own = [row for row in runs if (row["start"], row["arm"]) == (start, arm)]
            changes.append({"start": start, "arm": arm, **paired(own, models[start])})
    return {
        "world": content_hash([prompt.text for prompt in WORLDS[name].prompts("heldout", None)]),
        "heldout_prompts": len(models["teacher"]["per_prompt"]),
        "steps": PLANS[name].steps,
        "batch": PLANS[name].batch,
        "rates": PLANS[name].rates,
        "models": {model: strip(row) for model, row in models.items()},
        "selection": [strip(row) for row in tried],
        "learning_rates": rates,
        "runs": [strip(row) for row in runs],
        "difference_to_start": [strip(row) for row in changes],
    }


def embed(worlds: dict[str, Any], work: Path) -> None:
    """Copy teacher, first start and the first seed of each arm into the package, each with its history."""
    shutil.rmtree(CHECKPOINTS, ignore_errors=True)
    for name, result in worlds.items():
        first = next(iter(PLANS[name].starts))
        for model in ("teacher", first, *ARMS):
            history: dict[str, Any] = {"world": name, "model": model}
            if model in ARMS:
                row = next(r for r in result["runs"] if (r["start"], r["arm"], r["seed"]) == (first, model, SEEDS[0]))
                source = work / name / f"{first}-{model}-{row['learning_rate']}-{SEEDS[0]}"
                config = read_json(source / "training.json")["config"]
                names = {
                    "model_name_or_path": first,
                    "teacher_model_name_or_path": "teacher",
                    "output_dir": model,
                }
                history |= {"config": config | names, "exact": row}
            else:
                source, history["exact"] = work / name / model, result["models"][model]
            target = CHECKPOINTS / name / ("warm_start" if model == first else model)
            target.mkdir(parents=True)
            for file in ("config.json", "generation_config.json", "model.safetensors"):
                shutil.copyfile(source / file, target / file)  # not its mode: safetensors writes 0600
            for file in ("tokenizer.json", "tokenizer_config.json"):  # one vocabulary, so one file
                shutil.copyfile(work / name / "teacher" / file, target / file)
            write_json(target / "training.json", {**history, "versions": provenance()["versions"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument(
        "--work", type=Path, help="keep every trained model in this folder; a killed run continues there"
    )
    parser.add_argument("--report-only", action="store_true", help="render the report from the newest results")
    options = parser.parse_args()
    results = ROOT / "benchmarks" / "results"
    if not options.report_only:
        with tempfile.TemporaryDirectory() as scratch:
            work = options.work or Path(scratch)
            worlds = study(work, options.jobs)
            embed(worlds, work)
        setting = {
            "hardware": hardware(), "jobs": options.jobs, "arms": ARMS, "seeds": SEEDS,
            "selection_seed": SELECTION_SEED,
        }  # fmt: skip
        made = {**provenance(), "command": "python benchmarks/train_testbed.py"}
        path = result_path("testbed")
        write_json(path, {"setting": setting, "worlds": worlds, "provenance": made})
    newest = max(results.glob("testbed_*.json"), key=lambda path: path.stat().st_mtime)
    print(testbed_report.write(newest, ROOT / "reports" / "testbed" / "README.md"))


if __name__ == "__main__":
    main()
