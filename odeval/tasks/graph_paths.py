"""Graph paths: name a path from one node to another in a fixed random directed acyclic graph.

    prompt      "a14 g07 :"              from a14 to g07
    completion  "b04 c28 d04 f24 g07"    every node after the first, up to and with the last

240 nodes in 8 layers a … h; about 3 successors each, drawn by a log-normal popularity, a tenth of them one
layer further. Which successor still reaches the goal is what a small model gets wrong, and where several do
lies a branch point. The graph is learnt in training; the pairs asked are held out.

Source: graph navigation as a model of stepwise inference is Khona et al. 2024, https://arxiv.org/abs/2402.07757;
this graph is ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from functools import cache, lru_cache
from itertools import pairwise
from statistics import NormalDist

from odeval.tasks.base import Task
from odeval.tasks.worlds import Split, World, in_split, shown, words
from odeval.types import Grade, Prompt

LAYERS, WIDTH = 8, 30
POPULARITY_SIGMA = 1.5
SKIP = 0.1  # share of edges that leave out a layer
MOST_PATHS = 8  # pairs with more are not asked
SEED = 0  # of the graph the embedded models have learnt

Graph = Mapping[str, tuple[str, ...]]


@cache
def graph(seed: int = SEED, layers: int = LAYERS, width: int = WIDTH) -> Graph:
    """Draw the graph: node -> its successors, sorted.

    Each node but those of the last layer has 2, 3 or 4 successors, without repetition, with probability
    proportional to exp(POPULARITY_SIGMA · normal), so that some nodes are hubs.

    Args:
        seed: Of the whole graph.
        layers: Between 2 and 26.
        width: Nodes per layer, between 5 and 100.

    Returns:
        Nodes in layer order; only `random.Random.random` is used, whose stream Python guarantees.

    Example:
        >>> graph()["a00"]
        ('b00', 'b03', 'b19', 'b25')
    """
    rng = random.Random(seed)
    names = [[f"{chr(ord('a') + layer)}{node:02d}" for node in range(width)] for layer in range(layers)]
    normal = NormalDist(sigma=POPULARITY_SIGMA)
    popularity = {name: math.exp(normal.inv_cdf(_open(rng))) for layer in names for name in layer}
    successors: dict[str, tuple[str, ...]] = {}
    for layer, nodes in enumerate(names):
        for node in nodes:
            chosen: set[str] = set()
            wanted = 2 + int(3 * rng.random()) if layer + 1 < layers else 0
            while len(chosen) < wanted:
                skips = rng.random() < SKIP and layer + 2 < layers
                free = [name for name in names[layer + 1 + skips] if name not in chosen]
                chosen.add(_draw(rng, free, popularity))
            successors[node] = tuple(sorted(chosen))
    return successors


def _open(rng: random.Random) -> float:
    """A uniform number in (0, 1) without its ends, where the normal quantile is infinite."""
    return min(max(rng.random(), 1e-12), 1 - 1e-12)


def _draw(rng: random.Random, names: list[str], weight: Mapping[str, float]) -> str:
    """One of the names, with probability proportional to its weight."""
    rest = rng.random() * sum(weight[name] for name in names)
    for name in names:
        rest -= weight[name]
        if rest < 0:
            return name
    return names[-1]


def paths(successors: Graph, start: str, goal: str) -> list[tuple[str, ...]]:
    """List every path from start to goal, without its first node, sorted.

    Args:
        successors: An acyclic graph.
        start: A node.
        goal: Another node.

    Returns:
        One tuple of nodes per path; empty when goal cannot be reached.
    """
    found: list[tuple[str, ...]] = []
    open_paths: list[tuple[str, ...]] = [(node,) for node in successors[start]]
    while open_paths:
        path = open_paths.pop()
        if path[-1] == goal:
            found.append(path)
        elif path[-1][0] < goal[0]:  # the layer's letter: beyond it nothing leads back
            open_paths.extend((*path, node) for node in successors[path[-1]])
    return sorted(found)


def vocabulary() -> list[str]:
    return [":", *graph()]


@lru_cache(maxsize=1)
def _questions() -> tuple[Prompt, ...]:
    """Every pair at least two layers apart that 1 to MOST_PATHS paths join, if training shows all their edges."""
    successors = graph()
    count: dict[str, dict[str, int]] = {}  # node -> reachable node -> number of paths
    for node in reversed(list(successors)):
        reached: dict[str, int] = {}
        for after in successors[node]:
            for goal, number in ((after, 1), *count[after].items()):
                reached[goal] = reached.get(goal, 0) + number
        count[node] = reached
    found = [
        Prompt(text=f"{start} {goal} :", answer=goal)
        for start, reached in count.items()
        for goal, number in reached.items()
        if number <= MOST_PATHS and ord(goal[0]) - ord(start[0]) >= 2
    ]
    shown_edges = set().union(*(_edges(prompt) for prompt in in_split(found, "train", None)))
    return tuple(prompt for prompt in found if _edges(prompt) <= shown_edges)


def _edges(prompt: Prompt) -> set[tuple[str, str]]:
    """Every edge on a path from the prompt's start to its goal."""
    start = (prompt.text or "").split()[0]
    walks = ([start, *answer.split()] for answer in solutions(prompt))
    return {edge for walk in walks for edge in pairwise(walk)}


def prompts(split: Split = "heldout", limit: int | None = None) -> list[Prompt]:
    """Return the questions of one split, in a fixed pseudo-random order.

    What is held out is the pair, never an edge: a question that needs an edge no training question shows could
    only be guessed, and belongs to no split.

    Raises:
        OdevalError: No such split, or limit below 1.

    Example:
        >>> [prompt.text for prompt in prompts("heldout", 2)]
        ['a14 g07 :', 'c13 h13 :']
    """
    return in_split(_questions(), split, limit)


def _ends(prompt: Prompt) -> tuple[str, str] | None:
    """Start and goal as the prompt states them; None when it is no question about this graph."""
    match (prompt.text or "").split():
        case [start, goal, ":"] if start != goal and start in graph() and goal in graph():
            return start, goal
    return None


def solutions(prompt: Prompt) -> list[str]:
    """Return every correct answer to a prompt, sorted; none for a text that is no question of this world."""
    ends = _ends(prompt)
    return [] if ends is None else [" ".join(path) for path in paths(graph(), *ends)]


def grade(prompt: Prompt, completion: str) -> Grade:
    """Check that a completion walks along edges from the prompt's first node to its second.

    Args:
        prompt: Its text alone decides; nothing is looked up.
        completion: Any text.

    Returns:
        The nodes joined by single spaces as canonical answer. `correct` is None only when the prompt is no
        question about this graph.

    Example:
        >>> question = Prompt(text="a14 g07 :")
        >>> grade(question, " b04 c28  d04 f24 g07")
        Grade(correct=True, answer='b04 c28 d04 f24 g07', why='')
        >>> grade(question, "g07").why
        'no edge from a14 to g07'
    """
    ends = _ends(prompt)
    if ends is None:
        return Grade(None, None, "the prompt is no question about this graph")
    here, goal = ends
    answer = words(completion, LAYERS)
    for node in answer:
        if here == goal:
            return Grade(False, shown(answer), "goes on after the goal")
        if node not in graph():
            return Grade(False, shown(answer), f"no node is called {shown([node[:20]])!r}")
        if node not in graph()[here]:
            return Grade(False, shown(answer), f"no edge from {here} to {node}")
        here = node
    if here != goal:
        return Grade(False, shown(answer), f"ends at {here}, not at {goal}" if answer else "empty")
    return Grade(True, " ".join(answer))


def chance(prompt: Prompt) -> float | None:
    """Probability that a uniform random walk from the start reaches the goal.

        Σ over the right paths of Π 1 / (number of successors of each node left)

    The answer space is what follows the edges: someone who knows the graph, but not where the goal lies, guesses so.

    Returns:
        In (0, 1]; None for a text that is no question about this graph.

    Example:
        >>> round(chance(Prompt(text="a14 g07 :")), 4)
        0.0255
    """
    ends = _ends(prompt)
    if ends is None:
        return None
    successors = graph()
    return math.fsum(
        math.prod(1 / len(successors[node]) for node in (ends[0], *path[:-1])) for path in paths(successors, *ends)
    )


WORLD = World(
    name="graph_paths",
    vocabulary=vocabulary,
    prompts=prompts,
    solutions=solutions,
    grade=grade,
    max_tokens=LAYERS,  # at most LAYERS - 1 nodes and the end
    chance=chance,
)


def task(limit: int = 200) -> Task:
    """Return the held-out questions as a task."""
    return WORLD.task(limit)
