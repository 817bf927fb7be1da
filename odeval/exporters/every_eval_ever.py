"""Every Eval Ever 0.3.0: one JSON of aggregates for a run, and one line a graded completion beside it.

Layout and names follow its schemas (MIT, evaleval/every_eval_ever): data/COLLECTION/DEVELOPER/MODEL/UUID.json. An
ungraded completion has no place in them, since `is_correct` takes no null: it is left out, and counted.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from odeval.atomic import write_json
from odeval.curves import curve_per_prompt
from odeval.errors import OdevalError
from odeval.measure import Measured, measure
from odeval.pairing import counts_of
from odeval.stats import estimate, linearise
from odeval.store import RunFolder
from odeval.types import Estimate, Prompt, PromptIds
from odeval.visible import visible

SCHEMA_VERSION = "0.3.0"
_CONFIDENCE = 0.95
_SINGLE = "pass@1"  # the result to which a completion belongs; its rows give every other k as well


@dataclass(frozen=True, slots=True)
class Described:
    """What a run does not know about itself.

    Attributes:
        model_id: As on the hub, "developer/name".
        organization: Who publishes these numbers.
        relationship: Of the evaluator to the model's developer.
        benchmark: What was asked; the run's own task when empty.
        deployment: How the model was run.
        availability: Of its weights.
    """

    model_id: str
    organization: str = "unknown"
    relationship: Literal["first_party", "third_party", "collaborative", "other"] = "other"
    benchmark: str = ""
    deployment: Literal["self_deployed", "externally_managed", "unknown"] = "unknown"
    availability: Literal["open_weights", "closed_weights", "unknown"] = "unknown"

    def __post_init__(self) -> None:
        if self.model_id.count("/") != 1 or not all(self.model_id.split("/")):
            raise OdevalError(f"model id '{self.model_id}': expected developer/name, as on the Hugging Face hub")


@dataclass(frozen=True, slots=True)
class _Record:
    """What every part of one record repeats."""

    task: str
    model_id: str
    time: str  # seconds since 1970, of the run and not of the export

    @property
    def evaluation_id(self) -> str:
        return f"{self.task}/{self.model_id}/{self.time}"


def write_every_eval_ever(run: RunFolder, out: Path, described: Described, ks: Sequence[int] = ()) -> Path:
    """Write a run as Every Eval Ever.

    Args:
        run: Graded completions, or counts; counts give no lines.
        out: Folder in which data/… is made.
        described: Identity of the model and of the publisher.
        ks: Grid; powers of two up to n, and n, by default.

    Returns:
        Path of the aggregate JSON. The same run gives the same bytes under the same name.

    Raises:
        OdevalError: The run is not graded, or the folder cannot be written.
    """
    measured = measure(run, run.label, threshold=0.8)
    made = datetime.fromisoformat(str(measured.meta["provenance"]["time"]))
    task = visible(described.benchmark or str(measured.meta["task"]["name"]), 120)
    record = _Record(task, described.model_id, str(int(made.timestamp())))
    prompt_ids = measured.prompts.ids
    counts = counts_of(measured, prompt_ids)
    inputs = [run.fingerprint(path) for path in (run.samples, run.grades) if path.exists()]
    content = json.dumps([record.evaluation_id, inputs, counts.n.tolist(), counts.c.tolist()])
    # A UUID of version 4, as the format demands, yet the same for the same run.
    name = str(uuid.UUID(bytes=hashlib.blake2b(content.encode(), digest_size=16).digest(), version=4))
    place = "/".join(["data", _portable(task), *map(_portable, described.model_id.split("/"))])
    aggregate = _aggregate(measured, record, described, _estimates(measured, prompt_ids, ks))
    if measured.completions.num_known.get("correct"):
        file = f"{place}/{name}_samples.jsonl"
        lines, checksum = _write_lines(out / file, _rows(run, measured, record))
        aggregate["detailed_evaluation_results"] = {
            "format": "jsonl", "file_path": file, "hash_algorithm": "sha256", "checksum": checksum, "total_rows": lines,
            "additional_details": {"ungraded_completions_left_out": str(len(measured.completions) - lines)},
        }  # fmt: skip
    write_json(out / place / f"{name}.json", aggregate)
    return out / place / f"{name}.json"


def _write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> tuple[int, str]:
    """Write JSON lines as they come, and whole or not at all; return how many, and their SHA-256."""
    temporary, digest, count = path.with_name(f".{path.name}.tmp"), hashlib.sha256(), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for row in rows:
                line, count = json.dumps(row).encode() + b"\n", count + 1
                digest.update(line)
                file.write(line)
        temporary.replace(path)
    except OSError as error:
        raise OdevalError(f"cannot write {path}: {error.strerror or error}; choose another output folder") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count, digest.hexdigest()


def _portable(name: str) -> str:
    """A name that every file system takes, and that cannot leave its folder."""
    found = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._ ")
    return f"_{found}" if found.lower() in ("", "data", "con", "prn", "aux", "nul") else found[:100]


def _estimates(measured: Measured, prompt_ids: PromptIds, ks: Sequence[int]) -> dict[int, Estimate]:
    counts = counts_of(measured, prompt_ids)
    deepest = int(counts.n.max())
    grid = sorted(set(ks)) or sorted({2**i for i in range(deepest.bit_length())} | {deepest})
    if grid[0] < 1 or grid[-1] > deepest:
        raise OdevalError(f"k {grid[-1] if grid[0] >= 1 else grid[0]}: must be from 1 to n = {deepest}")
    curve = curve_per_prompt(counts, np.asarray(prompt_ids, dtype=object), grid)
    found = estimate(linearise(curve, prompt_ids, measured.prompts.clusters), _CONFIDENCE, (0.0, 1.0))
    return {k: item for k, item in zip(grid, found, strict=True) if item.known}


def _aggregate(measured: Measured, record: _Record, described: Described, found: dict[int, Estimate]) -> dict[str, Any]:
    meta = measured.meta
    versions, imported = meta["provenance"].get("versions", {}), meta.get("imported")
    developer, name = described.model_id.split("/")
    library: dict[str, Any] = {"name": "odeval", "version": str(versions.get("odeval", "unknown"))}
    if imported:
        library["additional_details"] = {"completions_from": visible(str(imported["tool"]))}
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": record.evaluation_id,
        "evaluation_timestamp": record.time,
        "retrieved_timestamp": record.time,
        "source_metadata": {
            "source_name": "odeval", "source_type": "evaluation_run",
            "source_organization_name": described.organization, "evaluator_relationship": described.relationship,
        },
        "eval_library": library,
        "model_info": {
            "name": name, "id": described.model_id, "developer": developer,
            "additional_details": {"deployment_type": described.deployment,
                                   "model_availability": described.availability,
                                   # of a log it is the log's path, which is nobody's business
                                   "fingerprint": "" if imported else str(meta["model"].get("fingerprint", ""))},
        },
        "evaluation_results": [_result(measured, record.task, k, item) for k, item in found.items()],
    }  # fmt: skip


def _result(measured: Measured, task: str, k: int, item: Estimate) -> dict[str, Any]:
    meta, counts = measured.meta, measured.counts["n"]
    uncertainty: dict[str, Any] = {"num_samples": item.n}
    if math.isfinite(item.se):
        uncertainty["standard_error"] = {"value": item.se, "method": "analytic, over prompts"}
    if math.isfinite(item.low):
        ends = {"lower": item.low, "upper": item.high, "confidence_level": _CONFIDENCE}
        uncertainty["confidence_interval"] = {**ends, "method": "Student t over prompts"}
    sampling = {key: meta["sampling"].get(key) for key in ("temperature", "top_p", "top_k", "max_tokens")}
    details = {"n": str(int(counts.max())), "seed": str(meta["sampling"].get("seed"))}
    return {
        "evaluation_result_id": f"pass@{k}",
        "evaluation_name": task,
        "source_data": {"dataset_name": task, "source_type": "other",
                        "additional_details": {"prompts": str(len(measured.prompts)),
                                               "prompts_hash": str(meta.get("prompts", ""))}},
        "metric_config": {
            "metric_id": "pass_at_k", "metric_name": f"pass@{k}", "metric_kind": "pass_rate",
            "metric_unit": "proportion", "lower_is_better": False, "score_type": "continuous",
            "min_score": 0.0, "max_score": 1.0,
            "metric_parameters": {"k": k, "n": int(counts.max()), "estimator": "1 - C(n-c, k) / C(n, k), unbiased"},
            "additional_details": {"rows": f"the completions listed under {_SINGLE} are those of every k"},
        },
        "score_details": {"score": item.value, "uncertainty": uncertainty},
        "generation_config": {
            "generation_args": {key: value for key, value in sampling.items() if value is not None},
            "additional_details": details,
        },
    }  # fmt: skip


def _rows(run: RunFolder, measured: Measured, record: _Record) -> Iterator[dict[str, Any]]:
    """One line a graded completion, in the order of the samples."""
    table = pq.read_table(run.grades, columns=["prompt_id", "sample_id", "correct", "answer"])
    grades = {(p, s): (right, answer) for p, s, right, answer in zip(*(c.to_pylist() for c in table), strict=True)}
    grader = str(measured.meta["task"]["grader"]) or "unknown"
    names = ["prompt_id", "sample_id", "completion", "finish_reason"]
    for part in run.iterate(run.samples, [*names, "prompt_token_ids", "token_ids"]):
        sizes = {name: pc.list_value_length(part[name]) for name in ("prompt_token_ids", "token_ids")}
        for row in pa.table({**{name: part[name] for name in names}, **sizes}).to_pylist():
            right, answer = grades.get((row["prompt_id"], row["sample_id"]), (None, None))
            if right is not None:
                yield _line(row, right, answer, measured, record, grader)


def _line(
    row: dict[str, Any], right: bool, answer: str | None, measured: Measured, record: _Record, grader: str
) -> dict[str, Any]:
    asked = _input(measured.prompts[row["prompt_id"]])
    # Their recipe, so that equal questions of different tools join.
    text = json.dumps({key: asked[key] for key in ("raw", "reference")}, sort_keys=True, separators=(",", ":"))
    extracted = {"turn_idx": 0, "source": "output.raw", "extracted_value": answer, "extraction_method": grader,
                 "is_terminal": True}  # fmt: skip
    found = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": record.evaluation_id,
        "model_id": record.model_id,
        "evaluation_name": record.task,
        "evaluation_result_id": _SINGLE,
        "sample_id": row["prompt_id"],
        "sample_hash": hashlib.sha256(text.encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": asked,
        "output": {"raw": [] if row["completion"] is None else [row["completion"]]},
        "answer_attribution": [] if answer is None else [extracted],
        "evaluation": {"score": float(right), "is_correct": right},
        "metadata": {"repeat": str(row["sample_id"]), "finish_reason": row["finish_reason"]},
    }
    read, written = row["prompt_token_ids"], row["token_ids"]
    if read is not None and written is not None:
        found["token_usage"] = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return found


def _input(prompt: Prompt) -> dict[str, Any]:
    return {"raw": prompt.display(), "reference": [prompt.answer] if prompt.answer else []}
