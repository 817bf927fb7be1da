"""Memory and time of comparing scored runs of ever more prompts: is the peak flat in their number?

    python benchmarks/scale.py [--prompts 10000,20000,40000] [--samples 64] [--tokens 32]

Runs, grades and token tables are synthetic and written part by part. For every size two processes are measured, each
by the peak of resident memory that the kernel tells: one that only reduces the token tables of both trajectories, and
one that makes the whole comparison, which also reads every completion's grade, answer and digest. What the interpreter
and the libraries need is measured with two tiny runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from hardware import hardware, result_path

from odeval.atomic import hash_files
from odeval.schemas import BRANCH_COLUMNS, BRANCH_FLOOR, DROPPED, GRADES, PIECES, SAMPLES, TOKEN_COLUMNS, TOKENS
from odeval.store import RunFolder, provenance, write_table
from odeval.types import ModelRef, Prompt, SamplingParams

BLOCK = 64  # prompts of a part
VOCABULARY = 1000


def write_run(run: RunFolder, prompts: int, samples: int, length: int, seed: int) -> None:
    """A graded run: a handful of answers a prompt, random tokens behind a shared first one."""
    ids = [f"p{p:06d}" for p in range(prompts)]
    params = asdict(SamplingParams(n=samples, max_tokens=length))
    model = asdict(ModelRef(run.label, run.label, "v"))
    meta = {"model": model, "task": {"name": "synthetic", "grader": "exact"}, "sampling": params}
    run.open(meta, [Prompt(text=f"question {name}", answer="right 0", id=name) for name in ids])
    generator = np.random.default_rng(seed)
    grades = []
    for number, start in enumerate(range(0, prompts, BLOCK)):
        names = np.repeat(ids[start : start + BLOCK], samples)
        rows = len(names)
        sample = np.tile(np.arange(samples, dtype=np.int32), rows // samples)
        right = generator.random(rows) < np.repeat(generator.beta(0.8, 1.0, rows // samples), samples)
        answers = np.where(right, "right ", "wrong ") + generator.integers(0, 6, rows).astype(str).astype(object)
        tokens = generator.integers(0, VOCABULARY, (rows, length), dtype=np.int32)
        tokens[:, 0] = generator.integers(0, 8, rows)
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * length)
        columns = {
            "prompt_id": names, "sample_id": sample, "seed": generator.integers(0, 2**63, rows, dtype=np.uint64),
            "token_ids": pa.ListArray.from_arrays(offsets, pa.array(tokens.ravel())), "completion": answers,
            "finish_reason": np.full(rows, "stop"),
        }  # fmt: skip
        table = [pa.array(columns.get(field.name, [None] * rows), field.type) for field in SAMPLES]
        write_table(run.samples / f"part-{number:05d}-00000.parquet", pa.table(table, schema=SAMPLES), {})
        grades.append(pa.table([names, sample, right, answers, np.full(rows, "")], schema=GRADES))
    write_table(run.grades, pa.concat_tables(grades), {"samples": run.fingerprint(run.samples), "grader": "exact"})


def write_scores(run: RunFolder, trajectory: str, source: RunFolder, length: int, seed: int) -> None:
    """Token scores of every completion, and two dropped branches for every prompt's first token."""
    generator = np.random.default_rng(seed)
    for path in source.part_paths(source.samples):
        keys = pa.parquet.read_table(path, columns=["prompt_id", "sample_id"], partitioning=None)
        rows = keys.num_rows
        values = {name: generator.exponential(0.5, rows * length).astype(np.float32) for name in TOKEN_COLUMNS}
        unknown = values["teacher_entropy"] < BRANCH_FLOOR
        for name in BRANCH_COLUMNS:
            values[name] = np.where(unknown, np.float32(np.nan), generator.integers(0, 2, rows * length) / 2)
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * length)
        lists = [pa.ListArray.from_arrays(offsets, pa.array(v.astype(np.float32))) for v in values.values()]
        made_from = {"samples": hash_files([path])}
        write_table(run.tokens(trajectory) / path.name, pa.table([*keys.columns, *lists], schema=TOKENS), made_from)
        places = np.repeat(np.arange(rows), 2)
        numbers = [np.full(2 * rows, x, np.float32) for x in (0.2, 0.004, 1.1, 0.1)]
        own = [np.zeros(2 * rows, np.int32), np.tile(np.array([1, 3], np.int32), rows), *numbers]
        dropped = pa.table([*keys.take(places).columns, *own], schema=DROPPED)
        write_table(run.dropped(trajectory) / path.name, dropped, made_from)
    names = [f" t{i}".encode() for i in range(VOCABULARY)]
    pieces = pa.table([pa.array(range(VOCABULARY), pa.int32()), pa.array(names, pa.binary())], schema=PIECES)
    write_table(run.piece_table, pieces, {})


def build(folder: Path, prompts: int, samples: int, length: int) -> None:
    teacher, student = (RunFolder(folder / name) for name in ("teacher", "student"))
    for seed, run in enumerate((teacher, student)):
        write_run(run, prompts, samples, length, seed)
    for seed, (trajectory, source) in enumerate((("teacher", teacher), ("student", student))):
        write_scores(student, trajectory, source, length, 10 + seed)


def reduced(folder: Path) -> None:
    """In a process of its own: reduce the token tables of both trajectories to sums per prompt."""
    import pandas as pd

    from odeval.completions import Completions
    from odeval.measure import THRESHOLDS, Measured, _measure_tokens, entropy_quantile
    from odeval.questions import Questions
    from odeval.sums import Sums

    start = time.perf_counter()
    run = RunFolder(folder / "student")
    prompts = Questions(run)
    sums = [Sums(prompts.ids) for _ in range(2)]
    found = Measured("student", {}, prompts, prompts.contents, Completions(), pd.DataFrame(), *sums)
    found.thresholds.update({f"{tau:g}": tau for tau in THRESHOLDS})
    found.thresholds["teacher's 80th percentile"] = entropy_quantile(run, 0.8)
    for trajectory in ("teacher", "student"):
        _measure_tokens(run, trajectory, 0.8, found)
    print(json.dumps({"tokens_seconds": round(time.perf_counter() - start, 1), "tokens_peak_mb": peak_mb()}))


def peak_mb() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would tell the peak of the process that started this one, where that is higher
        kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(kilobytes) / 1024)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def compared(folder: Path) -> None:
    """In a process of its own: compare, and print time and peak."""
    from odeval.compare import compare

    start = time.perf_counter()
    found = compare([RunFolder(folder / "student")], RunFolder(folder / "teacher"))
    seconds = time.perf_counter() - start
    peak, size = peak_mb(), len(json.dumps(found)) / 2**20
    print(json.dumps({"compare_seconds": round(seconds, 1), "compare_peak_mb": peak, "comparison_mb": round(size, 2)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", default="10000,20000,40000")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        return {"tokens": reduced, "compare": compared}[arguments.stage](arguments.folder)
    rows = []
    for prompts in (64, *map(int, arguments.prompts.split(","))):
        folder = Path(tempfile.mkdtemp(prefix="scale-"))
        try:
            build(folder, prompts, arguments.samples, arguments.tokens)
            size = sum(file.stat().st_size for file in folder.rglob("*.parquet")) / 2**20
            row = {"prompts": prompts, "scored_tokens": 2 * prompts * arguments.samples * arguments.tokens}
            row["files_mb"] = round(size)
            for stage in ("tokens", "compare"):
                command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
                row.update(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            rows.append(row)
            print(rows[-1], flush=True)
        finally:
            shutil.rmtree(folder)
    more = rows[-1]["prompts"] - rows[1]["prompts"]
    grown = {name: (rows[-1][name] - rows[1][name]) * 1024 / more for name in ("tokens_peak_mb", "compare_peak_mb")}
    result = {
        "hardware": hardware(), "samples": arguments.samples, "tokens": arguments.tokens, "runs": rows,
        "kb_per_prompt": {name: round(value, 2) for name, value in grown.items()},
        "kb_per_completion": round(grown["compare_peak_mb"] / 2 / arguments.samples, 3),
        "provenance": provenance(),
    }  # fmt: skip
    result_path("scale").write_text(json.dumps(result, indent=1) + "\n")
    print(result_path("scale"))


if __name__ == "__main__":
    main()
