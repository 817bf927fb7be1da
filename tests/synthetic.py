"""Run folders written from numbers, so that every statistic can be compared with a known truth. No model is used."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from odeval.sampling import completion_seed
from odeval.schemas import BRANCH_COLUMNS, BRANCH_FLOOR, DROPPED, GRADES, SAMPLES, TOKEN_COLUMNS, TOKENS
from odeval.store import RunFolder, write_table
from odeval.types import ModelRef, Prompt, SamplingParams


def write_run(
    path: Path,
    correct: list[list[bool | None]],
    *,
    answers: list[list[str]] | None = None,
    reasons: list[list[str]] | None = None,
    params: SamplingParams | None = None,
    prompts: list[Prompt] | None = None,
    grader: str = "exact",
    block: int = 7,
    tokens: list[list[list[int]]] | None = None,
) -> RunFolder:
    """Write a graded run: correct[p][s] of prompt p, sample s; the texts are the answers."""
    run = RunFolder(path)
    prompts = prompts or [Prompt(text=f"question {p}", answer="right", id=f"p{p:05d}") for p in range(len(correct))]
    params = params or SamplingParams(n=max(map(len, correct)), max_tokens=8)
    model = ModelRef(path=str(path), fingerprint=path.name, vocabulary="v")
    meta = {"model": asdict(model), "task": {"name": "synthetic", "grader": grader}, "sampling": asdict(params)}
    run.open({**meta, "prompts_per_part": block}, prompts)
    order = sorted(range(len(prompts)), key=lambda p: p)
    for number, start in enumerate(range(0, len(order), block)):
        rows = [(p, s) for p in order[start : start + block] for s in range(len(correct[p]))]
        texts = [answers[p][s] if answers else ("right" if correct[p][s] else f"wrong {s}") for p, s in rows]
        table = pa.table(
            [
                [prompts[p].prompt_id for p, _ in rows],
                pa.array([s for _, s in rows], pa.int32()),
                pa.array([completion_seed(0, path.name, prompts[p].prompt_id, s) for p, s in rows], pa.uint64()),
                pa.array([[1, 2] for _ in rows], pa.list_(pa.int32())),
                pa.array(
                    [tokens[p][s] for p, s in rows] if tokens else [[hash_id(text), 3] for text in texts],
                    pa.list_(pa.int32()),
                ),
                pa.array([None] * len(rows), pa.list_(pa.float32())),
                texts,
                [reasons[p][s] if reasons else "stop" for p, s in rows],
                pa.array([None] * len(rows), pa.list_(pa.float32())),
            ],
            schema=SAMPLES,
        )
        write_table(run.samples / f"part-{number:05d}-00000.parquet", table, {})
    rows = [(p, s) for p in range(len(prompts)) for s in range(len(correct[p]))]
    grades = pa.table(
        [
            [prompts[p].prompt_id for p, _ in rows],
            pa.array([s for _, s in rows], pa.int32()),
            pa.array([correct[p][s] for p, s in rows], pa.bool_()),
            [answers[p][s] if answers else ("right" if correct[p][s] else f"wrong {s}") for p, s in rows],
            [""] * len(rows),
        ],
        schema=GRADES,
    )
    write_table(run.grades, grades, {"samples": run.fingerprint(run.samples), "grader": grader})
    return run


def hash_id(text: str) -> int:
    return sum((i + 1) * ord(character) for i, character in enumerate(text)) % 2**20


def write_tokens(
    run: RunFolder, trajectory: str, source: RunFolder, values: dict[str, np.ndarray], lengths: np.ndarray | None = None
) -> None:
    """Score a run by hand: every completion of `source` has the tokens values[column][p, s, t], NaN where not given.

    They are cut to lengths[p, s] where that is given.
    """
    from odeval.atomic import hash_files

    ids = [prompt.prompt_id for prompt in source.prompts()]
    unknown = np.full_like(values["teacher_entropy"], np.nan)

    def cut(row: np.ndarray, p: int, s: int) -> np.ndarray:
        found: np.ndarray = (row if lengths is None else row[: lengths[p, s]]).astype(np.float32)
        return found

    for path in source.part_paths(source.samples):
        table = pa.parquet.read_table(path, columns=["prompt_id", "sample_id"], partitioning=None)
        keys = zip(table["prompt_id"].to_pylist(), table["sample_id"].to_pylist(), strict=True)
        places = [(ids.index(prompt_id), s) for prompt_id, s in keys]
        lists = [
            pa.array([cut(values.get(name, unknown)[p, s], p, s) for p, s in places], pa.list_(pa.float32()))
            for name in (*TOKEN_COLUMNS, *BRANCH_COLUMNS)
        ]
        out = pa.table([table["prompt_id"], table["sample_id"], *lists], schema=TOKENS)
        write_table(run.tokens(trajectory) / path.name, out, {"samples": hash_files([path])})


def write_dropped(run: RunFolder, trajectory: str, source: RunFolder, rows: list[tuple[object, ...]]) -> None:
    """Write dropped branches by hand: (prompt_id, sample_id, position, token_id, p, q, H_teacher, H_student)."""
    from odeval.atomic import hash_files

    for path in source.part_paths(source.samples):
        table = pa.parquet.read_table(path, columns=["prompt_id", "sample_id"], partitioning=None)
        keys = set(zip(table["prompt_id"].to_pylist(), table["sample_id"].to_pylist(), strict=True))
        own = [dict(zip(DROPPED.names, row, strict=True)) for row in rows if row[:2] in keys]
        made_from = {"samples": hash_files([path])}
        write_table(run.dropped(trajectory) / path.name, pa.Table.from_pylist(own, schema=DROPPED), made_from)


def draws(rates: np.ndarray, n: int, seed: int) -> list[list[bool | None]]:
    """Bernoulli samples of given solve rates."""
    return [list(map(bool, row)) for row in np.random.default_rng(seed).random((len(rates), n)) < rates[:, None]]


def random_tokens(prompts: int, samples: int, length: int, seed: int) -> dict[str, np.ndarray]:
    """Plausible token scores: exponential entropies and divergences."""
    generator = np.random.default_rng(seed)
    shape = (prompts, samples, length)
    found = {name: generator.exponential(0.6, shape) for name in TOKEN_COLUMNS}
    found = {name: -value if "logprob" in name else value for name, value in found.items()}
    branches = {
        "nucleus_recall": generator.uniform(0.3, 1.0, shape),
        "top_overlap": generator.integers(4, 17, shape) / 16,
        "dropped": generator.integers(0, 3, shape).astype(float),
    }
    looked_at = found["teacher_entropy"] >= BRANCH_FLOOR
    return {**found, **{name: np.where(looked_at, value, np.nan) for name, value in branches.items()}}
