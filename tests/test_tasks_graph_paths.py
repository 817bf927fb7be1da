"""Graph paths: the enumeration is complete, the grader agrees with it, and nothing a model writes breaks it."""

from __future__ import annotations

from itertools import pairwise, product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odeval.errors import OdevalError
from odeval.tasks import graph_paths
from odeval.tasks.worlds import Split
from odeval.types import Prompt, content_hash

NODES = list(graph_paths.graph())
HELDOUT = graph_paths.prompts("heldout")
questions = st.sampled_from(HELDOUT)


def test_the_graph_is_the_one_the_embedded_models_have_learnt() -> None:
    edges = {node: list(after) for node, after in graph_paths.graph().items()}
    assert content_hash(edges) == "8221520d90bae5e4"
    assert content_hash([prompt.text for prompt in HELDOUT]) == "f0d99f6fc34a13d2"


def test_another_seed_gives_another_graph() -> None:
    assert graph_paths.graph(seed=1) != graph_paths.graph()


def test_edges_lead_one_or_two_layers_on() -> None:
    steps = [ord(b[0]) - ord(a[0]) for a, after in graph_paths.graph().items() for b in after]
    assert set(steps) == {1, 2}
    assert 0.05 < steps.count(2) / len(steps) < 0.15
    numbers = {len(after) for node, after in graph_paths.graph().items() if node[0] != "h"}
    assert numbers == {2, 3, 4}
    assert all(not after for node, after in graph_paths.graph().items() if node[0] == "h")


@pytest.mark.parametrize("seed", range(4))
def test_enumeration_equals_brute_force(seed: int) -> None:
    small = graph_paths.graph(seed=seed, layers=5, width=5)
    names = list(small)
    everything = {length: list(product(names, repeat=length)) for length in (1, 2)}
    for start in names[:5]:
        walks = [w for length in (1, 2) for w in everything[length]]
        walks += [(a, b, c) for a in small[start] for b in names for c in names]
        walks += [(a, b, c, d) for a in small[start] for b in small[a] for c in names for d in names]
        walks = [w for w in walks if all(y in small[x] for x, y in pairwise((start, *w)))]
        for goal in names:
            if goal != start:
                expected = sorted(w for w in walks if w[-1] == goal)
                assert graph_paths.paths(small, start, goal) == expected


def test_every_question_has_one_to_eight_answers() -> None:
    for split in get_args(Split):
        for prompt in graph_paths.prompts(split):
            start, goal, _ = (prompt.text or "").split()
            answers = graph_paths.solutions(prompt)
            assert 1 <= len(answers) <= 8
            assert answers == sorted(set(answers))
            assert ord(goal[0]) - ord(start[0]) >= 2
            assert prompt.answer == goal
            assert all(len(answer.split()) < graph_paths.WORLD.max_tokens for answer in answers)


def test_splits_share_no_question_and_training_shows_every_edge() -> None:
    ids = {split: {p.prompt_id for p in graph_paths.prompts(split)} for split in get_args(Split)}
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 4698
    shares = {split: len(own) / 4698 for split, own in ids.items()}
    assert 0.55 < shares["train"] < 0.65
    assert 0.25 < shares["heldout"] < 0.35

    def edges(split: Split) -> set[tuple[str, str]]:
        found = set()
        for prompt in graph_paths.prompts(split):
            for answer in graph_paths.solutions(prompt):
                nodes = [(prompt.text or "").split()[0], *answer.split()]
                found.update(pairwise(nodes))
        return found

    assert edges("heldout") | edges("selection") <= edges("train")  # held out is the pair, not the graph


def test_task_asks_held_out_questions_only() -> None:
    task = graph_paths.task(limit=50)
    assert list(task.prompts) == HELDOUT[:50]
    assert (task.name, task.grader, task.max_tokens) == ("graph_paths", "graph_paths", 8)
    assert len(graph_paths.task().prompts) == 200
    assert task.solutions is not None


def test_bad_arguments_get_one_line() -> None:
    with pytest.raises(OdevalError, match=r"^limit 0: at least 1 prompt is needed$"):
        graph_paths.prompts("heldout", 0)
    with pytest.raises(OdevalError, match=r"^unknown split 'held-out': .* \(did you mean 'heldout'\?\)$"):
        graph_paths.prompts("held-out")  # type: ignore[arg-type]


@given(questions)
def test_every_answer_is_graded_right_however_it_is_spaced(prompt: Prompt) -> None:
    for answer in graph_paths.solutions(prompt):
        assert graph_paths.grade(prompt, answer).correct is True
        loose = graph_paths.grade(prompt, f"\n  {answer.replace(' ', '   ')}\t")
        assert (loose.correct, loose.answer, loose.why) == (True, answer, "")


@given(questions, st.data())
def test_a_mutated_answer_is_right_only_if_it_is_listed(prompt: Prompt, data: st.DataObject) -> None:
    answers = graph_paths.solutions(prompt)
    nodes = data.draw(st.sampled_from(answers)).split()
    place = data.draw(st.integers(0, len(nodes) - 1))
    node = data.draw(st.sampled_from(NODES) | st.sampled_from(["A00", "a0", "a٠٠", "z99", ":", "->"]))
    kind = data.draw(st.sampled_from(["replace", "delete", "insert", "append", "swap"]))
    match kind:
        case "replace":
            nodes[place] = node
        case "delete":
            del nodes[place]
        case "insert":
            nodes.insert(place, node)
        case "append":
            nodes.append(node)
        case "swap":
            nodes[place], nodes[-1] = nodes[-1], nodes[place]
    text = " ".join(nodes)
    found = graph_paths.grade(prompt, text)
    assert found.correct is (text in answers)
    assert bool(found.why) is not found.correct


@given(questions, st.text())
def test_no_text_raises(prompt: Prompt, text: str) -> None:
    found = graph_paths.grade(prompt, text)
    assert found.correct is False
    assert found.why
    (found.answer or "").encode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("b04", "ends at b04, not at g07"),
        ("b04 c28 d04 f24 g07 h00", "goes on after the goal"),
        ("c28", "no edge from a14 to c28"),
        ("b04 nowhere", "no node is called 'nowhere'"),
        ("b04\x00", "no node is called 'b04\\x00'"),
        ("\ud800", "no node is called '?'"),
        ("x" * 10_000_000, "no node is called 'xxxxxxxxxxxxxxxxxxxx'"),
        (" " * 5_000_000 + "b04 " * 100_000, "no edge from b04 to b04"),
    ],
)
def test_why_an_answer_is_wrong(text: str, why: str) -> None:
    found = graph_paths.grade(Prompt(text="a14 g07 :"), text)
    assert (found.correct, found.why) == (False, why)
    assert len((found.answer or "").encode()) <= 200


@pytest.mark.parametrize("text", [None, "", "a14 g07", "a14 z07 :", "a14 a14 :", "find a path from a14 to g07"])
def test_a_foreign_prompt_is_ungraded_not_wrong(text: str | None) -> None:
    prompt = Prompt(text=text, messages=None if text is not None else ({"role": "user", "content": "?"},))
    assert graph_paths.grade(prompt, "b04").correct is None
    assert graph_paths.solutions(prompt) == []
