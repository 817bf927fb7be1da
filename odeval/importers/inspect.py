"""Inspect logs: `.eval` (a zip, with zstd members since 0.3.206) and `.json`, read without installing inspect_ai.

The repeats are Inspect's epochs. Samples that ended in an error or a limit, or that no scorer scored, are not graded.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError, unknown
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, assemble, prompt_of, text_of
from odeval.importers.tables import Row, as_object, head_keys, parse_json, read_json_file
from odeval.importers.zipped import ZippedLog
from odeval.types import Prompt

_WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # Inspect's letters: correct, partial, incorrect, no answer
_LARGE = 2**30  # bytes of samples above which only header and summaries are read
_KEPT = ("id", "epoch", "input", "target", "output", "scores", "error", "limit")
_SAMPLE = re.compile(r"samples/.+\.json$", re.DOTALL)


def detect(path: Path) -> bool:
    if path.suffix == ".json":
        return {"version", "status", "eval"} <= head_keys(path)
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as file:
            return bool({"header.json", "_journal/start.json"} & set(file.namelist()))
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def read(path: Path, options: ImportOptions) -> Imported:
    """Read every sample of a log.

    Args:
        path: An `.eval` or `.json` log.
        options: `metric` is the scorer where there are several (SCORER, or SCORER/PART); `partial` takes a log whose
            evaluation did not succeed.

    Raises:
        OdevalError: The evaluation did not succeed, the file is damaged, or the scorer has to be named.
    """
    notes: list[str] = []
    if path.suffix == ".json":
        header = as_object(read_json_file(path), str(path))
        _check_status(header, path, options)
        samples = _numbered(header.get("samples"), f"{path} samples")
    else:
        with ZippedLog(path) as log:
            header = _header(log)
            _check_status(header, path, options)
            samples = _zipped_samples(log, options, notes)
    samples = _last(samples, notes)
    evaluation = as_object(header.get("eval"), f"{path} key 'eval'")
    scorer = "" if options.grader is not None else _scorer(samples, options, path)
    sampling = {**_config(evaluation.get("model_generate_config")), **_config(_plan(header))}
    return assemble(
        "inspect", _completions(samples, scorer), options, notes, model=str(evaluation.get("model") or ""),
        task=str(evaluation.get("task") or ""), sampling=sampling, recorded=f"recorded by inspect ({scorer})",
    )  # fmt: skip


def _header(log: ZippedLog) -> Row:
    if "header.json" not in log.members:
        raise OdevalError(
            f"{log.path}: has no header.json, so the evaluation was interrupted; run `inspect eval-retry`"
        )
    where = f"{log.path} member header.json"
    return as_object(parse_json(log.read("header.json"), where), where)


def _check_status(header: Row, path: Path, options: ImportOptions) -> None:
    status = header.get("status")
    if status != "success" and not options.partial:
        raise OdevalError(
            f"{path}: its evaluation ended with status '{status}', so prompts or epochs may be missing; finish it with "
            "`inspect eval-retry`, or take it as it is with `odeval import inspect FILE -o RUN --partial`"
        )


def _zipped_samples(log: ZippedLog, options: ImportOptions, notes: list[str]) -> list[tuple[str, Row]]:
    if log.repeated:
        notes.append(f"{log.repeated} members stand in the file twice; the last of each counts")
    names = [name for name in log.members if _SAMPLE.match(name)]
    size = sum(log.members[name].file_size for name in names)
    if "summaries.json" in log.members and options.grader is None and (size > _LARGE or not names):
        notes.append("only header and summaries were read; texts, and what is checked on them, are left out")
        where = f"{log.path} member summaries.json"
        return _numbered(parse_json(log.read("summaries.json"), where), where)
    samples = []
    for name in names:
        where = f"{log.path} member {name}"
        sample = as_object(parse_json(log.read(name), where), where)
        samples.append((where, {key: sample[key] for key in _KEPT if key in sample}))  # a sample's events are large
    return samples


def _numbered(value: Any, where: str) -> list[tuple[str, Row]]:
    if not isinstance(value, list):
        raise OdevalError(f"{where}: is a {type(value).__name__}, expected a list of samples")
    return [(f"{where} item {i}", as_object(sample, f"{where} item {i}")) for i, sample in enumerate(value, start=1)]


def _last(samples: list[tuple[str, Row]], notes: list[str]) -> list[tuple[str, Row]]:
    """Keep the last sample of each (id, epoch); ids 2 and "2" are one in two logs, but an error within one."""
    kept: dict[tuple[Any, int], tuple[str, Row]] = {}
    types: dict[str, type] = {}
    for where, sample in samples:
        name, epoch = sample.get("id"), sample.get("epoch")
        if not isinstance(name, str | int) or isinstance(name, bool) or not isinstance(epoch, int) or epoch < 1:
            raise OdevalError(f"{where}: id {name!r} or epoch {epoch!r} is missing or malformed")
        if types.setdefault(str(name), type(name)) is not type(name):
            raise OdevalError(f"{where}: ids {name!r} and its like as {types[str(name)].__name__} cannot be told apart")
        kept[name, epoch] = (where, sample)
    if len(kept) < len(samples):
        notes.append(f"{len(samples) - len(kept)} samples stand there twice; the last of each counts")
    return list(kept.values())


def _scorer(samples: list[tuple[str, Row]], options: ImportOptions, path: Path) -> str:
    names = sorted({name for _, sample in samples for name in _scores(sample)})
    wanted = options.metric.partition("/")[0]
    if wanted and wanted not in names:
        raise OdevalError(f"{path}: {unknown('scorer', wanted, names)}")
    if not wanted and len(names) > 1:
        raise OdevalError(f"{path}: several scorers were at work; choose one with --metric: {' or '.join(names)}")
    return options.metric or (names[0] if names else "")


def _completions(samples: list[tuple[str, Row]], scorer: str) -> Iterator[Found]:
    name, _, part = scorer.partition("/")
    for where, sample in samples:
        score = as_object(_scores(sample).get(name) or {}, f"{where} score")
        value = score.get("value")
        if isinstance(value, dict):
            if part not in value:
                raise OdevalError(
                    f"{where}: {unknown('part of the score', part, map(str, value))}; pass --metric {name}/PART"
                )
            value = value[part]
        targets = sample.get("target")
        answers = [str(item) for item in targets] if isinstance(targets, list) else [str(targets or "")]
        prompt = _prompt(sample, where, answers)
        null, why = _trouble(sample)
        text, finish = _output(sample, where)
        finish = "error" if null else finish  # not the model's own end, so no grader is to judge it either
        yield Found(
            where, prompt, text, null=null, why=why, finish=finish, sample_id=sample["epoch"] - 1, answers=answers,
            score=_WORDS.get(value, value) if isinstance(value, str) else value,
            answer=score["answer"] if isinstance(score.get("answer"), str) else None,
        )  # fmt: skip


def _prompt(sample: Row, where: str, answers: list[str]) -> Prompt:
    return prompt_of(sample.get("input"), where, identity=str(sample["id"]), answer=" | ".join(answers))


def _trouble(sample: Row) -> tuple[str, str]:
    """Why a sample has no outcome, in a few words and in the log's own."""
    error, limit = sample.get("error"), sample.get("limit")
    if error:
        return "sample error", str(error.get("message") if isinstance(error, dict) else error)
    if limit:
        kind = str(limit.get("type") if isinstance(limit, dict) else limit)
        return f"{kind} limit reached", ""
    return "", ""


def _output(sample: Row, where: str) -> tuple[str | None, str]:
    output = as_object(sample.get("output") or {}, f"{where} output")
    choices = output.get("choices")
    if not isinstance(choices, list) or not choices:
        return None, ""
    choice = as_object(choices[0], f"{where} output.choices[0]")
    return text_of(output.get("completion"), where, "output.completion"), str(choice.get("stop_reason") or "")


def _scores(sample: Row) -> Mapping[str, Any]:
    scores = sample.get("scores")
    return scores if isinstance(scores, dict) else {}


def _plan(header: Row) -> Any:
    plan = header.get("plan")
    return plan.get("config") if isinstance(plan, dict) else None


def _config(said: Any) -> dict[str, Any]:
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed")
    return {name: said[name] for name in names if said.get(name) is not None} if isinstance(said, dict) else {}
