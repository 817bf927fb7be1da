"""The `odeval` command. Each verb is a few lines; results go to stdout, progress and errors to stderr.

Exit codes: 0 pass · 1 a rule failed · 2 usage or configuration · 3 inconclusive (with --strict) · 4 could not judge.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from odeval.errors import CannotJudge, OdevalError

app = App(
    name="odeval",
    help="Did this distilled model buy pass@1 by giving up the rest of the curve?",
    help_format="plaintext",
    version_flags=["--version"],
)
Samples = Annotated[int | None, Parameter(name=["-n", "--n"])]


@app.command
def demo(*, out: Path = Path("odeval-demo"), world: str = "graph_paths", n: Samples = None, limit: int | None = None, strict: bool = False) -> int:
    """Audit the embedded students against the embedded teacher, offline.

    Args:
        out: Folder for runs and report; rerun to continue.
        world: graph_paths or countdown.
        n: Completions per prompt (64).
        limit: Held-out prompts (200).
        strict: Exit 3 when the verdict is inconclusive.
    """
    from odeval import testbed
    from odeval.audit import AuditConfig

    students = [testbed.checkpoint(world, name) for name in testbed.models(world) if name not in ("teacher", "warm_start")]
    config = AuditConfig(
        students=tuple(students), teacher=testbed.checkpoint(world, "teacher"), baseline=testbed.checkpoint(world, "warm_start"),
        task=world, out=out / world, n=n or 64, limit=limit or 200,
    )  # fmt: skip
    return _audit(config, strict, quiet=False, as_json=False)


@app.command
def audit(
    students: list[Path] | None = None, /, *, teacher: Path | None = None, task: str | None = None, out: Path | None = None,
    baseline: Path | None = None, grader: str | None = None, n: Samples = None, limit: int | None = None,
    temperature: float | None = None, top_p: float | None = None, top_k: int | None = None, max_tokens: int | None = None,
    seed: int | None = None, ks: str | None = None, threshold: float | None = None, rules: Path | None = None,
    device: str | None = None, config: Path | None = None, print_config: bool = False, strict: bool = False,
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
        device: cpu, cuda or auto.
        config: YAML file with any of these settings.
        print_config: Print the resolved settings and where each came from, and stop.
        strict: Exit 3 when the verdict is inconclusive.
        json: Print verdict.json on stdout and nothing else.
        quiet: No progress.
    """
    from odeval.audit import AuditConfig
    from odeval.config import resolve

    flags = {
        "students": students, "teacher": teacher, "task": task, "out": out, "baseline": baseline, "grader": grader, "n": n,
        "limit": limit, "temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens, "seed": seed,
        "ks": _ks(ks), "threshold": threshold, "rules": rules, "device": device,
    }  # fmt: skip
    resolved, sources = resolve(AuditConfig, flags, config, os.environ)
    if print_config:
        for key, value in resolved.model_dump(mode="json").items():
            print(f"{key}: {_yaml(value)}  # {sources[key]}")
        return 0
    return _audit(resolved, strict, quiet, json)


@app.command
def sample(
    model: Path, /, *, task: str, out: Path, grader: str | None = None, n: int = 64, limit: int | None = None,
    temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, max_tokens: int | None = None, seed: int = 0,
    device: str = "auto", quiet: bool = False,
) -> int:  # fmt: skip
    """Draw n completions per prompt into a run folder; a larger n extends the run.

    Args:
        model: Folder in Hugging Face format.
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
        device: cpu, cuda or auto.
        quiet: No progress.
    """
    from odeval.sampling import sample
    from odeval.store import RunFolder
    from odeval.tasks import load_task
    from odeval.types import SamplingParams

    loaded = load_task(task, grader, limit, max_tokens)
    params = SamplingParams(n, temperature, top_p, top_k, loaded.max_tokens, seed)
    from odeval.engines.hf import HfEngine
    from odeval.terminal import stages

    engine = HfEngine(model, device)
    with stages(quiet) as stage, stage(f"sample {out.name}") as advance:
        sample(engine, engine.model.ref(), loaded, params, RunFolder(out), advance)
    print(out)
    return 0


@app.command
def grade(run: Path, /, *, grader: str | None = None, force: bool = False, quiet: bool = False) -> int:
    """Grade a run's completions. Never samples.

    Args:
        run: A run folder.
        grader: Use this grader instead of the recorded one.
        force: Grade again even if the grades are up to date.
        quiet: No progress.
    """
    from odeval.grading import grade, summary
    from odeval.store import RunFolder
    from odeval.tasks import grader_of
    from odeval.terminal import stages

    folder = RunFolder(run)
    name, function = grader_of(folder.meta()["task"], grader)
    with stages(quiet) as stage, stage(f"grade {folder.label}") as advance:
        grade(folder, function, name, advance, force)
    print(summary(folder))
    return 0


@app.command
def score(run: Path, /, *, teacher_run: Path, student: Path | None = None, teacher: Path | None = None, device: str = "auto", quiet: bool = False) -> int:
    """Score teacher and student at every token of both runs, into the student's run folder.

    Args:
        run: The student's run folder.
        teacher_run: The teacher's run folder.
        student: The student's model folder; the one recorded in the run by default.
        teacher: The teacher's model folder; the one recorded in its run by default.
        device: cpu, cuda or auto.
        quiet: No progress.
    """
    from odeval.audit import score_pair
    from odeval.store import RunFolder
    from odeval.terminal import stages

    own, other = RunFolder(run), RunFolder(teacher_run)
    models = [given or Path(folder.meta()["model"]["path"]) for given, folder in ((teacher, other), (student, own))]
    with stages(quiet) as stage:
        score_pair(models[0], models[1], other, own, device, stage)
    print(own.path / "tokens")
    return 0


@app.command
def compare(
    runs: list[Path], /, *, teacher: Path | None = None, ks: str | None = None, threshold: float = 0.8, confidence: float = 0.95,
    allow_mismatch: list[str] | None = None, out: Path | None = None, json: bool = False,
) -> int:  # fmt: skip
    """Compare runs prompt by prompt: BASELINE CANDIDATE…, or candidates with --teacher alone.

    Args:
        runs: Run folders; the first is the baseline unless only one is given together with --teacher.
        teacher: Run folder of the teacher.
        ks: Comma-separated k, or all; powers of two by default.
        threshold: Entropy of a branch point in nats.
        confidence: Of two-sided intervals.
        allow_mismatch: Sampling settings that may differ.
        out: Write comparison.json here.
        json: Print comparison.json on stdout and nothing else.
    """
    from odeval.compare import CompareSettings, compare
    from odeval.store import RunFolder
    from odeval.terminal import print_comparison

    folders = [RunFolder(run) for run in runs]
    baseline = None if teacher is not None and len(folders) == 1 else folders.pop(0)
    if not folders:
        raise OdevalError("compare needs two runs: BASELINE CANDIDATE, or one CANDIDATE with --teacher RUN")
    settings = CompareSettings(_ks(ks), confidence, threshold, tuple(allow_mismatch or ()))
    result = compare(folders, None if teacher is None else RunFolder(teacher), baseline, settings)
    _emit(result, out, json, lambda: print_comparison(result))
    return 0


@app.command
def gate(comparison: Path, /, *, rules: Path | None = None, out: Path | None = None, strict: bool = False, json: bool = False) -> int:
    """Judge a comparison by rules; the exit code is the verdict.

    Args:
        comparison: comparison.json, or a folder that holds one.
        rules: YAML file; sensible default rules otherwise.
        out: Write verdict.json here.
        strict: Exit 3 when the verdict is inconclusive.
        json: Print verdict.json on stdout and nothing else.
    """
    from odeval.config import GateConfig, load_yaml
    from odeval.gate import as_json, exit_code, judge, overall, read_comparison
    from odeval.rules import DEFAULT_RULES
    from odeval.terminal import print_verdict

    loaded = DEFAULT_RULES if rules is None else load_yaml(rules, GateConfig)
    judgements = judge(read_comparison(comparison), loaded, str(rules or "default rules"))
    _emit(as_json(judgements, loaded), out, json, lambda: print_verdict(judgements))
    return exit_code(overall(judgements), strict)


@app.command
def report(comparison: Path, /, *, verdict: Path | None = None, out: Path | None = None) -> int:
    """Render comparison.json and verdict.json as one self-contained page.

    Args:
        comparison: comparison.json, or a folder that holds it.
        verdict: verdict.json; the one beside the comparison by default.
        out: Folder of the report; the comparison's by default.
    """
    from odeval.atomic import read_json
    from odeval.gate import read_comparison
    from odeval.report import write_report

    folder = comparison if comparison.is_dir() else comparison.parent
    path = verdict or folder / "verdict.json"
    if not path.exists():
        raise CannotJudge(f"{path}: no verdict to report; run `odeval gate {comparison} --out {path}` first")
    print(write_report(read_comparison(comparison), read_json(path), out or folder))
    return 0


@app.command
def tasks() -> int:
    """List the built-in tasks and the graders for your own prompts file."""
    from odeval.tasks import TASKS
    from odeval.tasks.graders import GRADERS

    for name, function in {**TASKS, **GRADERS}.items():
        kind = "task" if name in TASKS else "grader"
        print(f"{kind:7} {name:12} {(function.__doc__ or '').strip().splitlines()[0]}")
    return 0


@app.command
def env() -> int:
    """Print versions, for bug reports."""
    from odeval.store import git_state, versions

    for name, version in {**versions(), "odeval commit": git_state() or "installed"}.items():
        print(f"{name}: {version}")
    return 0


def _audit(config: Any, strict: bool, quiet: bool, as_json: bool) -> int:
    from odeval.audit import audit
    from odeval.gate import exit_code, overall
    from odeval.terminal import print_verdict, stages

    with stages(quiet) as stage:
        _, judgements, page = audit(config, stage)
    if as_json:
        print((config.out / "verdict.json").read_text(encoding="utf-8"), end="")
    else:
        print_verdict(judgements)
        print(f"report: {page}")
    return exit_code(overall(judgements), strict)


def _emit(result: dict[str, Any], out: Path | None, as_json: bool, show: Any) -> None:
    from odeval.atomic import write_json

    if out is not None:
        write_json(out / f"{result['schema'].split('/')[0].removeprefix('odeval.')}.json" if out.is_dir() else out, result)
    if as_json:
        print(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        show()


def _ks(text: str | None) -> tuple[int, ...] | Literal["all"]:
    if text is None:
        return ()
    if text == "all":
        return "all"
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise OdevalError(f"--ks {text}: expected comma-separated whole numbers such as 1,4,16, or all") from None


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def run(arguments: list[str] | None = None) -> int:
    """Run a command and turn every outcome into an exit code; an unexpected exception is 4, never 1."""
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return int(result or 0)
    except CycloptsError as error:
        print(f"odeval: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OdevalError as error:
        print(f"odeval: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("odeval: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception:
        traceback.print_exc()
        print("odeval: this is a bug in odeval, not a verdict; please report the lines above", file=sys.stderr)
        return 4


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())
