from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from synthetic import draws, write_run

from odeval import streams
from odeval.attrition import pass_bounds
from odeval.cli import run
from odeval.completions import Completions, load_completions
from odeval.measure import measure
from odeval.parts import read_part, write_table
from odeval.streams import copied_streams, excess_repeats, repeated_seeds
from odeval.trust import examine
from odeval.types import Prompt


def sampled(seed: int, streams: int = 64, prompts: int = 80, n: int = 64) -> pd.DataFrame:
    """Draw completions from known distributions; fewer than n streams means that some samples are copies."""
    generator = np.random.default_rng(seed)
    rows = []
    for p in range(prompts):
        probs = generator.dirichlet(np.full(30, 0.3))
        drawn = generator.choice(30, size=streams, p=probs)[np.arange(n) % streams]
        rows += [(f"p{p}", int(answer), float(np.log(probs[answer]))) for answer in drawn]
    return pd.DataFrame(rows, columns=["prompt_id", "digest", "logprob"])


def test_repeats_by_chance_are_not_called_copies() -> None:
    """The z score of independent draws has mean 0 and spread 1, however many repeats there are."""
    scores = np.array([excess_repeats([sampled(seed)]) for seed in range(150)])
    assert abs(scores.mean()) < 3 / np.sqrt(len(scores))
    assert 0.75 < scores.std() < 1.25
    assert scores.max() < 4


def test_many_repeats_are_found() -> None:
    assert excess_repeats([sampled(0, streams=32)]) > 4


@pytest.mark.parametrize("streams", [16, 56, 63])
def test_a_copied_stream_is_named(streams: int) -> None:
    """Even one copied stream of 64, which the number of repeats alone does not show."""
    first, second, p_value = copied_streams(sampled(0, streams).assign(sample_id=list(range(64)) * 80))
    assert p_value < 1e-9
    assert (second - first) % streams == 0


def test_independent_streams_are_not_blamed() -> None:
    p_values = [copied_streams(sampled(seed).assign(sample_id=list(range(64)) * 80))[2] for seed in range(60)]
    assert sum(p < 0.05 for p in p_values) <= 60 * 0.05 + 3 * np.sqrt(60 * 0.05 * 0.95)


def test_a_few_chance_agreements_among_rare_answers_are_no_copy() -> None:
    """Answers that hardly ever repeat: two agreements of one pair are a large z score and still chance."""
    generator = np.random.default_rng(0)
    rows = [(f"p{p}", s, int(generator.integers(3000))) for p in range(60) for s in range(32)]
    assert copied_streams(pd.DataFrame(rows, columns=["prompt_id", "sample_id", "digest"]))[2] > 1e-4


def test_streams_of_one_answer_cannot_be_told_apart() -> None:
    frame = pd.DataFrame({"prompt_id": ["a"] * 4 + ["b"] * 4, "sample_id": [0, 1, 2, 3] * 2, "digest": 1})
    assert copied_streams(frame)[2] == 1.0


def statuses(*runs) -> dict[str, str]:
    measured = [measure(run, run.label, 0.8) for run in runs]
    return {item.check: item.status for item in examine(measured)}


def test_a_shared_seed_blocks(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", draws(np.full(60, 0.5), 4, 0))
    measured = measure(run, "run", 0.8)
    assert {item.check: item.status for item in examine([measured])}["Every completion has its own seed"] == "ok"
    path = run.part_paths(run.samples)[-1]
    table = read_part(path)
    first = read_part(run.part_paths(run.samples)[0])["seed"].to_pylist()[:2]  # two seeds of the first part again
    seeds = pa.array([*first, *table["seed"].to_pylist()[2:]], pa.uint64())
    write_table(path, table.set_column(table.schema.get_field_index("seed"), "seed", seeds), {})
    write_table(run.grades, read_part(run.grades), {"samples": run.fingerprint(run.samples), "grader": "exact"})
    found = {item.check: item for item in examine([measure(run, "run", 0.8)])}["Every completion has its own seed"]
    assert (found.status, found.detail) == ("block", "run: 2 completions share a seed with another")


def test_shared_seeds_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_SEEDS", 50)  # several groups
    run = write_run(tmp_path / "run", draws(np.full(60, 0.5), 4, 0))
    completions = load_completions(run)
    assert repeated_seeds(completions) == 0
    table = completions.rows.read(range(60)).to_pandas()
    table["seed"] %= np.uint64(97)
    again = Completions(completions.prompt_ids, [pa.Table.from_pandas(table, preserve_index=False)])
    assert repeated_seeds(again) == table["seed"].duplicated().sum() > 100


def test_warnings(tmp_path: Path) -> None:
    few = write_run(
        tmp_path / "few",
        [[True, None, False, True]] * 30,
        reasons=[["stop", "stop", "length", "stop"]] * 30,
    )
    found = statuses(few)
    assert found["Prompts"] == "warn"
    assert found["Truncated at max_tokens"] == "warn"
    assert found["Not graded (attrition)"] == "warn"
    assert found["Entropies"] == "unknown"


def test_missing_grades_give_bounds(tmp_path: Path) -> None:
    """By hand: prompt 0 has 1 right of 3 graded and 1 unknown, prompt 1 is graded in full with 2 of 4."""
    run = write_run(tmp_path / "run", [[True, None, False, False], [True, True, False, False]])
    measured = measure(run, "run", 0.8)
    found = pass_bounds(measured, sorted(measured.prompts), [1, 2])
    assert found is not None
    assert found["ungraded"] == 1
    assert found["low"] == pytest.approx([(1 / 4 + 2 / 4) / 2, (1 - 3 / 6 + 1 - 1 / 6) / 2])
    assert found["high"] == pytest.approx([(2 / 4 + 2 / 4) / 2, (1 - 1 / 6 + 1 - 1 / 6) / 2])
    row = next(item for item in examine([measured]) if item.check.startswith("Not graded"))
    assert row.detail == "run 12.5% · run: pass@1 between 0.375 and 0.500, whatever they are"
    whole = measure(write_run(tmp_path / "whole", [[True, False]] * 2), "whole", 0.8)
    assert pass_bounds(whole, sorted(whole.prompts), [1]) is None


def test_what_was_not_checked_is_not_ok(tmp_path: Path) -> None:
    found = statuses(write_run(tmp_path / "run", draws(np.full(120, 0.5), 4, 0)))
    assert found["Prompts"] == "ok"
    assert found["Repeats no more than chance, run"] == "unknown"


def test_a_stored_baseline_should_be_deeper_than_what_is_judged_by_it(tmp_path: Path, capsys) -> None:
    def counts(name: str, n: int) -> Path:
        path = tmp_path / name
        path.write_text("".join(f'{{"id": "q{i}", "n": {n}, "c": {n // 2}}}\n' for i in range(120)))
        return path

    new, shallow, deep = counts("new.jsonl", 16), counts("shallow.jsonl", 63), counts("deep.jsonl", 64)
    assert run(["gate", str(new), "--baseline", str(shallow)]) == 0
    assert "! Depth of the stored baseline: shallow: 63 samples a prompt, under 4 times the 16 of new; " in (
        capsys.readouterr().out
    )
    assert run(["gate", str(new), "--baseline", str(deep)]) == 0
    assert "Depth" not in capsys.readouterr().out


def test_clusters_are_what_is_counted(tmp_path: Path) -> None:
    prompts = [Prompt(text=f"question {i}", answer="right", id=f"p{i:05d}", cluster=f"c{i % 12}") for i in range(120)]
    clustered = write_run(tmp_path / "run", draws(np.full(120, 0.5), 4, 0), prompts=prompts)
    found = next(row for row in examine([measure(clustered, "run", 0.8)]) if row.check == "Prompts")
    assert found.status == "warn"
    assert found.detail == (
        "120 prompts, identical in all 1 runs, in 12 clusters, which are what is independent; under 50 no PASS is given"
    )
