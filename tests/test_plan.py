from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import special
from scipy.stats import binom
from synthetic import draws, write_run

from odeval.bounds import Levels, judged_curve
from odeval.cli import run
from odeval.config import RuleConfig
from odeval.curves import SCOPES, Counts, paired_curve
from odeval.errors import OdevalError
from odeval.gate import decide
from odeval.metrics.passk import pass_at_k
from odeval.plan import curve_covariance, evaluate, pilot_rates, sharpened, typical_rates
from odeval.rules import parse_rule

RULE = parse_rule(RuleConfig(rule="pass@k.delta >= -0.03"))


@pytest.mark.parametrize(("n", "p"), [(12, 0.1), (12, 0.6), (20, 0.02), (6, 0.0), (6, 1.0)])
def test_curve_covariance_is_that_of_every_possible_outcome(n: int, p: float) -> None:
    ks, c = [1, 2, n // 2], np.arange(n + 1)
    weight = binom.pmf(c, n, p)
    curves = pass_at_k(np.full(n + 1, n), c, ks)
    centred = curves - weight @ curves
    truth = np.einsum("i,ij,ik->jk", weight, centred, centred)
    np.testing.assert_allclose(curve_covariance(np.array([p]), n, ks)[0], truth, atol=1e-13)


def test_sharpening_keeps_the_certain_and_moves_the_rest_outwards() -> None:
    found = sharpened(np.array([0.0, 0.1, 0.5, 0.9, 1.0]), 2.0)
    assert found[[0, 2, 4]].tolist() == [0.0, 0.5, 1.0]
    assert found[1] < 0.1
    assert found[3] > 0.9


def test_more_prompts_and_more_samples_see_more() -> None:
    rates = typical_rates()
    plain = evaluate(rates, 200, 32, drop=0.06)
    assert evaluate(rates, 400, 32).detectable < plain.detectable
    assert evaluate(rates, 200, 64, ks=[1, 2, 4, 8, 16]).detectable < plain.detectable
    assert evaluate(rates, 400, 32).passes > plain.passes
    assert evaluate(rates, 400, 32, drop=0.06).power > plain.power
    assert evaluate(rates, 200, 32, drop=0.10).power > plain.power


def judged(prompts: int, n: int, gamma: float, scope: str, repetitions: int, limit: float = -0.03) -> dict[str, float]:
    """What the gate's own code says on simulated runs."""
    generator = np.random.default_rng([prompts, n, round(10 * gamma)])
    rule = parse_rule(RuleConfig(rule=f"pass@k.delta >= {limit}"))
    ks = [2**i for i in range(int(np.log2(n // 2)) + 1)]
    nodes = typical_rates()
    tally = dict.fromkeys(("PASS", "FAIL", "INCONCLUSIVE"), 0.0)
    for _ in range(repetitions):
        rates = generator.choice(nodes, prompts)
        after = special.expit(gamma * special.logit(rates))
        runs = [Counts(np.full(prompts, n), generator.binomial(n, p)) for p in (rates, after)]
        curve = paired_curve(*runs, ks)
        found = judged_curve(curve.difference, curve.scopes[scope], curve.ks, rule, Levels(0.05, 0.05), prompts)
        tally[decide(rule, found)[0]] += 1 / repetitions
    return tally


@pytest.mark.slow
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("prompts", "n"), [(50, 16), (100, 32)])
def test_false_alarms_stay_below_their_level(prompts: int, n: int, scope: str) -> None:
    """The strictest rule, nothing changed: at most α + 3 standard errors, and not so few that power is given away."""
    repetitions = 400
    failed = judged(prompts, n, 1.0, scope, repetitions, limit=0.0)["FAIL"]
    assert failed <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)
    assert failed >= 0.05 - 3 * np.sqrt(0.05 * 0.95 / repetitions) - 0.02


@pytest.mark.slow
def test_the_plan_is_what_the_gate_then_does() -> None:
    repetitions = 300
    plan = evaluate(typical_rates(), 200, 32, drop=0.06)
    assert judged(200, 32, 1.0, "population", repetitions)["PASS"] == pytest.approx(plan.passes, abs=0.08)
    gamma = 1.0
    grid = np.array([1, 2, 4, 8, 16])
    nodes = typical_rates()
    while ((1 - sharpened(nodes, gamma)[:, None]) ** grid - (1 - nodes[:, None]) ** grid).mean(0).max() < 0.06:
        gamma += 0.02
    assert judged(200, 32, gamma, "population", repetitions)["FAIL"] == pytest.approx(plan.power, abs=0.10)


def test_a_pilot_gives_the_rates_behind_its_counts() -> None:
    generator = np.random.default_rng(0)
    truth = np.where(generator.random(3000) < 0.2, 0.0, generator.beta(0.7, 1.5, 3000))
    found = pilot_rates(Counts(np.full(3000, 8), generator.binomial(8, truth)))
    assert found.mean() == pytest.approx(truth.mean(), abs=0.01)
    assert (found == 0).mean() == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((200, 1), "needs at least 2 of each"),
        ((200, 16, [1, 16]), "the gate judges k <= n/2; plan with n >= 32"),
    ],
)
def test_impossible_designs(arguments: tuple, message: str) -> None:
    with pytest.raises(OdevalError, match=message):
        evaluate(typical_rates(), *arguments)


def test_command(tmp_path: Path, capsys) -> None:
    pilot = write_run(tmp_path / "pilot", draws(np.random.default_rng(0).beta(0.7, 1, 60), 8, 0))
    arguments = ["plan", "--pilot", str(pilot.path), "--prompts", "100,400", "-n", "32", "--drop", "0.08"]
    assert run(arguments) == 0
    assert "cheapest with 80 % both ways" in capsys.readouterr().out
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["enough"]["prompts"] == 400
    assert found["tokens_per_completion"] == 2
    assert run(["plan", "--drop", "0.01"]) == 2
    assert "must exceed the margin" in capsys.readouterr().err
    assert run(["plan", "--prompts", "some"]) == 2
    unsolved = write_run(tmp_path / "unsolved", [[False] * 4] * 30)
    assert run(["plan", "--pilot", str(unsolved.path)]) == 2
    assert "the pilot tells nothing" in capsys.readouterr().err
