"""The rendered studies are those of the newest results, and what they are computed with is right."""

from __future__ import annotations

import shutil
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import agreement_fixtures  # noqa: E402
import agreement_odeval  # noqa: E402
import agreement_report  # noqa: E402
import agreement_truth  # noqa: E402
import calibration_report  # noqa: E402
import forgetting_report  # noqa: E402
import objective_arms  # noqa: E402
import objective_findings  # noqa: E402
import objective_report  # noqa: E402
import performance_report  # noqa: E402
import quick  # noqa: E402
import real_model_report  # noqa: E402
from agreement import worst  # noqa: E402
from agreement_peers import ASK, PEERS  # noqa: E402
from objective_measure import by_position, crossed, curve, groups  # noqa: E402

from odeval.atomic import read_json  # noqa: E402
from odeval.testbed.exact import Enumeration  # noqa: E402
from odkd.config import make_config  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


def test_the_objectives_report_is_rendered_from_the_newest_results(tmp_path: Path) -> None:
    made = objective_report.write(objective_report.newest(RESULTS), tmp_path / "README.md")
    assert made.read_text() == (ROOT / "reports" / "objectives" / "README.md").read_text()


def test_the_calibration_report_is_rendered_from_the_newest_results(tmp_path: Path) -> None:
    made = calibration_report.write(RESULTS, tmp_path / "README.md")
    assert made.read_text() == (ROOT / "reports" / "calibration" / "README.md").read_text()


def test_the_agreement_report_is_rendered_from_the_newest_results(tmp_path: Path) -> None:
    made = agreement_report.write(RESULTS, tmp_path / "README.md")
    assert made.read_text() == (ROOT / "reports" / "agreement" / "README.md").read_text()


def test_the_performance_report_is_rendered_from_the_newest_results(tmp_path: Path) -> None:
    made = performance_report.write(RESULTS, tmp_path / "README.md")
    assert made.read_text() == (ROOT / "reports" / "performance" / "README.md").read_text()
    claims = performance_report.claims(RESULTS)
    assert {claim.met() for claim in claims} == {True, False, None}, "what missed its target stands in the table too"


def test_every_cause_of_a_disagreement_gives_the_answers_of_the_package() -> None:
    peers = read_json(agreement_report.newest(RESULTS))["peers"]
    assert set(peers) == set(PEERS)
    rows = [row for peer in peers.values() for row in peer["rows"] if "cause" in row]
    assert len(rows) > 10
    for row in rows:
        in_float32 = "default weights" in row["via"]  # a sum that the package keeps in float32
        assert row["cause"]["left"] < (1e-6 if in_float32 else 1e-9), row["via"]


@pytest.mark.parametrize("name", agreement_fixtures.quantities())
def test_odeval_gives_the_exact_answers_that_packages_are_compared_with(name: str) -> None:
    asked = agreement_fixtures.quantities()[name]
    cases = asked.cases[:: max(1, len(asked.cases) // 12)]
    exact = [agreement_truth.truth(name)(*case) for case in cases]
    found = [agreement_odeval.ours(name)(*case) for case in cases]
    error = worst(found, exact, asked)
    assert error is not None
    assert error <= asked.tolerance


@pytest.mark.parametrize("peer", PEERS)
def test_the_program_of_every_package_is_python(peer: str) -> None:
    compile(ASK % PEERS[peer].program, peer, "exec")


def test_a_number_on_one_side_alone_is_no_small_difference() -> None:
    quantity = agreement_fixtures.Quantity([])
    assert worst([0.5, None, "ValueError"], [0.25, None, None], quantity) == 0.25
    assert worst([1.0], [None], quantity) is None
    assert worst(["ValueError"], [1.0], quantity) is None
    assert worst([[1.0, float("nan")]], [[1.0, 2.0]], quantity) is None


@pytest.mark.parametrize(("study", "report"), [("real_model", real_model_report), ("forgetting", forgetting_report)])
def test_a_study_on_sampled_runs_is_rendered_from_its_comparison(
    tmp_path: Path, study: str, report: ModuleType
) -> None:
    kept = ROOT / "reports" / study
    shutil.copytree(kept, tmp_path / study)
    (tmp_path / study / "README.md").unlink()
    made = report.write(report.newest(RESULTS), tmp_path / study)
    assert made.read_text() == (kept / "README.md").read_text()


def test_the_index_is_rendered_from_the_newest_results() -> None:
    import render_studies

    assert (ROOT / "reports" / "README.md").read_text() == render_studies.index()


@pytest.mark.parametrize("arm", [*objective_arms.ARMS, *objective_arms.VARIANTS])
def test_every_arm_is_a_valid_configuration_of_odkd(arm: str, tmp_path: Path) -> None:
    settings = {**objective_arms.ARMS, **objective_arms.VARIANTS}[arm]
    where = {"model_name_or_path": "s", "teacher_model_name_or_path": "t", "dataset_name": "d"}
    assert make_config({**settings, **where, "output_dir": str(tmp_path), "max_steps": 100}).max_steps == 100
    assert objective_arms.varied(arm) in objective_arms.ARMS


def test_a_case_names_arms_that_exist_and_takes_rates_from_one_that_has_them() -> None:
    for case in [*objective_arms.CASES.values(), *objective_arms.quick_cases().values()]:
        assert set(case.arms) <= {*objective_arms.ARMS, *objective_arms.VARIANTS}
        if not case.rates:
            source = objective_arms.CASES[case.rates_of]
            assert source.rates
            assert {objective_arms.varied(arm) for arm in case.arms} <= set(source.arms)
        assert all(low < high for low, high in pairwise(case.rates))


def naive(change: list[list[float]]) -> tuple[float, float]:
    """Mean of a two-way table without replication and its variance, by sums of squares (Searle et al. 1992, 4.3)."""
    a, b = len(change), len(change[0])
    grand = sum(map(sum, change)) / (a * b)
    rows = [sum(row) / b for row in change]
    columns = [sum(row[j] for row in change) / a for j in range(b)]
    ms_rows = b * sum((r - grand) ** 2 for r in rows) / (a - 1)
    ms_columns = a * sum((c - grand) ** 2 for c in columns) / (b - 1)
    rest = sum((change[i][j] - rows[i] - columns[j] + grand) ** 2 for i in range(a) for j in range(b))
    return grand, (ms_rows + ms_columns - rest / ((a - 1) * (b - 1))) / (a * b)


def test_the_interval_over_seeds_and_prompts_is_that_of_the_analysis_of_variance() -> None:
    generator = np.random.default_rng(0)
    change = generator.normal(size=(4, 30)) + generator.normal(size=30) + generator.normal(size=(4, 1))
    mean, variance = naive(change.tolist())
    value, low, high = crossed(change)
    assert value == pytest.approx(mean)
    assert low == pytest.approx(2 * mean - high)
    assert (
        1.96 < (high - mean) / np.sqrt(variance) < 3.19
    )  # Student's t between infinitely many and 3 degrees of freedom


def test_one_seed_gives_the_interval_over_prompts_alone() -> None:
    change = np.random.default_rng(1).normal(size=(1, 50))
    value, _, high = crossed(change)
    assert (high - value) / (change.std(ddof=1) / np.sqrt(50)) == pytest.approx(2.0096, abs=1e-3)  # t, 49 degrees


def test_curve_and_groups_by_hand() -> None:
    np.testing.assert_allclose(curve(np.array([0.5, 0.0, 1.0]))[:, 1], [0.75, 0.0, 1.0])
    member = groups(np.array([1, 1, 2, 3, 5, 8]))
    assert member["few"].tolist() == [True, True, False, False, False, False]
    assert member["many"].tolist() == [False, False, False, False, True, True]
    assert member["all"].all()


def test_retention_by_position_by_hand() -> None:
    def seen(entropies: list[list[float]]) -> Enumeration:
        spread = np.array(entropies)
        return Enumeration(np.array([0, 1]), 2, np.log([[0.5, 1], [0.25, 1]]), spread, np.ones_like(spread, dtype=bool))

    teacher, student = seen([[0.9, 0.1], [0.9, 1.0]]), seen([[0.9, 0.0], [0.1, 0.8]])
    assert by_position(teacher, student) == [[pytest.approx(0.75), pytest.approx(2 / 3)], [pytest.approx(0.25), 1.0]]


def test_pareto_keeps_what_nothing_beats_at_both_ends() -> None:
    points = [("a", 0.5, 0.9), ("b", 0.6, 0.8), ("c", 0.5, 0.8), ("d", 0.4, 0.95)]
    assert objective_findings.pareto(points) == ["a", "b", "d"]


def test_findings_say_where_the_common_story_does_not_hold() -> None:
    lost = {"pass@1": [0.1, 0.05, 0.15], "pass@64": [-0.1, -0.12, -0.08]}
    kept = {"pass@1": [0.1, 0.05, 0.15], "pass@64": [0.01, -0.02, 0.04]}
    arms = {"reverse_kl": {"to_start": {"all": lost}}, "pg_reverse_kl": {"to_start": {"all": kept}}}
    case = {"world": "w", "start": "s", "steps": 1, "arms": arms, "learning_rates": dict.fromkeys(arms, 0.1)}
    text = objective_findings.common_story({"world": case, "the same": case})
    assert "holds in 1 of 2 arms" in text
    assert "It does not hold for `pg_reverse_kl` (world)." in text


def test_an_unknown_quick_benchmark_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quick.py", "lose"])
    with pytest.raises(SystemExit):
        quick.main()
    assert "no such benchmark: lose; there are analysis, sampling, store, loss" in capsys.readouterr().err
