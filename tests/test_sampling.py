"""The sampling stage with an engine that only remembers what it was asked: seeds, parts, extension, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from odeval import sampling
from odeval.errors import OdevalError
from odeval.sampling import completion_seed, sample
from odeval.store import RunFolder
from odeval.tasks.base import Task
from odeval.types import Completion, Grade, ModelRef, Prompt, SamplingParams

MODEL = ModelRef("somewhere", fingerprint="f", vocabulary="v")
PARAMS = SamplingParams(n=4, max_tokens=8)
TASK = Task("t", [Prompt(text="x" * (p + 1), answer="?") for p in range(7)], lambda p, c: Grade(True), 8, "exact")


class Echo:
    """Answers with its seed, and counts how often it is asked."""

    max_length: int | None = 100
    parallel = 1

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], int]] = []

    def ref(self) -> ModelRef:
        return MODEL

    def describe(self) -> dict[str, object]:
        return {"name": "echo"}

    def limits(self) -> str:
        return ""

    def encode(self, prompt: Prompt) -> list[int]:
        if prompt.text == "refused":
            raise OdevalError(f"prompt {prompt.prompt_id}: refused")
        return [1, len(prompt.text or "")]

    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> list[list[Completion]]:
        assert params.n == 1
        self.asked += [(tuple(prompt), seed) for prompt, own in zip(prompts, seeds, strict=True) for seed in own]
        return [
            [
                Completion(
                    [seed % 50, 2][: seed % 3],
                    str(seed),
                    ("stop", "length", "error")[seed % 3],
                    [-0.5] * (seed % 3),
                    prompt,
                )
                for seed in own
            ]
            for prompt, own in zip(prompts, seeds, strict=True)
        ]


def rows(run: RunFolder) -> list[dict[str, object]]:
    found = [row for table in run.iterate(run.samples) for row in table.to_pylist()]
    return sorted(found, key=lambda row: (row["prompt_id"], row["sample_id"]))


def parts(run: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.part_paths(run.samples)}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_PART_ROWS", 8)  # two prompts of four samples


def test_every_completion_once_with_its_own_seed(tmp_path: Path) -> None:
    run, engine = RunFolder(tmp_path / "run"), Echo()
    told: list[tuple[int, int]] = []
    sample(engine, MODEL, TASK, PARAMS, run, lambda done, total: told.append((done, total)))
    assert told == [(2, 7), (4, 7), (6, 7), (7, 7)]
    assert sorted(parts(run)) == [f"part-{n:05d}-00000.parquet" for n in range(4)]
    found = rows(run)
    assert {(r["prompt_id"], r["sample_id"]) for r in found} == {
        (p.prompt_id, s) for p in TASK.prompts for s in range(4)
    }
    assert len(found) == 28
    assert all(r["seed"] == completion_seed(0, "f", r["prompt_id"], r["sample_id"]) for r in found)  # type: ignore[arg-type]
    assert all(r["completion"] == str(r["seed"]) for r in found)
    assert {r["finish_reason"] for r in found} == {"stop", "length", "error"}
    assert [p.text for p in run.prompts()] == [p.text for p in TASK.prompts]


def test_seeds_never_meet() -> None:
    """No two completions share a stream, though runs, models, prompts and samples have names that begin alike."""
    seeds = [
        completion_seed(run, model, prompt, s)
        for run in (0, 1, 11)
        for model in ("", "a", "b", "1")
        for prompt in ("a", "b", "1", "11")
        for s in range(50)
    ]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) > 2**63, "all 64 bits are used"
    bits = np.array([[seed >> bit & 1 for bit in range(64)] for seed in seeds])
    assert abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(seeds))


def test_a_run_that_was_cut_short_is_finished_with_the_same_bytes(tmp_path: Path) -> None:
    whole = RunFolder(tmp_path / "whole")
    sample(Echo(), MODEL, TASK, PARAMS, whole)
    run = RunFolder(tmp_path / "run")
    sample(Echo(), MODEL, TASK, PARAMS, run)
    for lost in ("part-00001-00000.parquet", "part-00003-00000.parquet"):
        (run.samples / lost).unlink()
    (run.samples / ".part-00001-00000.parquet.99999999.tmp").write_bytes(b"half")
    engine = Echo()
    sample(engine, MODEL, TASK, PARAMS, run)
    assert len(engine.asked) == 12, "only what was missing"
    assert parts(run) == parts(whole)
    assert not list(run.samples.glob(".*")), "the half-written part is swept up"
    again = Echo()
    sample(again, MODEL, TASK, PARAMS, run)
    assert again.asked == []


def test_a_larger_n_extends_and_a_smaller_one_keeps(tmp_path: Path) -> None:
    run, deep = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "deep")
    sample(Echo(), MODEL, TASK, PARAMS, run)
    four = parts(run)
    engine = Echo()
    sample(engine, MODEL, TASK, dataclasses.replace(PARAMS, n=9), run)
    assert len(engine.asked) == 35
    assert {name: data for name, data in parts(run).items() if name in four} == four, "the first four stay as they are"
    sample(Echo(), MODEL, TASK, dataclasses.replace(PARAMS, n=9), deep)
    assert rows(run) == rows(deep), "as if nine had been asked for at once"
    nothing = Echo()
    sample(nothing, MODEL, TASK, PARAMS, run)
    assert nothing.asked == []
    assert run.meta()["sampling"]["n"] == 9


def test_an_extension_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    run, deep = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "deep")
    sample(Echo(), MODEL, TASK, PARAMS, run)
    (
        run.samples / "part-00000-00000.parquet"
    ).unlink()  # were parts cut anew for n 6, prompt 1 would take the next name
    sample(Echo(), MODEL, TASK, dataclasses.replace(PARAMS, n=6), run)
    (run.samples / "part-00001-00004.parquet").unlink()
    sample(Echo(), MODEL, TASK, dataclasses.replace(PARAMS, n=12), run)
    sample(Echo(), MODEL, TASK, dataclasses.replace(PARAMS, n=12), deep)
    assert rows(run) == rows(deep)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"params": dataclasses.replace(PARAMS, temperature=0.6)}, "sampling temperature was 1.0, now 0.6"),
        (
            {"params": dataclasses.replace(PARAMS, top_k=5, seed=3)},
            "sampling top_k was 0, now 5, sampling seed was 0, now 3",
        ),
        ({"model": dataclasses.replace(MODEL, fingerprint="g")}, "model fingerprint was 'f', now 'g'"),
        ({"task": dataclasses.replace(TASK, grader="numeric")}, "task grader was 'exact', now 'numeric'"),
        ({"task": dataclasses.replace(TASK, prompts=TASK.prompts[:5])}, "it asks other prompts"),
        ({"task": dataclasses.replace(TASK, prompts=TASK.prompts[::-1])}, "it asks other prompts"),
    ],
)
def test_another_run_in_the_folder_is_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    run = RunFolder(tmp_path / "run")
    settings = {"model": MODEL, "task": TASK, "params": PARAMS}
    sample(Echo(), run=run, **settings)  # type: ignore[arg-type]
    before, engine = (parts(run), (run.path / "run.json").read_bytes()), Echo()
    with pytest.raises(OdevalError, match=f"run holds another run: {text}; choose another --out, or delete the folder"):
        sample(engine, run=run, **{**settings, **change})  # type: ignore[arg-type]
    assert engine.asked == []
    assert (parts(run), (run.path / "run.json").read_bytes()) == before


def test_samples_that_run_json_does_not_speak_for_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    sample(Echo(), MODEL, TASK, PARAMS, run)
    stray = parts(run)["part-00000-00000.parquet"]
    other = RunFolder(tmp_path / "other")
    sample(Echo(), dataclasses.replace(MODEL, fingerprint="g"), TASK, PARAMS, other)
    (other.samples / "part-00000-00000.parquet").write_bytes(stray)
    with pytest.raises(OdevalError, match=r"part-00000-00000.parquet: was sampled with another model or other"):
        sample(Echo(), dataclasses.replace(MODEL, fingerprint="g"), TASK, PARAMS, other)


def test_samples_of_an_unknown_run_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    sample(Echo(), MODEL, TASK, PARAMS, run)
    (run.path / "run.json").unlink()
    with pytest.raises(
        OdevalError, match=r"run holds samples of an unknown run \(run.json is missing\); choose another"
    ):
        sample(Echo(), MODEL, TASK, PARAMS, run)


def test_a_run_that_never_answered_may_change_its_settings(tmp_path: Path) -> None:
    class Broken(Echo):
        def sample(self, *_: object) -> list[list[Completion]]:
            raise KeyboardInterrupt

    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        sample(Broken(), MODEL, TASK, PARAMS, run)
    sample(Echo(), MODEL, TASK, dataclasses.replace(PARAMS, temperature=0.5), run)
    assert run.meta()["sampling"]["temperature"] == 0.5


def test_a_bad_prompt_is_found_before_the_first_completion_is_paid_for(tmp_path: Path) -> None:
    engine, run = Echo(), RunFolder(tmp_path / "run")
    bad = dataclasses.replace(TASK, prompts=[*TASK.prompts, Prompt(text="refused", id="last")])
    with pytest.raises(OdevalError, match="prompt last: refused"):
        sample(engine, MODEL, bad, PARAMS, run)
    engine.max_length = 9
    with pytest.raises(
        OdevalError,
        match=r"7 of 7 prompts are too long for the model's 9 positions: \w+ has 2 tokens, and max_tokens is 8; "
        "lower --max-tokens to 7, or drop them",
    ):
        sample(engine, MODEL, TASK, PARAMS, run)
    assert engine.asked == []
    assert not (run.path / "run.json").exists(), "so that the next try is not another run"
    sample(engine, MODEL, TASK, dataclasses.replace(PARAMS, max_tokens=7), run)


def test_a_damaged_part_gets_one_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    sample(Echo(), MODEL, TASK, PARAMS, run)
    part = run.samples / "part-00002-00000.parquet"
    whole = part.read_bytes()
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-4] + b"xxxx", whole[:30] + bytes(9) + whole[39:]):
        part.write_bytes(damaged)
        with pytest.raises(
            OdevalError, match=r"samples/part-00002-00000.parquet: damaged \(.+\); delete it and rerun"
        ) as e:
            sample(Echo(), MODEL, TASK, PARAMS, run)
        assert "\n" not in str(e.value)
    part.unlink()
    sample(Echo(), MODEL, TASK, PARAMS, run)
    assert part.read_bytes() == whole


def test_parts_bound_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_PART_ROWS", 4096)
    monkeypatch.setattr(sampling, "_PART_TOKENS", 100)
    run = RunFolder(tmp_path / "run")
    sample(Echo(), MODEL, TASK, PARAMS, run)
    assert [pq.read_metadata(path).num_rows for path in run.part_paths(run.samples)] == [12, 12, 4]
    many = RunFolder(tmp_path / "many")
    sample(Echo(), MODEL, TASK, dataclasses.replace(PARAMS, n=50), many)
    assert [pq.read_metadata(path).num_rows for path in many.part_paths(many.samples)] == [50] * 7
