"""The objective study on known truth: many objectives, one start and budget, exact pass@k. Writes reports/objectives.

    python benchmarks/objective_study.py --work FOLDER    # a killed run goes on there; about an hour on 2 cores
    python benchmarks/objective_study.py --quick          # four arms, two seeds: shows that it runs
    python benchmarks/objective_study.py --report-only    # render the newest results again

The learning rate of each arm is the one of its case's rates with the highest exact pass@1 on the selection prompts,
for a training seed used for nothing else; where that is the lowest or the highest, one beyond is tried too.
Everything reported is measured on held-out prompts that no choice has seen.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import objective_report
import torch
from hardware import RESULTS, hardware, result_path
from objective_arms import ARMS, CASES, SELECTION_SEED, VARIANTS, Case, quick_cases, varied
from objective_measure import measure, sampled
from objective_summary import summarise
from testbed_supervised import Supervised, fit, make_supervised

from odeval import testbed
from odeval.atomic import read_json, write_json
from odeval.engines.hf_model import HfModel
from odeval.provenance import provenance
from odkd.checkpoint import save
from odkd.config import make_config
from odkd.train import train

WIDE = Supervised((24, 1, 2, 72), steps=900, batch=128, samples=4)
PEAKED = Supervised((12, 1, 1, 36), steps=400, batch=128)  # on one solution a prompt, from the embedded start
TEACHER_SAMPLES = 4  # of every prompt, in the fixed set that off-policy steps learn from
REPORT = RESULTS.parent.parent / "reports" / "objectives" / "README.md"


def start_folder(world: str, start: str, work: Path) -> Path:
    return testbed.checkpoint(world, start) if start == "warm_start" else work / f"{world}-{start}"


def prepare(world: str, start: str, work: Path) -> dict[str, Any]:
    """Make a start where it is not embedded, and measure it; runs in a process of its own."""
    torch.set_num_threads(1)
    record, folder = work / f"{world}-{start}.json", start_folder(world, start, work)
    if record.exists():
        return dict(read_json(record))
    own, began = testbed.world(world), time.process_time()
    if start == "wide":
        make_supervised(own, WIDE, testbed.checkpoint(world, "teacher"), folder, seed=0)
    elif start == "peaked":
        loaded = HfModel(testbed.checkpoint(world, "warm_start"), "cpu")
        prompts, read = own.prompts("train", None), loaded.tokenizer
        end = read.eos_token_id
        answers = [[[*read(own.solutions(p)[0], add_special_tokens=False)["input_ids"], end]] for p in prompts]
        fit(loaded.model, [read(prompt.text)["input_ids"] for prompt in prompts], answers, PEAKED, seed=0)
        save(loaded.model, read, folder)
    seconds = time.process_time() - began
    size = sum(p.numel() for p in HfModel(folder, "cpu").model.parameters())
    counts = [len(own.solutions(prompt)) for prompt in own.prompts("heldout", 1000)]
    found = {"start": start, "parameters": size, "cpu_seconds": seconds, "solutions": counts}
    found |= {split: measure(world, folder, split) for split in ("selection", "heldout")}
    write_json(record, found)
    return found


def run_arm(case: Case, arm: str, rate: float, seed: int, work: Path, look: bool) -> dict[str, Any]:
    """Train one arm with odkd and measure it; runs in a process of its own."""
    torch.set_num_threads(1)
    split = "selection" if seed == SELECTION_SEED else "heldout"
    name = f"{case.world}-{case.start}-{case.steps}x{case.batch}-{arm}-{rate:g}-{seed}"
    record, out = work / f"{name}.json", work / name
    if record.exists():
        return dict(read_json(record))
    shutil.rmtree(out, ignore_errors=True)  # what a killed run left
    config = make_config(
        {
            **{**ARMS, **VARIANTS}[arm],
            "model_name_or_path": str(start_folder(case.world, case.start, work)),
            "teacher_model_name_or_path": str(testbed.checkpoint(case.world, "teacher")),
            "dataset_name": case.world,
            "output_dir": str(out),
            "learning_rate": rate,
            "max_steps": case.steps,
            "per_device_train_batch_size": case.batch,
            "teacher_samples_per_prompt": TEACHER_SAMPLES,
            "max_completion_length": testbed.world(case.world).max_tokens,
            "save_steps": 10_000,
            "seed": seed,
            "device": "cpu",
        }
    )
    began = time.process_time()
    train(config)
    seconds = time.process_time() - began
    ledger = read_json(out / "training.json")["ledger"]
    row = {"arm": arm, "learning_rate": rate, "seed": seed, "cpu_seconds": seconds, "ledger": ledger}
    row |= measure(case.world, out, split)
    if look:
        row["sampled"] = sampled(case.world, out)
    write_json(record, row)
    shutil.rmtree(out, ignore_errors=True)
    return row


def study(cases: dict[str, Case], work: Path, jobs: int) -> dict[str, Any]:
    """Train and measure everything, case by case."""
    work.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = {}
    chosen: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for name, case in cases.items():
            start = pool.submit(prepare, case.world, case.start, work).result()
            tried, rates = choose(pool, name, case, work, chosen)
            chosen[name] = rates
            todo = [(arm, seed) for seed in case.seeds for arm in case.arms]
            looked_at = (
                case.seeds[0] if len(case.rates) > 1 else None
            )  # whose samples are compared with the exact numbers
            runs = [pool.submit(run_arm, case, arm, rates[arm], seed, work, seed == looked_at) for arm, seed in todo]
            done[name] = {
                "case": case, "start": start, "selection": tried, "rates": rates, "runs": finished(name, runs),
            }  # fmt: skip
    teachers = {case.world: measure_teacher(case.world) for case in cases.values()}
    return summarise(done, teachers)


def choose(
    pool: ProcessPoolExecutor, name: str, case: Case, work: Path, chosen: dict[str, dict[str, float]]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Every run on the selection prompts, and each arm's learning rate."""
    if not case.rates:
        return [], {arm: chosen[case.rates_of][varied(arm)] for arm in case.arms}

    def tried_at(grid: list[tuple[str, float]]) -> list[dict[str, Any]]:
        return finished(
            name, [pool.submit(run_arm, case, arm, rate, SELECTION_SEED, work, False) for arm, rate in grid]
        )

    tried = tried_at([(arm, rate) for arm in case.arms for rate in case.rates])
    tried += tried_at(beyond(case, tried))
    return tried, {arm: best_rate(tried, arm) for arm in case.arms}


def measure_teacher(world: str) -> dict[str, Any]:
    return measure(world, testbed.checkpoint(world, "teacher"), "heldout")


def finished(name: str, futures: Iterable[Any]) -> list[dict[str, Any]]:
    """Wait for runs and tell on the terminal how each came out."""
    rows = []
    for future in futures:
        row = future.result()
        solved = np.array(row["solved"])
        ends = f"pass@1 {solved.mean():.3f}, pass@64 {(1 - (1 - solved) ** 64).mean():.3f}"
        label = f"{name}: {row['arm']} rate {row['learning_rate']:g} seed {row['seed']}"
        print(f"{label}: {row['cpu_seconds']:.0f} s, {ends}", flush=True)
        rows.append(row)
    return rows


def best_rate(rows: list[dict[str, Any]], arm: str) -> float:
    """THE rule: the learning rate of the highest exact pass@1 on the selection prompts."""
    own = [row for row in rows if row["arm"] == arm]
    return float(max(own, key=lambda row: np.mean(row["solved"]))["learning_rate"])


def beyond(case: Case, tried: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """One more rate for every arm that is best at an edge of those tried."""
    found = []
    for arm in case.arms if len(case.rates) > 1 else ():
        best = best_rate(tried, arm)
        if best in (min(case.rates), max(case.rates)):
            found.append((arm, case.beyond[best == max(case.rates)]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--work", type=Path, help="keep every run in this folder; a killed study goes on there")
    parser.add_argument("--only", action="append", choices=CASES, help="these cases (repeatable); the first is needed")
    parser.add_argument("--seeds", type=int, help="only the first so many seeds of every case")
    parser.add_argument("--quick", action="store_true", help="a small version; prints, and leaves the report alone")
    parser.add_argument("--out", type=Path, help="results file; then the report is left alone")
    parser.add_argument("--report-only", action="store_true", help="render the report from the newest results")
    options = parser.parse_args()
    if not options.report_only:
        cases = quick_cases() if options.quick else CASES
        cases = {
            name: replace(case, seeds=case.seeds[: options.seeds])
            for name, case in cases.items()
            if not options.only or name in options.only
        }
        with tempfile.TemporaryDirectory() as scratch:
            found = study(cases, options.work or Path(scratch), options.jobs)
        setting = {"hardware": hardware(), "jobs": options.jobs, "arms": ARMS | VARIANTS, "quick": options.quick,
                   "left_out": [name for name in CASES if name not in found["cases"]],
                   "selection_seed": SELECTION_SEED}  # fmt: skip
        shown = [f"--seeds {options.seeds}"] if options.seeds else []
        shown += [f"--only {name!r}" for name in options.only or []]
        made = {**provenance(), "command": " ".join(["python benchmarks/objective_study.py", *shown])}
        path = options.out or result_path("objective_study_quick" if options.quick else "objective_study")
        write_json(path, {"setting": setting, "cases": found, "provenance": made})
        print(path)
    if not options.quick and not options.out:
        print(objective_report.write(objective_report.newest(RESULTS), REPORT))


if __name__ == "__main__":
    main()
