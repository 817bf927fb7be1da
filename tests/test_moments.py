"""Running sums against the matrix of all prompts, and prompts that several parts share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic import draws, random_tokens, write_run, write_tokens

from odeval.measure import measure
from odeval.metrics import METRICS
from odeval.metrics.tokens import last_parts, whole_prompts
from odeval.moments import RunningRatio
from odeval.parts import read_part, write_table
from odeval.questions import Questions
from odeval.stats import estimate, linearise
from odeval.types import PerPrompt

GRID = (0.5, 1.0, 2.0)


def sums(prompts: int, seed: int, constant: bool = False) -> PerPrompt:
    generator = np.random.default_rng(seed)
    weight = generator.integers(0, 40, (prompts, 3)).astype(float)
    share = np.full((prompts, 3), 1 / 3) if constant else generator.random((prompts, 3))
    ids = np.array([f"p{i:03d}" for i in range(prompts)], dtype=object)
    return PerPrompt(ids, weight * share, weight, GRID)


def blocks(whole: PerPrompt, size: int) -> list[PerPrompt]:
    cuts = [slice(start, start + size) for start in range(0, len(whole.prompt_ids), size)]
    return [PerPrompt(whole.prompt_ids[c], whole.numerator[c], whole.denominator[c], GRID) for c in cuts]


@pytest.mark.parametrize("size", [1, 7, 200])
@pytest.mark.parametrize("clustered", [False, True])
def test_running_sums_give_what_the_matrix_gives(size: int, clustered: bool) -> None:
    whole = sums(150, 0)
    whole.numerator[3, 1] = np.nan  # a prompt that says nothing about one point
    ids = list(whole.prompt_ids)
    own = [i % 11 for i in range(150)] if clustered else None
    running = RunningRatio(150, None if own is None else dict(zip(ids, own, strict=True)))
    for block in blocks(whole, size):
        running.add(block)
    matrix = linearise(whole, ids, None if own is None else np.array(own))
    found = running.result()
    np.testing.assert_allclose(found.value, matrix.value, rtol=1e-12)
    np.testing.assert_allclose(found.variance, np.diag(matrix.covariance()), rtol=1e-10)
    assert found.n.tolist() == matrix.n.tolist()
    assert found.degrees == matrix.degrees


def test_what_never_varies_is_seen_as_such() -> None:
    running = RunningRatio(150)
    for block in blocks(sums(150, 1, constant=True), 10):
        running.add(block)
    assert all("no variation" in item.caution for item in estimate(running.result(), 0.95, (0, 1)))


def test_one_prompt_alone_has_no_interval() -> None:
    running = RunningRatio(1)
    running.add(sums(1, 2))
    assert all(np.isnan(item.low) for item in estimate(running.result()))


def test_a_prompt_in_several_parts_is_counted_once(tmp_path: Path) -> None:
    """Parts are cut again at every 5 rows, as an importer does: most prompts then stand in two of them."""
    values, right = random_tokens(9, 4, 6, 3), draws(np.full(9, 0.5), 4, 0)
    runs = [write_run(tmp_path / name, right) for name in ("whole", "divided")]
    for run in runs:
        write_tokens(run, "student", run, values)
    folder = runs[1].tokens("student")
    parts = runs[1].part_paths(folder)
    table = pa.concat_tables([read_part(path) for path in parts])
    for path in parts:
        path.unlink()
    for number, start in enumerate(range(0, table.num_rows, 5)):
        write_table(folder / f"part-{number:05d}-00000.parquet", table.slice(start, 5), {})
    names = Questions(runs[1]).ids
    last = last_parts(runs[1], "student", names)
    assert len(runs[1].part_paths(folder)) == 8
    rows = table["prompt_id"].to_pylist()
    assert last.tolist() == [(len(rows) - 1 - rows[::-1].index(name)) // 5 for name in names]
    whole, divided = (measure(run, "run", 0.8) for run in runs)
    for name in (name for name in whole.sums if METRICS[name.partition("@")[0]].table == "tokens"):
        assert divided.sums[name].prompt_ids.tolist() == whole.sums[name].prompt_ids.tolist()
        np.testing.assert_allclose(divided.sums[name].numerator, whole.sums[name].numerator, rtol=1e-12)
    for name, curve in whole.families.items():
        np.testing.assert_allclose(divided.families[name].value, curve.value, rtol=1e-12)
        np.testing.assert_allclose(divided.families[name].variance, curve.variance, rtol=1e-9)
        assert divided.families[name].n.tolist() == curve.n.tolist()


def test_only_open_prompts_are_held() -> None:
    first, second = sums(4, 0), sums(4, 1)
    shared = PerPrompt(np.array(["p003", "q0", "q1", "q2"]), second.numerator, second.denominator, GRID)
    names, last = np.array(["p000", "p001", "p002", "p003", "q0", "q1", "q2"]), np.array([0, 0, 0, 1, 1, 1, 1])
    passed = [dict(part) for part in whole_prompts([{"m": first}, {"m": shared}], names, last)]
    assert [part["m"].prompt_ids.tolist() for part in passed] == [["p000", "p001", "p002"], ["p003", "q0", "q1", "q2"]]
    np.testing.assert_allclose(passed[1]["m"].numerator[0], first.numerator[3] + second.numerator[0])
