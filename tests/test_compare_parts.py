"""Families, coverage, diversity and extrapolation as they stand in comparison.json, against slow twins."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import draws, random_tokens, write_run, write_tokens

from odeval.compare import CompareSettings, compare
from odeval.parts import read_part, write_table
from odeval.schemas import GRADES, REWARD
from odeval.store import RunFolder

P, S, T = 40, 8, 5
NUMBER = {"value", "low", "high", "n", "caution", "se", "degrees"}
Values = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Values]]:
    folder = tmp_path_factory.mktemp("parts")
    rates = np.random.default_rng(0).uniform(0.2, 0.9, P)
    correct = [draws(rates, S, 1), draws(rates * 0.8, S, 2)]
    choice = np.random.default_rng(3).integers(4, size=(2, P, S))
    answers = [
        [
            [f"{'right' if right else 'wrong'} {choice[r, p, s]}" for s, right in enumerate(row)]
            for p, row in enumerate(own)
        ]
        for r, own in enumerate(correct)
    ]
    teacher, student = (write_run(folder / n, c, answers=a) for n, c, a in zip("ts", correct, answers, strict=True))
    values = {"teacher": random_tokens(P, S, T, 5), "student": random_tokens(P, S, T, 6)}
    for trajectory, source in (("teacher", teacher), ("student", student)):
        write_tokens(student, trajectory, source, values[trajectory])
    found = compare([student], teacher, settings=CompareSettings(threshold=0.8))
    return json.loads(json.dumps(found, allow_nan=False)), values


def entropies(values: Values, model: str) -> np.ndarray:
    return values[f"{model}_entropy"].astype(np.float32).astype(np.float64)


def test_the_two_by_two_at_every_threshold(scored: tuple[dict[str, Any], dict[str, Values]]) -> None:
    comparison, values = scored
    run = comparison["runs"][1]
    percentile = np.sort(entropies(values["teacher"], "teacher").ravel())[int(0.8 * P * S * T) - 1]
    assert run["thresholds"].keys() == {"0.672", "0.8", "1", "teacher's 80th percentile"}
    assert run["thresholds"]["teacher's 80th percentile"] == pytest.approx(percentile, abs=2e-3)
    for where, own in values.items():
        teacher = entropies(own, "teacher")
        for tau in run["thresholds"].values():
            branch = teacher >= tau
            expected = {
                f"teacher_high_by_threshold@{where}": branch.mean(),
                f"student_high_by_threshold@{where}": (entropies(own, "student") >= tau).mean(),
                f"retention_by_threshold@{where}": (entropies(own, "student") >= tau)[branch].mean(),
                f"forward_kl_on_branch_by_threshold@{where}": own["forward_kl"][branch].mean(),
                f"reverse_kl_off_branch_by_threshold@{where}": own["reverse_kl"][~branch].mean(),
            }
            for name, value in expected.items():
                family = run["families"][name]
                j = family["grid"].index(tau)
                assert family["value"][j] == pytest.approx(value, rel=1e-5)
                assert family["low"][j] < value < family["high"][j]
        curve = run["families"][f"student_survival@{where}"]
        for x, value in zip(curve["grid"], curve["value"], strict=True):
            assert value == pytest.approx((entropies(own, "student") >= x).mean())


def test_intervals_are_those_of_prompts_not_of_tokens(scored: tuple[dict[str, Any], dict[str, Values]]) -> None:
    comparison, values = scored
    family = comparison["runs"][1]["families"]["retention_by_threshold@teacher"]
    j = family["grid"].index(0.8)
    branch = entropies(values["teacher"], "teacher") >= 0.8
    kept = branch & (entropies(values["teacher"], "student") >= 0.8)
    hits, opens = kept.sum((1, 2)), branch.sum((1, 2))
    ratio = hits.sum() / opens.sum()
    expected = np.sqrt(P / (P - 1) * ((hits - ratio * opens) ** 2).sum()) / opens.sum()
    assert family["se"][j] == pytest.approx(expected)
    assert family["degrees"][j] == P - 1


def test_branch_metrics_stand_beside_the_others(scored: tuple[dict[str, Any], dict[str, Values]]) -> None:
    comparison, values = scored
    for where, own in values.items():
        branch = entropies(own, "teacher") >= 0.8
        metrics = comparison["runs"][1]["metrics"]
        columns = {"nucleus_recall": own["nucleus_recall"], "top_overlap": own["top_overlap"]}
        for name, column in {**columns, "dropped_branches": 1000 * own["dropped"]}.items():
            assert metrics[f"{name}@{where}"]["value"] == pytest.approx(column[branch].mean(), rel=1e-5)
            assert metrics[f"{name}@{where}"]["low"] < metrics[f"{name}@{where}"]["high"]
        assert metrics[f"student_branches@{where}"]["value"] == pytest.approx(
            np.exp(entropies(own, "student"))[branch].mean(), rel=1e-5
        )


def test_a_threshold_under_the_floor_leaves_branch_metrics_unknown(tmp_path: Path) -> None:
    rates = np.full(P, 0.5)
    teacher, student = (write_run(tmp_path / name, draws(rates, S, i)) for i, name in enumerate("ts"))
    write_tokens(student, "teacher", teacher, random_tokens(P, S, T, 5))
    metrics = compare([student], teacher, settings=CompareSettings(threshold=0.1))["runs"][1]["metrics"]
    assert metrics["nucleus_recall@teacher"]["value"] is None
    assert metrics["nucleus_recall@teacher"]["caution"]
    assert metrics["retention@teacher"]["value"] is not None


def test_exposure_bias_and_coverage_profile(scored: tuple[dict[str, Any], dict[str, Values]]) -> None:
    comparison, values = scored
    bias = comparison["pairs"][0]["exposure_bias"]
    sums = {where: own["forward_kl"].sum((0, 1)) / (P * S) for where, own in values.items()}
    ends = [0, 1, 2, 4, 8]
    totals = {w: np.cumsum([x[a:b].mean() * (b - a) for a, b in pairwise(ends)]) for w, x in sums.items()}
    assert bias["tokens"] == ends[1:]
    np.testing.assert_allclose(bias["value"], totals["student"] / totals["teacher"] - 1, rtol=1e-5)
    profile = comparison["runs"][1]["families"]["coverage_profile@teacher"]
    ratio = (values["teacher"]["teacher_logprob"] - values["teacher"]["student_logprob"]).sum(2)
    assert profile["value"] == pytest.approx([(ratio >= np.log(m)).mean() for m in profile["grid"]])


def test_coverage_and_diversity_are_there_with_intervals(scored: tuple[dict[str, Any], dict[str, Values]]) -> None:
    pair = scored[0]["pairs"][0]
    for view in pair["coverage"]["views"]:
        for name in ("recall", "ceiling", "gap", "grounding"):
            assert view[name].keys() > NUMBER
            known = [j for j, value in enumerate(view[name]["value"]) if value is not None]
            assert known
            assert all(view[name]["low"][j] <= view[name]["value"][j] <= view[name]["high"][j] for j in known)
    assert pair["coverage"]["lost"]["count"] >= len(pair["coverage"]["lost"]["listed"]) > 0
    parts = pair["diversity"]["split"]
    assert parts["whole"]["value"] == pytest.approx(parts["quality_control"]["value"] + parts["narrowing"]["value"])
    assert pair["diversity"]["text"]["gated"] is False


def test_reliability_over_k_and_extrapolation(tmp_path: Path) -> None:
    rates = np.random.default_rng(4).beta(0.7, 1.0, 60)
    old, new = (write_run(tmp_path / name, draws(rates, 16, i)) for i, name in enumerate(("old", "new")))
    rewards = add_rewards(new)
    runs = compare([new], baseline=old)["runs"]
    for run in runs:
        families = run["families"]
        assert families["pass_hat_k"]["grid"] == run["pass_at_k"]["k"]
        # all of 1 = one of 1 = half of 1; all of k ≤ half of k ≤ one of k
        assert families["pass_hat_k"]["value"][0] == pytest.approx(run["pass_at_k"]["value"][0])
        rows = (families["pass_hat_k"], families["g_pass_at_k"], run["pass_at_k"])
        for low, high in pairwise(row["value"] for row in rows):
            assert all(a <= b + 1e-12 for a, b in zip(low, high, strict=True))
        assert all(a < b for a, b in zip(families["pass_hat_k"]["low"], families["pass_hat_k"]["high"], strict=True))
        assert families["majority_at_k"]["n"][0] == 60
        told = run["extrapolation"]
        assert (told["label"], told["gated"], told["k"][0], told["k"][-1]) == ("extrapolated", False, 16.0, 64.0)
    assert "best_of_k" not in runs[0]["families"]
    graded = read_part(new.grades).to_pandas().assign(reward=rewards)
    best = graded.sort_values("reward").groupby("prompt_id")["correct"].last().mean()
    assert runs[1]["families"]["best_of_k"]["value"][-1] == pytest.approx(best)


def add_rewards(run: RunFolder) -> np.ndarray:
    table = read_part(run.grades)
    rewards = np.random.default_rng(0).random(table.num_rows)
    table = table.append_column(REWARD, [rewards])
    assert table.schema.remove_metadata() == GRADES.append(REWARD)
    write_table(run.grades, table, {"samples": run.fingerprint(run.samples), "grader": "exact"})
    return rewards
