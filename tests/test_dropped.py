"""Dropped branches of a small trie whose every count can be made by walking it slowly."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from synthetic import write_dropped, write_run, write_tokens

from odeval import dropped as module
from odeval.compare import CompareSettings, compare
from odeval.dropped import dropped_branches
from odeval.heatmap import completion_to_show
from odeval.measure import measure
from odeval.parts import read_part, write_table
from odeval.schemas import PIECES
from odeval.store import RunFolder
from odeval.types import Prompt

PROMPTS, SAMPLES, WORDS = 7, 12, (5, 6, 9)
PIECE = {5: " five", 6: " six", 9: " nine"}


class World:
    """Random completions over three words, and two made-up distributions for every context."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        sizes = generator.integers(0, 5, (PROMPTS, SAMPLES))
        self.tokens = [[generator.choice(WORDS, size, p=[0.7, 0.2, 0.1]).tolist() for size in row] for row in sizes]
        grades = generator.choice([0, 1, 2], (PROMPTS, SAMPLES))
        self.correct: list[list[bool | None]] = [[[False, True, None][g] for g in row] for row in grades]
        self.correct[3] = [None] * SAMPLES
        self.dist: dict[tuple[int, tuple[int, ...]], tuple[Any, Any]] = {}
        for p, row in enumerate(self.tokens):
            for tokens in row:
                for t in range(len(tokens)):
                    q = generator.dirichlet([0.15] * 3)
                    self.dist.setdefault((p, tuple(tokens[:t])), (generator.dirichlet([1.0] * 3), q))

    def dropped(self) -> list[tuple[object, ...]]:
        rows: list[tuple[object, ...]] = []
        for p, row in enumerate(self.tokens):
            for s, tokens in enumerate(row):
                for t in range(len(tokens)):
                    probs = self.dist[p, tuple(tokens[:t])]
                    for word, own, other in zip(WORDS, *probs, strict=True):
                        if own >= 0.1 and other < 0.01:
                            rows.append((f"p{p:05d}", s, t, word, own, other, *map(entropy, probs)))
        return rows

    def slow(self) -> list[dict[str, Any]]:
        """Every dropped branch, by walking all completions for each of them."""
        found: dict[tuple[object, ...], dict[str, Any]] = {}
        for prompt_id, s, t, word, own, other, *entropies in self.dropped():
            p = int(str(prompt_id)[1:])
            before = self.tokens[p][s][:t]  # type: ignore[index, misc]
            here = [i for i, tokens in enumerate(self.tokens[p]) if tokens[:t] == before and len(tokens) > t]  # type: ignore[operator, misc]
            took = [i for i in here if self.tokens[p][i][t] == word]  # type: ignore[call-overload]
            known = [i for i in took if self.correct[p][i] is not None]
            right = [i for i in known if self.correct[p][i]]
            graded = sum(c is not None for c in self.correct[p])
            kept = other / own  # type: ignore[operator]
            found[p, tuple(before), word] = {
                "prompt_id": prompt_id, "position": t, "token_id": word, "context": "".join(map(PIECE.get, before)),  # type: ignore[arg-type]
                "visits": len(here), "taken": len(took), "graded": len(known), "correct": len(right),
                "completions": graded, "teacher_prob": own, "student_prob": other, "teacher_entropy": entropies[0],
                "student_entropy": entropies[1], "lost": len(right) / graded * (1 - kept) if graded else None,
                "lost_mass": len(here) / SAMPLES * (own - other), "sample_id": (right or took or here)[0],  # type: ignore[operator]
            }  # fmt: skip
        return sorted(found.values(), key=lambda row: (-(row["lost"] or 0.0), -row["lost_mass"]))


def entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum())


def build(folder: Path, seed: int, extended: bool = False) -> tuple[World, RunFolder, RunFolder]:
    world = World(seed)
    prompts = [Prompt(text=f"question {p}", answer="right", id=f"p{p:05d}") for p in range(PROMPTS)]
    runs = [
        write_run(folder / name, world.correct, tokens=world.tokens, block=3, prompts=prompts)
        for name in ("teacher", "student")
    ]
    if extended:
        cut(runs[0])
    write_dropped(runs[1], "teacher", runs[0], world.dropped())
    pieces = [pa.array(PIECE.keys(), pa.int32()), pa.array([text.encode() for text in PIECE.values()], pa.binary())]
    write_table(runs[1].piece_table, pa.table(pieces, schema=PIECES), {})
    return world, runs[0], runs[1]


def cut(run: RunFolder) -> None:
    """The same run as one that was sampled twice: each block of prompts stands in two parts."""
    for path in run.part_paths(run.samples):
        table = read_part(path)
        late = np.array(table["sample_id"].to_pylist()) >= 5
        for own, first in ((~late, 0), (late, 5)):
            name = f"{path.stem.rsplit('-', 1)[0]}-{first:05d}.parquet"
            write_table(run.samples / name, table.filter(pa.array(own)), {})
    write_table(run.grades, read_part(run.grades), {"samples": run.fingerprint(run.samples), "grader": "exact"})


def find(teacher: RunFolder, student: RunFolder) -> dict[str, Any]:
    measured = [measure(run, run.label, 0.8) for run in (teacher, student)]
    found = dropped_branches(*measured, teacher, student)
    assert found is not None
    json.dumps(found, allow_nan=False)
    return found


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_branch_against_a_slow_walk(
    seed: int, extended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LISTED", 10_000)
    world, *runs = build(tmp_path, seed, extended)
    found, expected = find(*runs), world.slow()
    assert len(expected) > 30
    assert found["branches"] == len(found["listed"]) == len(expected)
    assert found["contexts"] == len({(row["prompt_id"], row["context"]) for row in expected})
    assert found["prompts"] == len({row["prompt_id"] for row in expected})
    by_key = {(row["prompt_id"], row["context"], row["token_id"]): row for row in found["listed"]}
    for row in expected:
        own = by_key[row["prompt_id"], row["context"], row["token_id"]]
        for name, value in row.items():  # float32 in the table
            assert own[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), name
        assert own["branch"] == PIECE[row["token_id"]]
    worth = [(row["lost"] or 0.0, row["lost_mass"]) for row in found["listed"]]
    assert worth == sorted(worth, reverse=True)


def test_the_worst_of_all_blocks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, *runs = build(tmp_path, 2)
    monkeypatch.setattr(module, "_LISTED", 6)
    listed = find(*runs)["listed"]
    expected = world.slow()[:6]
    assert [row["lost"] for row in listed] == pytest.approx([row["lost"] for row in expected], rel=1e-5)
    assert [row["lost_mass"] for row in listed] == pytest.approx([row["lost_mass"] for row in expected], rel=1e-5)


def test_tokens_are_summed_over_contexts(tmp_path: Path) -> None:
    world, *runs = build(tmp_path, 3)
    sums: dict[int, dict[str, Any]] = defaultdict(lambda: defaultdict(list))
    for row in world.slow():
        for name, value in row.items():
            sums[row["token_id"]][name].append(value)
    for row in find(*runs)["tokens"]:
        own = sums[row["token_id"]]
        assert row["contexts"] == len(own["visits"])
        assert row["prompts"] == len(set(own["prompt_id"]))
        for name in ("visits", "taken", "graded", "correct"):
            assert row[name] == sum(own[name])
        assert row["lost"] == pytest.approx(sum(x or 0.0 for x in own["lost"]) / PROMPTS, rel=1e-5)
        assert row["teacher_prob"] == pytest.approx(np.mean(own["teacher_prob"]), rel=1e-5)


def test_a_comparison_carries_branches_and_a_completion(tmp_path: Path) -> None:
    world, teacher, student = build(tmp_path, 4)
    shape = (PROMPTS, SAMPLES, 5)
    values = {name: np.full(shape, 0.1) for name in ("forward_kl", "reverse_kl")}
    values |= {"teacher_entropy": np.full(shape, 1.0), "student_entropy": np.full(shape, 0.5)}
    values |= {"teacher_logprob": np.full(shape, -1.0), "student_logprob": np.full(shape, -2.0)}
    lengths = np.array([[len(tokens) for tokens in row] for row in world.tokens])
    write_tokens(student, "teacher", teacher, values, lengths)
    pair = compare([student], teacher)["pairs"][0]
    shown = pair["completion"]
    assert pair["branches"]["listed"][0]["branch"] in PIECE.values()
    p, s = int(shown["prompt_id"][1:]), shown["sample_id"]
    tokens = world.tokens[p][s]
    assert shown["pieces"] == [PIECE[token] for token in tokens]
    assert shown["length"] == len(tokens) == len(shown["teacher_entropy"])
    assert all(shown["branch"])
    assert all(shown["closed"])
    assert shown["correct"] is world.correct[p][s]
    mine = [(row[2], PIECE[row[3]]) for row in world.dropped() if row[:2] == (shown["prompt_id"], s)]  # type: ignore[index]
    assert [(row["at"], row["branch"]) for row in shown["dropped"]] == mine
    several = compare([student], teacher, settings=CompareSettings(threshold=0.4))["pairs"][0]["completion"]
    assert not any(several["closed"])


def test_nothing_dropped_and_nothing_scored(tmp_path: Path) -> None:
    _, teacher, student = build(tmp_path, 5)
    measured = [measure(run, run.label, 0.8) for run in (teacher, student)]
    assert completion_to_show(measured[0], teacher, student, None, 0.8) is None
    for path in student.part_paths(student.dropped("teacher")):
        table = read_part(path)
        write_table(path, table.slice(0, 0), {})
    found = find(teacher, student)
    assert (found["branches"], found["listed"], found["tokens"]) == (0, [], [])
    for path in student.part_paths(student.dropped("teacher")):
        path.unlink()
    assert dropped_branches(*measured, teacher, student) is None
