"""Arms at equal budget: every arm from one base, with the same prompts, seeds, completions and updates.

    base:                     # as in `odkd train`, without output_dir and seed
      model_name_or_path: embedded:graph_paths/warm_start
      teacher_model_name_or_path: embedded:graph_paths/teacher
      dataset_name: graph_paths
      max_steps: 50
    arms:
      reverse_kl: {recipe: reverse_kl}
      gkd: {recipe: gkd}
    seeds: [0, 1, 2]
    out: runs/study
    task: graph_paths         # held-out prompts; and prompts, samples, rules, baseline, jobs

Each (arm, seed) is trained and sampled in a process of its own; a study that was killed goes on where it stopped. The
runs are then compared twice by odeval: with a seed as a cluster (would other training seeds tell the same?) and with a
prompt as one (would other prompts?). The start and the teacher are sampled anew for every seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from odeval.atomic import read_json, write_json
from odeval.compare import CompareSettings, compare
from odeval.config import GateConfig, load_yaml
from odeval.errors import OdevalError, unknown
from odeval.gate import as_json, judge
from odeval.report import write_report
from odeval.store import RunFolder
from odkd.arms import Job, merge_seeds, run_job
from odkd.config import make_config

# What makes arms comparable: one arm must not have more of it than another.
_BUDGET = {
    "model_name_or_path", "teacher_model_name_or_path", "dataset_name", "output_dir", "seed", "max_steps",
    "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "max_completion_length",
    "max_new_tokens", "teacher_samples_per_prompt",
}  # fmt: skip
CLUSTERS = ("seed", "prompt")


class Study(BaseModel):
    """A study file.

    Attributes:
        base: Settings of every arm.
        arms: Name → settings that differ; `recipe` takes a published method's.
        seeds: Each arm is trained once with each.
        out: Folder of everything.
        task: Held-out prompts: a task of odeval, or a prompts file with `grader`.
        grader: Of a prompts file.
        prompts: How many of them.
        samples: Completions of each.
        baseline: What arms are compared with beside the teacher: "start", or an arm's name.
        rules: Rules file of the gate.
        jobs: Processes; as many as there are cores by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: dict[str, Any]
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    out: Path
    task: str
    grader: str | None = None
    prompts: int = Field(200, ge=2)
    samples: int = Field(32, ge=2)
    baseline: str = "start"
    rules: Path | None = None
    jobs: int | None = Field(None, ge=1)


def run_study(path: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train, sample and compare every arm of a study.

    Args:
        path: The study file.
        tell: Given a line when something is done.

    Returns:
        `arms`: per arm its ledger (mean over seeds), pass@k, and differences to the baseline with an interval over
        seeds and one over prompts; `report`: path of the page.

    Raises:
        OdevalError: The file is wrong, or an arm cannot be run.
    """
    study = load_yaml(path, Study)
    jobs = _jobs(study, str(path))
    rules = load_yaml(study.rules, GateConfig) if study.rules else None
    ledgers: dict[str, list[dict[str, Any]]] = {name: [] for name in study.arms}
    workers = min(study.jobs or os.cpu_count() or 1, len(jobs))
    for job, account in _done(jobs, workers):
        if account is not None:
            ledgers[job.name].append(account)
        tell(f"{job.name} seed {job.seed}: done")
    comparisons = {by: _compare(study, by) for by in CLUSTERS}
    judgements = judge(comparisons["prompt"], rules, str(study.rules or "default rules"))
    write_json(study.out / "comparison.json", comparisons["prompt"])
    write_json(study.out / "comparison-by-seed.json", comparisons["seed"])
    verdict = as_json(judgements, rules)
    write_json(study.out / "verdict.json", verdict)
    report = write_report(comparisons["prompt"], verdict, study.out)
    verdicts = {judgement.candidate: judgement.verdict for judgement in judgements}
    arms = {name: _arm(name, ledgers[name], comparisons, verdicts) for name in study.arms if name != study.baseline}
    found = {
        "baseline": study.baseline, "seeds": list(study.seeds), "prompts": study.prompts, "samples": study.samples,
        "arms": arms, "report": str(report),
    }  # fmt: skip
    write_json(study.out / "study.json", found)
    return found


def _done(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, dict[str, Any] | None]]:
    """Do every job, in processes of their own where there are cores for several; yields what is done."""
    if workers == 1:
        yield from ((job, run_job(job)) for job in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run_job, job): job for job in jobs}
        yield from ((waiting[done], done.result()) for done in as_completed(waiting))


def _jobs(study: Study, where: str) -> list[Job]:
    if study.baseline != "start" and study.baseline not in study.arms:
        raise OdevalError(f"{where}: baseline: {unknown('arm', study.baseline, ['start', *study.arms])}")
    for name in study.arms:
        if name in ("start", "teacher"):
            raise OdevalError(f"{where}: an arm is called {name}, which is the name of the run it is compared with")
    jobs = []
    for seed in study.seeds:
        for name, settings in study.arms.items():
            if unequal := sorted(_BUDGET & settings.keys()):
                raise OdevalError(f"{where}: arm {name} sets {unequal[0]}, so budgets would differ; set it in base")
            out = study.out / "arms" / name / f"seed-{seed}"
            merged = {**study.base, **settings, "seed": seed, "output_dir": str(out)}
            make_config(merged, f"{where}, arm {name}")
            jobs.append(_job(study, name, seed, merged, str(out)))
        for name, key in (("start", "model_name_or_path"), ("teacher", "teacher_model_name_or_path")):
            jobs.append(_job(study, name, seed, None, str(study.base[key])))
    return jobs


def _job(study: Study, name: str, seed: int, settings: dict[str, Any] | None, model: str) -> Job:
    run = study.out / "runs" / name / f"seed-{seed}"
    return Job(
        name, seed, settings, model, str(run), study.task, study.grader, study.prompts, study.samples,
        str(study.base.get("device", "auto")),
    )  # fmt: skip


def _compare(study: Study, by: str) -> dict[str, Any]:
    runs = {}
    for name in ("start", "teacher", *study.arms):
        parts = {seed: RunFolder(study.out / "runs" / name / f"seed-{seed}") for seed in study.seeds}
        runs[name] = merge_seeds(parts, RunFolder(study.out / f"by-{by}" / name), by)
    candidates = [run for name, run in runs.items() if name not in ("start", "teacher", study.baseline)]
    shown = {run.label: study.out / "arms" / run.label / f"seed-{study.seeds[0]}" for run in candidates}
    return compare(candidates, runs["teacher"], runs[study.baseline], CompareSettings(), shown)


def _arm(
    name: str, ledgers: list[dict[str, Any]], comparisons: dict[str, dict[str, Any]], verdicts: Mapping[str, str]
) -> dict[str, Any]:
    found: dict[str, Any] = {"verdict": verdicts[name], "ledger": _mean(ledgers), "pass@k": {}}
    for by, comparison in comparisons.items():
        pair = next(p for p in comparison["pairs"] if p["candidate"] == name and p["role"] == "baseline")["pass_at_k"]
        rows = zip(
            pair["k"],
            pair["candidate"],
            pair["difference"],
            pair["population"]["low"],
            pair["population"]["high"],
            strict=True,
        )
        for k, value, change, low, high in rows:
            own = found["pass@k"].setdefault(str(k), {"value": value, "difference": change})
            own[f"over_{by}s"] = [low, high]
    return found


def _mean(ledgers: list[dict[str, Any]]) -> dict[str, float]:
    """The ledgers of an arm's seeds in one: totals, mean over seeds."""
    names = (
        "updates",
        "tokens_sampled",
        "tokens_trained",
        "tokens_scored_by_teacher",
        "flops",
        "seconds",
        "peak_memory_bytes",
    )
    plain = [{n: one[n]["all"] if isinstance(one[n], dict) else one[n] for n in names} for one in ledgers]
    return {name: sum(one[name] for one in plain) / len(plain) for name in names}


def lines_of(found: dict[str, Any]) -> list[str]:
    """The study for people: what each arm bought, and what it cost."""
    ks = [1, max(int(k) for arm in found["arms"].values() for k in arm["pass@k"])]
    head = f"{'arm':<20}" + "".join(f"{f'pass@{k}':>8} {'over seeds':>16} {'over prompts':>16}" for k in ks)
    setting = f"{len(found['seeds'])} seeds, {found['prompts']} prompts × {found['samples']} samples, 95 % bands"
    lines = [
        f"against {found['baseline']}: difference of pass@k in points, {setting}",
        head + f"{'sampled':>9} {'scored':>9} {'FLOPs':>9} {'seconds':>8} {'MiB':>6}  verdict",
    ]
    for name, arm in found["arms"].items():
        cells = "".join(_cell(arm["pass@k"][str(k)]) for k in ks)
        cost = arm["ledger"]
        counts = f"{cost['tokens_sampled']:>9.0f} {cost['tokens_scored_by_teacher']:>9.0f} {cost['flops']:>9.2g}"
        spent = f"{cost['seconds']:>8.1f} {cost['peak_memory_bytes'] / 2**20:>6.0f}"
        lines.append(f"{name:<20}{cells}{counts} {spent}  {arm['verdict']}")
    return [*lines, found["report"]]


def _cell(point: dict[str, Any]) -> str:
    spans = [
        "unknown" if None in point[key] else f"[{100 * point[key][0]:+.1f}, {100 * point[key][1]:+.1f}]"
        for key in ("over_seeds", "over_prompts")
    ]
    return f"{100 * point['difference']:>+8.1f} {spans[0]:>16} {spans[1]:>16}"


def read_study(out: Path) -> dict[str, Any]:
    """Read back what `run_study` returned."""
    found: dict[str, Any] = read_json(out / "study.json")
    return found
