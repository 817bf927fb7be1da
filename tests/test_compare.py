from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import draws, random_tokens, write_run, write_tokens

from odeval.compare import CompareSettings, compare
from odeval.errors import CannotJudge, OdevalError
from odeval.metrics.passk import pass_at_k
from odeval.types import Prompt, SamplingParams


@pytest.fixture
def pair(tmp_path: Path):
    rates = np.random.default_rng(0).beta(0.7, 1.0, 60)
    return write_run(tmp_path / "old", draws(rates, 16, 1)), write_run(tmp_path / "new", draws(rates**1.5, 16, 2))


def test_curves_are_means_of_per_prompt_pass_at_k(pair) -> None:
    old, new = pair
    curve = compare([new], baseline=old)["pairs"][0]["pass_at_k"]
    assert curve["k"] == [1, 2, 4, 8, 16]
    for key, run in (("baseline", old), ("candidate", new)):
        import pyarrow.parquet as pq

        grades = pq.read_table(run.grades).to_pandas()
        c = grades.groupby("prompt_id")["correct"].sum().to_numpy(dtype=int)
        np.testing.assert_allclose(curve[key], pass_at_k(np.full(60, 16), c, curve["k"]).mean(0))
    np.testing.assert_allclose(curve["difference"], np.subtract(curve["candidate"], curve["baseline"]))
    low, high = (np.array(curve["population"][key]) for key in ("low", "high"))
    assert (low < curve["difference"]).all()
    assert (high > curve["difference"]).all()


def test_the_result_is_plain_json_and_holds_no_nan(pair) -> None:
    json.loads(json.dumps(compare([pair[1]], baseline=pair[0]), allow_nan=False))


def test_solved_sets_and_lost_prompts(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", [[True] * 8, [True] + [False] * 7, [False] * 8, [False] * 8])
    new = write_run(tmp_path / "new", [[True] * 8, [False] * 8, [True] * 8, [False] * 8])
    found = compare([new], baseline=old)["pairs"][0]
    assert all(found["solved"][key] == 1 for key in ("both", "baseline_only", "candidate_only", "neither"))
    assert found["solved"]["gained_beyond_chance"] == ["p00002"]  # 0 of 8 to 8 of 8; 1 of 8 to 0 of 8 is no news
    assert found["solved"]["lost_beyond_chance"] == []
    (lost,) = found["lost_prompts"]
    assert lost["prompt_id"] == "p00001"
    assert lost["prompt"] == "question 1"
    assert (lost["baseline"], lost["candidate"]) == ({"n": 8, "c": 1}, {"n": 8, "c": 0})
    assert lost["baseline_answer"] == "right"
    assert lost["upper"] == pytest.approx(1 - 0.05 ** (1 / 8))


def test_a_run_against_itself_differs_by_exactly_nothing(pair) -> None:
    found = compare([pair[0]], baseline=pair[0])["pairs"][0]
    assert set(found["pass_at_k"]["difference"]) == {0.0}
    assert found["solved"]["baseline_only"] == 0
    assert found["baseline"] != found["candidate"]


def test_token_metrics_are_paired_by_prompt(tmp_path: Path) -> None:
    teacher = write_run(tmp_path / "teacher", draws(np.full(60, 0.7), 8, 0))
    runs = [write_run(tmp_path / name, draws(np.full(60, 0.5), 8, 1)) for name in ("old", "new")]
    for seed, run in enumerate(runs):
        for trajectory, source in (("teacher", teacher), ("student", run)):
            values = random_tokens(60, 8, 5, 10 * seed)
            values["student_entropy"] = values["teacher_entropy"] * (1.0 - 0.2 * seed)
            write_tokens(run, trajectory, source, values)
    found = compare([runs[1]], teacher=teacher, baseline=runs[0])
    against_baseline, against_teacher = found["pairs"]
    retention = against_baseline["metrics"]["retention@teacher"]
    assert retention["baseline"] == 1
    assert retention["candidate"] < 0.9
    assert retention["difference"]["high"] < 0
    assert "retention@teacher" not in against_teacher["metrics"]
    assert found["runs"][2]["survival"]["teacher"]["student"][0] == 1


def test_scores_of_other_samples_are_refused(tmp_path: Path) -> None:
    run, other = (write_run(tmp_path / name, draws(np.full(20, 0.5), 4, seed)) for seed, name in enumerate("ab"))
    write_tokens(run, "student", run, random_tokens(20, 4, 5, 0))
    fresh = write_run(tmp_path / "a", draws(np.full(20, 0.5), 4, 9))
    with pytest.raises(CannotJudge, match="scored from other samples"):
        compare([fresh], baseline=other)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (CompareSettings(ks=(1, 32)), "k 32 exceeds n 16"),
        (CompareSettings(ks=(0,)), "k 0: must be >= 1"),
    ],
)
def test_impossible_k(pair, settings: CompareSettings, text: str) -> None:
    with pytest.raises(OdevalError, match=text):
        compare([pair[1]], baseline=pair[0], settings=settings)


def test_all_k(pair) -> None:
    assert compare([pair[1]], baseline=pair[0], settings=CompareSettings(ks="all"))["settings"]["ks"] == list(
        range(1, 17)
    )


def test_runs_that_were_asked_otherwise_are_refused(tmp_path: Path) -> None:
    grades = draws(np.full(20, 0.5), 4, 0)
    plain = write_run(tmp_path / "plain", grades)
    cold = write_run(tmp_path / "cold", grades, params=SamplingParams(n=4, temperature=0.6, max_tokens=8))
    with pytest.raises(
        OdevalError, match=r"cold: temperature 0.6 differs from plain's 1.0.*--allow-mismatch temperature"
    ):
        compare([cold], baseline=plain)
    assert compare([cold], baseline=plain, settings=CompareSettings(allow_mismatch=("temperature",)))["pairs"]
    graded = write_run(tmp_path / "graded", grades, grader="numeric")
    with pytest.raises(OdevalError, match="graded by numeric, plain by exact"):
        compare([graded], baseline=plain)
    fewer = write_run(tmp_path / "fewer", grades[:15])
    with pytest.raises(OdevalError, match="different prompts: 5 only in plain, 0 only in fewer"):
        compare([fewer], baseline=plain)
    reworded = [Prompt(text=f"other {p}", answer="right", id=f"p{p:05d}") for p in range(20)]
    with pytest.raises(OdevalError, match="prompt p00000 reads differently"):
        compare([write_run(tmp_path / "reworded", grades, prompts=reworded)], baseline=plain)


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", draws(np.full(20, 0.5), 4, 0))
    with pytest.raises(CannotJudge, match="nothing to compare with"):
        compare([run])
    run.grades.unlink()
    with pytest.raises(CannotJudge, match="not graded yet; run `odeval grade"):
        compare([run], baseline=run)


def test_prompts_with_fewer_samples_leave_both_sides_of_a_difference(tmp_path: Path) -> None:
    """A prompt that lost samples to errors must not be in one mean and out of the other."""
    full = [[True] * 8, [False] * 8] * 30
    some: list[list[bool | None]] = [[True] * 8, [None] * 5 + [False] * 3] * 30
    old, new = write_run(tmp_path / "old", full), write_run(tmp_path / "new", some)
    curve = compare([new], baseline=old, settings=CompareSettings(ks=(1, 4)))["pairs"][0]["pass_at_k"]
    assert curve["difference"] == [0.0, 0.0]
    assert curve["baseline"] == [0.5, 1.0]
