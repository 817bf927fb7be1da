"""Verbs that call models: demo, audit, sample, grade, score."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from odeval.commands.options import parse_ks, parse_whole
from odeval.executors import Executor

Samples = Annotated[int | None, Parameter(name=["-n", "--n"])]
On = Annotated[Executor, Parameter(name="*")]  # its fields are flags
_HERE = Executor()


def demo(
    *,
    out: Path = Path("odeval-demo"),
    world: str = "graph_paths",
    n: Samples = None,
    limit: int | None = None,
    strict: bool = False,
) -> int:
    """Audit the embedded students against the embedded teacher, offline.

    Args:
        out: Folder for runs and report; rerun to continue.
        world: graph_paths or countdown.
        n: Completions per prompt (64).
        limit: Held-out prompts (400: enough to see a 5-point drop, says `odeval plan`).
        strict: Exit 3 when the verdict is inconclusive.
    """
    from odeval import testbed
    from odeval.audit import AuditConfig

    students = [
        testbed.embedded(world, name) for name in testbed.models(world) if name not in ("teacher", "warm_start")
    ]
    config = AuditConfig(
        students=tuple(students), teacher=testbed.embedded(world, "teacher"),
        baseline=testbed.embedded(world, "warm_start"), task=world, out=out / world, n=n or 64, limit=limit or 400,
    )  # fmt: skip
    return _audit(config, strict, quiet=False, as_json=False)


def audit(
    students: list[Path] | None = None, /, *, teacher: Path | None = None, task: str | None = None,
    out: Path | None = None, baseline: Path | None = None, grader: str | None = None, n: Samples = None,
    limit: int | None = None,
    temperature: float | None = None, top_p: float | None = None, top_k: int | None = None,
    max_tokens: int | None = None, seed: int | None = None, ks: str | None = None,
    threshold: float | None = None, rules: Path | None = None, looks: str | None = None, confirm: bool | None = None,
    pilot: int | None = None,
    device: str | None = None, engine: str | None = None, base_url: list[str] | None = None,
    endpoint: Literal["completions", "chat"] | None = None, concurrency: int | None = None,
    key_variable: str | None = None, executor: Literal["local", "ray"] | None = None, workers: int | None = None,
    ray_address: str | None = None, config: Path | None = None, print_config: bool = False, strict: bool = False,
    json: bool = False, quiet: bool = False,
) -> int:  # fmt: skip
    """Sample, grade, score, compare, gate and report, in one resumable run.

    Args:
        students: Model folders to audit (Hugging Face format).
        teacher: Folder of the model they were distilled from.
        task: A built-in task (see `odeval tasks`) or a prompts file (.jsonl).
        out: Folder for runs, comparison, verdict and report; rerun to continue.
        baseline: Folder of the model a student must not be worse than: itself before distillation, or the last release.
        grader: For a prompts file: exact, numeric, choice or regex.
        n: Completions per prompt (64).
        limit: Use the first LIMIT prompts.
        temperature: 1 by default.
        top_p: 1 by default, cuts nothing.
        top_k: 0 by default, cuts nothing.
        max_tokens: Per completion.
        seed: Of the run (0).
        ks: Comma-separated k of the curve; powers of two up to n by default.
        threshold: Entropy of a branch point in nats (0.8).
        rules: YAML file of gate rules.
        looks: Comma-separated samples per prompt at which to judge and perhaps stop, such as 8,16,32,64.
        confirm: Repeat a FAIL once with fresh samples; it stands only if it comes again.
        pilot: Prompts asked once first, three completions shown with answer and grade; their samples are kept. 8, or 0
            for embedded models.
        device: cpu, cuda or auto.
        engine: hf, vllm or server; with server, models are names that it knows, and entropies are bounds at best.
        base_url: For server: its address up to and with /v1; several for replicas that serve all these models.
        endpoint: For server: completions or chat.
        concurrency: For server: requests in flight (32).
        key_variable: For server: environment variable that holds its key.
        executor: local, or ray to spread the parts of every stage over Ray's workers; the files are the same.
        workers: For ray: how many; by default one a GPU, or without GPUs one for every OMP_NUM_THREADS cores.
        ray_address: For ray: of a running cluster, else RAY_ADDRESS, else Ray is started on this machine.
        config: YAML file with any of these settings.
        print_config: Print the resolved settings and where each came from, and stop.
        strict: Exit 3 when the verdict is inconclusive.
        json: Print verdict.json on stdout and nothing else.
        quiet: No progress.
    """
    from odeval.audit import AuditConfig
    from odeval.config import resolve

    flags = {
        "students": students, "teacher": teacher, "task": task, "out": out, "baseline": baseline, "grader": grader,
        "n": n, "limit": limit, "temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens,
        "seed": seed,
        "ks": parse_ks(ks), "threshold": threshold, "rules": rules,
        "looks": None if looks is None else parse_whole(looks, "--looks"), "confirm": confirm, "pilot": pilot,
        "device": device,
        "engine": engine, "base_url": base_url, "endpoint": endpoint, "concurrency": concurrency,
        "key_variable": key_variable, "executor": executor, "workers": workers, "ray_address": ray_address,
    }  # fmt: skip
    resolved, sources = resolve(AuditConfig, flags, config, os.environ)
    if print_config:
        for key, value in resolved.model_dump(mode="json").items():
            print(f"{key}: {jsonlib.dumps(value, ensure_ascii=False)}  # {sources[key]}")
        return 0
    return _audit(resolved, strict, quiet, json)


def sample(
    model: str, /, *, task: str, out: Path, grader: str | None = None,
    n: Annotated[int, Parameter(name=["-n", "--n"])] = 64, limit: int | None = None,
    temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, max_tokens: int | None = None, seed: int = 0,
    engine: str = "hf", device: str = "auto", base_url: list[str] | None = None,
    endpoint: Literal["completions", "chat"] = "completions", concurrency: int = 32, timeout: float = 600,
    retries: int = 6, key_variable: str = "", on: On = _HERE, quiet: bool = False,
) -> int:  # fmt: skip
    """Draw n completions per prompt into a run folder; a larger n extends the run.

    Args:
        model: Folder in Hugging Face format; for the engine server the name it knows the model by.
        task: A built-in task or a prompts file.
        out: The run folder.
        grader: For a prompts file, recorded for `odeval grade`.
        n: Completions per prompt.
        limit: Use the first LIMIT prompts.
        temperature: 0 is greedy and needs n 1.
        top_p: 1 cuts nothing.
        top_k: 0 cuts nothing.
        max_tokens: Per completion; the task's own by default.
        seed: Of the run.
        engine: hf, vllm or server.
        device: cpu, cuda or auto.
        base_url: For server: its address up to and with /v1; several for replicas of one model.
        endpoint: For server: chat asks through its chat template, a plain prompt as one turn of the user's.
        concurrency: For server: requests in flight.
        timeout: For server: seconds for one request.
        retries: For server: how often a request is tried again.
        key_variable: For server: environment variable that holds its key.
        on: Where parts are sampled.
        quiet: No progress.
    """
    from operator import methodcaller

    from odeval.engines import engine_crew
    from odeval.engines.base import EngineOptions
    from odeval.sampling import sample
    from odeval.store import RunFolder
    from odeval.tasks import load_task
    from odeval.types import SamplingParams

    loaded = load_task(task, grader, limit, max_tokens)
    params = SamplingParams(n, temperature, top_p, top_k, loaded.max_tokens, seed)
    from odeval.terminal import stages

    urls = tuple(base_url or ())
    options = EngineOptions(model, device, urls, endpoint, concurrency, timeout, retries, key_variable)
    with engine_crew(engine, options, on) as crew:
        if limits := crew.ask(methodcaller("limits")):
            print(f"odeval: {limits}", file=sys.stderr)
        with stages(quiet) as stage, stage(f"sample {out.name}") as advance:
            sample(crew, crew.ask(methodcaller("ref")), loaded, params, RunFolder(out), advance)
    print(out)
    return 0


def grade(run: Path, /, *, grader: str | None = None, force: bool = False, on: On = _HERE, quiet: bool = False) -> int:
    """Grade a run's completions. Never samples.

    Args:
        run: A run folder.
        grader: Use this grader instead of the recorded one.
        force: Grade again even if the grades are up to date.
        on: Where parts are graded.
        quiet: No progress.
    """
    from odeval.grading import grade, summary
    from odeval.store import RunFolder
    from odeval.tasks import grader_of
    from odeval.terminal import stages

    folder = RunFolder(run)
    name, function = grader_of(folder.meta()["task"], grader)
    with on.crew(lambda: function) as crew, stages(quiet) as stage, stage(f"grade {folder.label}") as advance:
        grade(folder, crew, name, advance, force)
    print(summary(folder))
    return 0


def score(
    run: Path, /, *, teacher_run: Path, student: str | None = None, teacher: str | None = None, device: str = "auto",
    engine: str = "hf", base_url: list[str] | None = None, teacher_base_url: list[str] | None = None,
    top_logprobs: int = 20, vocab_size: int | None = None, concurrency: int = 32, timeout: float = 600,
    retries: int = 6, key_variable: str = "", on: On = _HERE, quiet: bool = False,
) -> int:  # fmt: skip
    """Score teacher and student at every token of both runs, into the student's run folder.

    The engine hf scores with both whole distributions. vllm and server tell the likeliest tokens, which bound
    entropies, retention and shares of high-entropy tokens; what they cannot decide is counted.

    Args:
        run: The student's run folder.
        teacher_run: The teacher's run folder.
        student: The student's model folder, or a server's name for it; the one recorded in the run by default.
        teacher: The teacher's; the one recorded in its run by default.
        device: cpu, cuda or auto.
        engine: hf, vllm or server.
        base_url: For server: addresses of the student's, up to and with /v1.
        teacher_base_url: For server: addresses of the teacher's; those of base_url by default.
        top_logprobs: For vllm and server: likeliest tokens to ask for at each position.
        vocab_size: For server: tokens of the vocabulary; unknown, 2^20 are assumed, which widens the upper bounds.
        concurrency: For server: requests in flight.
        timeout: For server: seconds for one request.
        retries: For server: how often a request is tried again.
        key_variable: For server: environment variable that holds its key.
        on: Where parts are scored, by the engines hf and vllm.
        quiet: No progress.
    """
    from odeval.engines.base import LARGEST_VOCABULARY, EngineOptions
    from odeval.scoring_pairs import bound_pair, score_pair
    from odeval.store import RunFolder
    from odeval.terminal import stages

    own, other = RunFolder(run), RunFolder(teacher_run)
    models = [given or str(folder.meta()["model"]["path"]) for given, folder in ((teacher, other), (student, own))]
    with stages(quiet) as stage:
        if engine == "hf":
            score_pair((Path(models[0]), Path(models[1])), other, own, device, stage, on)
        else:
            urls = tuple(base_url or ())
            places = [tuple(teacher_base_url or urls), urls]
            options = [
                EngineOptions(
                    model.removeprefix("server:"), device, place, "completions", concurrency, timeout, retries,
                    key_variable, vocab_size or LARGEST_VOCABULARY,
                )
                for model, place in zip(models, places, strict=True)
            ]  # fmt: skip
            bound_pair(engine, options, other, own, top_logprobs, stage, on)
    print(own.path / "tokens")
    return 0


def _audit(config: Any, strict: bool, quiet: bool, as_json: bool) -> int:
    from odeval.audit import audit
    from odeval.gate import exit_code, overall
    from odeval.terminal import print_trust, print_verdict, stages

    if config.engine == "server":
        text = (
            "through a server entropies are bounds at best, and unknown where it tells no log-probabilities of a prompt"
        )
        print(f"odeval: {text}", file=sys.stderr)

    def tell(line: str, warns: bool) -> None:
        if warns or not quiet:
            print(f"odeval: warning: {line}" if warns else line, file=sys.stderr, flush=True)

    with stages(quiet) as stage:
        comparison, judgements, page = audit(config, stage, tell)
    if as_json:
        print((config.out / "verdict.json").read_text(encoding="utf-8"), end="")
    else:
        print_verdict(judgements)
        print_trust(comparison)
        print(f"report: {page}")
    return exit_code(overall(judgements), strict)
