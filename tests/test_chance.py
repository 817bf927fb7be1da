"""The chance floor: what guessing scores, against a twin that plays the guesses out, and where it is told."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import draws, write_run

from odeval.chance import chance_floor
from odeval.compare import compare
from odeval.errors import OdevalError
from odeval.plots import save, svg
from odeval.store import RunFolder, parse_prompt, prompt_line
from odeval.tasks import countdown, graph_paths, load_task
from odeval.tasks.jsonl import load
from odeval.types import Prompt


def played_out(right: list[int], space: list[int], k: int) -> float:
    """Try every sequence of k guesses: the share that holds a right one, averaged over prompts."""
    shares = []
    for good, size in zip(right, space, strict=True):
        sequences = list(product(range(size), repeat=k))
        shares.append(sum(any(guess < good for guess in one) for one in sequences) / len(sequences))
    return sum(shares) / len(shares)


@given(st.lists(st.integers(1, 5).flatmap(lambda size: st.tuples(st.integers(0, size), st.just(size))), min_size=1))
def test_the_floor_is_that_of_every_sequence_of_guesses(prompts: list[tuple[int, int]]) -> None:
    right, space = ([pair[side] for pair in prompts] for side in (0, 1))
    floor = chance_floor([good / size for good, size in prompts], [1, 2, 4])
    assert floor == pytest.approx([played_out(right, space, k) for k in (1, 2, 4)], abs=1e-12)


def test_the_floor_of_certain_impossible_and_unknown_guesses() -> None:
    assert chance_floor([0.0, 1.0], [1, 64]).tolist() == [0.5, 0.5]
    assert np.isnan(chance_floor([0.5, float("nan")], [1, 2])).all()
    assert np.isnan(chance_floor([], [1])).all()
    assert chance_floor([1e-12], [1000])[0] == pytest.approx(1e-9, rel=1e-6)  # 1 - (1 - p)^k in floats loses digits


def test_chance_of_a_graph_question_is_the_share_of_random_walks() -> None:
    successors = graph_paths.graph()
    for prompt in graph_paths.prompts("heldout", 25):
        start, goal, _ = (prompt.text or "").split()
        arriving, total = {start: 1.0}, 0.0
        while arriving:  # step by step, every walk at once
            following: dict[str, float] = {}
            for node, mass in arriving.items():
                for after in successors[node]:
                    following[after] = following.get(after, 0.0) + mass / len(successors[node])
            total += following.pop(goal, 0.0)
            arriving = following
        assert graph_paths.chance(prompt) == pytest.approx(total, rel=1e-12)
    assert graph_paths.chance(Prompt(text="no question")) is None


def every_derivation(numbers: list[int]) -> list[int]:
    """Where each derivation ends, by playing every step; two that read alike are one."""

    def play(left: list[int], told: str) -> list[tuple[str, int]]:
        if len(left) == 1:
            return [(told, left[0])]
        found = []
        for i, a in enumerate(left):
            for j, b in enumerate(left):
                if i == j or a < b:
                    continue
                rest = [number for place, number in enumerate(left) if place not in (i, j)]
                steps = {"+": a + b, "-": a - b}
                if b != 1:
                    steps["*"] = a * b
                    if a % b == 0:
                        steps["/"] = a // b
                for sign, value in steps.items():
                    if 1 <= value <= 99:
                        found += play([*rest, value], f"{told} {a}{sign}{b}={value}")
        return found

    return list(dict(play(numbers, "")).values())


def test_chance_of_a_countdown_question_is_the_share_of_derivations() -> None:
    for prompt in countdown.prompts("heldout", 12):
        given_numbers, target = (prompt.text or "").rstrip(": ").split(" -> ")
        ends = every_derivation([int(number) for number in given_numbers.split()])
        assert countdown.chance(prompt) == pytest.approx(ends.count(int(target)) / len(ends), rel=1e-12)
    assert countdown.chance(Prompt(text="1 2 -> 3 :")) is None


@pytest.mark.parametrize("name", ["graph_paths", "countdown"])
def test_a_world_states_the_chance_of_its_held_out_prompts(name: str) -> None:
    assert all(0 < (prompt.chance or 0) < 1 for prompt in load_task(name, limit=5).prompts)


def test_a_prompts_file_may_state_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a", "answer": "b", "chance": 0.25}\n{"prompt": "c", "answer": "d", "chance": null}\n')
    told, untold = load(path, "exact").prompts
    assert (told.chance, untold.chance) == (0.25, None)
    assert told.prompt_id == Prompt(text="a", answer="b").prompt_id  # what is said about a question does not rename it
    assert parse_prompt(json.loads(prompt_line(told))).chance == 0.25
    assert "chance" not in json.loads(prompt_line(untold))


@pytest.mark.parametrize("value", ["1.5", "-0.1", '"half"', "true", "NaN"])
def test_a_wrong_chance_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f'{{"prompt": "a", "answer": "b", "chance": {value}}}\n')
    with pytest.raises(OdevalError, match=r"`chance` is .*, expected the probability that one guess is right"):
        load(path, "exact")


def runs(folder: Path, chance: float | None, rate: float) -> list[RunFolder]:
    prompts = [Prompt(text=f"question {p}", answer="right", id=f"p{p:05d}", chance=chance) for p in range(60)]
    return [
        write_run(folder / name, draws(np.full(60, own), 8, seed), prompts=prompts)
        for name, own, seed in (("teacher", 0.9, 1), ("student", rate, 2))
    ]


def told(comparison: dict[str, object]) -> list[tuple[str, str]]:
    trust = comparison["trust"]
    assert isinstance(trust, list)
    return [(row["status"], row["detail"]) for row in trust if row["check"] == "Better than guessing"]


def test_a_comparison_holds_the_floor_and_says_who_does_not_clear_it(tmp_path: Path) -> None:
    teacher, student = runs(tmp_path, 0.2, 0.2)
    found = compare([student], teacher)
    assert found["chance"]["k"] == [1, 2, 4, 8]
    assert found["chance"]["value"] == pytest.approx([1 - 0.8**k for k in (1, 2, 4, 8)])
    ((status, text),) = told(found)
    assert status == "warn"
    assert "student is not clearly above chance at k = 1, 2, 4, 8: pass@8 0.8" in text
    assert text.endswith("chance 0.832")
    assert "teacher" not in text


def test_runs_above_the_floor_are_said_to_be(tmp_path: Path) -> None:
    teacher, student = runs(tmp_path, 0.02, 0.6)
    assert told(compare([student], teacher)) == [
        ("ok", "every run, at every k; chance alone is 0.020 at 1, 0.149 at 8")
    ]


def test_where_one_prompt_does_not_state_it_the_floor_is_unknown(tmp_path: Path) -> None:
    teacher, student = runs(tmp_path, None, 0.6)
    found = compare([student], teacher)
    assert found["chance"] is None
    assert told(found) == []


def test_the_floor_is_drawn_with_its_name_and_stands_in_the_table(tmp_path: Path) -> None:
    found = compare([runs(tmp_path, 0.2, 0.6)[1]], RunFolder(tmp_path / "teacher"))
    for kind in ("passk", "objectives"):
        assert "chance" in svg(kind, found, "t", "d")
        assert "chance" not in svg(kind, {**found, "chance": None}, "t", "d")
    save("passk", found, tmp_path / "passk.csv")
    rows = [line.split(",") for line in (tmp_path / "passk.csv").read_text().splitlines()]
    floor = [float(row[4]) for row in rows if row[0] == "chance"]
    assert floor == found["chance"]["value"]
    assert all(a < b for a, b in pairwise(floor))
