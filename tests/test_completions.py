"""Completions read block by block: any order of parts and grades, any blocks, and the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from synthetic import draws, write_run

from odeval import completions, spool
from odeval.completions import Completions, blocks, load_completions, per_prompt
from odeval.errors import CannotJudge, OdevalError
from odeval.metrics.classes import class_counts
from odeval.metrics.coverage import distinct_at_k
from odeval.metrics.health import sampled_entropy
from odeval.metrics.reliability import majority_at_k
from odeval.parts import read_part, write_table
from odeval.store import RunFolder
from odeval.types import SAMPLES, PerPrompt, Prompt


def a_run(folder: Path, seed: int = 0, prompts: int = 40, samples: int = 8) -> RunFolder:
    right = draws(np.full(prompts, 0.6), samples, seed)
    answers = [[f"a{(3 * p + 5 * s + seed) % 7}" for s in range(samples)] for p in range(prompts)]
    return write_run(folder, right, answers=answers)


def graded_again(run: RunFolder, table: pa.Table) -> None:
    write_table(run.grades, table, {"samples": run.fingerprint(run.samples), "grader": "exact"})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units, blocks and writes so small that a few prompts need many."""
    monkeypatch.setattr(completions, "_UNIT", 3)
    monkeypatch.setattr(completions, "_ROWS", 100)
    monkeypatch.setattr(spool, "_HELD", 50)


def test_the_rows_are_those_of_the_samples_and_grades(tmp_path: Path, small: None) -> None:
    run = a_run(tmp_path / "run")
    found = load_completions(run).whole()
    samples = pa.concat_tables(list(run.iterate(run.samples))).to_pandas()
    grades = read_part(run.grades).to_pandas()
    expected = samples.merge(grades, on=["prompt_id", "sample_id"]).sort_values(["prompt_id", "sample_id"])
    for name in ("prompt_id", "sample_id", "seed", "finish_reason", "correct", "answer"):
        assert found[name].tolist() == expected[name].tolist(), name
    assert found["num_tokens"].tolist() == [len(ids) for ids in expected["token_ids"]]
    same = expected.groupby(expected["token_ids"].map(tuple)).ngroup()
    assert pd.Series(found["digest"].to_numpy()).groupby(same.to_numpy()).nunique().eq(1).all()
    assert found["digest"].nunique() == same.nunique()


def test_any_order_of_parts_and_grades_gives_the_same(tmp_path: Path, small: None) -> None:
    """Several executors write parts in any order; an extension divides a prompt's samples; a grade may be missing."""
    run, generator = a_run(tmp_path / "run"), np.random.default_rng(0)
    expected = load_completions(run).whole()
    table = pa.concat_tables(list(run.iterate(run.samples)))
    table = table.take(generator.permutation(len(table)))
    for path in run.part_paths(run.samples):
        path.unlink()
    for number, start in enumerate(range(0, len(table), 33)):
        write_table(run.samples / f"part-{number:05d}-00000.parquet", table.slice(start, 33), {})
    grades = read_part(run.grades)
    graded_again(run, grades.take(generator.permutation(len(grades))))
    pd.testing.assert_frame_equal(load_completions(run).whole(), expected)
    graded_again(run, grades.filter(pa.compute.not_equal(grades["sample_id"], 2)))
    found = load_completions(run)
    missing = expected["sample_id"] == 2
    frame = found.whole()
    assert frame["correct"].isna().tolist() == frame["answer"].isna().tolist() == missing.tolist()
    assert frame["correct"][~missing].tolist() == expected["correct"][~missing].tolist()
    assert found.num_known["correct"] == len(found) - 40 == 280
    assert not found.knows_all("answer")
    assert found.knows_all("digest")


def test_entropies_of_the_engine_are_summed_where_it_gave_any(tmp_path: Path, small: None) -> None:
    """Two prompts are told, one of them but for a completion; the parts of another odeval know no such column."""
    run = a_run(tmp_path / "run", prompts=6, samples=4)
    assert load_completions(run).num_known["entropy"] == 0
    table = pa.concat_tables(list(run.iterate(run.samples)))
    first = table.slice(0, 8)
    told = [
        None if row == 5 else [0.25 * row + i for i in range(len(ids))] for row, ids in enumerate(first["token_ids"])
    ]
    column = table.column_names.index("entropies")
    first = first.set_column(column, SAMPLES.field("entropies"), pa.array(told, SAMPLES.field("entropies").type))
    for path in run.part_paths(run.samples):
        path.unlink()
    write_table(run.samples / "part-00000-00000.parquet", first, {})
    write_table(run.samples / "part-00001-00000.parquet", table.slice(8).drop_columns(["entropies"]), {})
    found = load_completions(run)
    assert found.num_known["entropy"] == 7
    frame = found.whole()
    sums = [float("nan") if values is None else sum(values) for values in told]
    np.testing.assert_allclose(frame["entropy"][:8], sums)
    mean = sampled_entropy(frame)
    known = [values for values in told if values is not None]
    assert mean.numerator.sum() == pytest.approx(sum(map(sum, known)))
    assert mean.denominator.tolist() == [sum(map(len, known[:4])), sum(map(len, known[4:])), 0, 0, 0, 0]


def test_blocks_hold_the_same_prompts_of_every_run_and_change_nothing(tmp_path: Path, small: None) -> None:
    runs = [load_completions(a_run(tmp_path / f"run {seed}", seed)) for seed in range(2)]
    cut = list(blocks(*runs))
    assert len(cut) > 5
    for number, run in enumerate(runs):
        together = pd.concat([block[number].astype({"prompt_id": object}) for block in cut], ignore_index=True)
        pd.testing.assert_frame_equal(together, run.whole().astype({"prompt_id": object}))
    assert all(set(left["prompt_id"]) == set(right["prompt_id"]) for left, right in cut)

    def sums(*frames: pd.DataFrame) -> dict[str, PerPrompt]:
        counted = class_counts(*frames, pool="outputs")
        return {"distinct": distinct_at_k(counted[1], [1, 2, 4]), "majority": majority_at_k(frames[0], [1, 4, 8])}

    whole = sums(*(run.whole() for run in runs))
    for name, found in per_prompt(sums, *runs).items():
        np.testing.assert_array_equal(found.prompt_ids, whole[name].prompt_ids)
        np.testing.assert_allclose(found.numerator, whole[name].numerator, rtol=1e-12)
        np.testing.assert_array_equal(found.denominator, whole[name].denominator)


def test_some_prompts_can_be_asked_for(tmp_path: Path, small: None) -> None:
    run = load_completions(a_run(tmp_path / "run"))
    whole = run.whole().astype({"prompt_id": object})
    for names in (["p00011"], ["p00030", "p00002", "p00001"], ["p00002", "zebra", "a"], ["zebra"], []):
        found = run.of(names)
        expected = whole[whole["prompt_id"].isin(names)]
        assert found["prompt_id"].tolist() == expected["prompt_id"].tolist()
        assert (
            found[["sample_id", "digest"]].to_numpy().tolist() == expected[["sample_id", "digest"]].to_numpy().tolist()
        )


def test_runs_of_other_prompts_are_not_walked_in_step(tmp_path: Path) -> None:
    runs = [load_completions(a_run(tmp_path / str(prompts), prompts=prompts)) for prompts in (3, 4)]
    with pytest.raises(ValueError, match="the same prompts"):
        next(blocks(*runs))
    assert not Completions()
    assert [len(frame) for (frame,) in blocks(Completions())] == [0]


def test_a_sample_of_a_prompt_that_was_not_asked(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", prompts=3)
    with pytest.raises(CannotJudge, match=r"a sample's prompt is not in prompts.jsonl; the run folder is not whole"):
        load_completions(run, [Prompt(id="p00000").prompt_id])


def test_a_disk_that_is_full_is_told(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "run")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OdevalError, match=r"cannot hold what is compared .*set TMPDIR to a folder with more room"):
        load_completions(run)


def test_the_temporary_file_goes_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = load_completions(a_run(tmp_path / "run"))
    assert len(found.whole()) == 320
    assert len(list(tmp_path.glob("odeval-*"))) == 1
    del found
    assert not list(tmp_path.glob("odeval-*"))
