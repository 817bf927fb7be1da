"""One arm of a study with one seed, in a process of its own; and the runs of several seeds as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from odeval.atomic import hash_files, read_json
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.grading import grade
from odeval.sampling import sample
from odeval.store import RunFolder, part_provenance, read_part, write_table
from odeval.tasks import load_task
from odeval.types import SamplingParams
from odkd.config import make_config


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does: train where there are settings, then sample and grade.

    Attributes:
        name: Of the arm, or "start" or "teacher".
        seed: Of training and sampling.
        settings: Of the training; None for a model that is there already.
        model: Folder that is sampled.
        run: Run folder for the samples.
        task: Name of the task.
        grader: Of a prompts file.
        prompts: How many.
        samples: Completions of each.
        device: As in TrainConfig.
    """

    name: str
    seed: int
    settings: dict[str, Any] | None
    model: str
    run: str
    task: str
    grader: str | None
    prompts: int
    samples: int
    device: str


def run_job(job: Job) -> dict[str, Any] | None:
    """Do a job; what is there already is not done again.

    Returns:
        The ledger of the training, None where nothing was trained.
    """
    import torch

    torch.set_num_threads(1)  # a core for each process, and the same numbers whatever their number
    account = None
    if job.settings is not None:
        from odkd.train import train

        out = train(make_config(job.settings, f"arm {job.name}"))
        account = dict(read_json(out / "training.json")["ledger"])
    task = load_task(job.task, job.grader, job.prompts)
    model = HfModel(job.model, job.device)
    ref = replace(model.ref(), path=job.name)
    params = SamplingParams(n=job.samples, max_tokens=task.max_tokens, seed=job.seed)
    run = RunFolder(Path(job.run))
    sample(HfEngine(model), ref, task, params, run)
    grade(run, task.grade, task.grader)
    return account


def merge_seeds(parts: Mapping[int, RunFolder], target: RunFolder, by: str) -> RunFolder:
    """Write the runs of one arm's seeds as one run, a prompt of each seed being a prompt of its own.

    Args:
        parts: Seed → run, all of the same prompts.
        target: Where to; written anew.
        by: What makes a cluster: "seed", or "prompt".

    Returns:
        target.
    """
    first = next(iter(parts.values()))
    prompts = [
        replace(prompt, id=f"{prompt.prompt_id}@{seed}", cluster=f"seed {seed}" if by == "seed" else prompt.prompt_id)
        for seed, run in parts.items()
        for prompt in run.prompts()
    ]
    old = first.meta()
    models = [run.meta()["model"] for run in parts.values()]
    model = {**models[0], "fingerprint": "+".join(dict.fromkeys(one["fingerprint"] for one in models))}
    for path in [*target.part_paths(target.samples), target.grades]:
        path.unlink(missing_ok=True)
    with target.lock():
        target.open({"model": model, "task": old["task"], "sampling": {**old["sampling"], "seed": None}}, prompts)
        tables = []
        for number, (seed, run) in enumerate(parts.items()):
            made_from = {"seed": seed, "samples": run.fingerprint(run.samples)}
            whole = pa.concat_tables(list(run.iterate(run.samples)))
            write_table(target.samples / f"part-{number:05d}-00000.parquet", _renamed(whole, seed), made_from)
            tables.append(_renamed(read_part(run.grades), seed))
        grader = part_provenance(first.grades)["grader"]
        made = {"samples": target.fingerprint(target.samples), "prompts": hash_files([target.path / "prompts.jsonl"])}
        write_table(target.grades, pa.concat_tables(tables), {**made, "grader": grader})
    return target


def _renamed(table: pa.Table, seed: int) -> pa.Table:
    names = pa.array([f"{name}@{seed}" for name in table["prompt_id"].to_pylist()], pa.string())
    return table.set_column(0, table.schema.field("prompt_id"), names)
