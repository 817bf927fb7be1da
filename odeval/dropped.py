"""Which of the teacher's continuations did the student drop, and what became of the completions that took them?

Read block by block from the teacher's samples and the table of dropped branches; only the worst branches stay in
memory. A context is a prompt with the very tokens that follow it. Letters: R completions and N tokens of a block of
prompts, G branches, a branch being one token in one context.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from odeval.completions import Completions
from odeval.measure import Measured
from odeval.parts import read_part
from odeval.pieces import joined
from odeval.schemas import BRANCH_FLOOR, STUDENT_MOST, TEACHER_LEAST
from odeval.store import RunFolder
from odeval.trie import Trie, grow

_LISTED, _TOKENS = 50, 20
_CONTEXT = 300  # characters of a context that are shown
_TEXT = 2000  # of a prompt
_MEANS = dict.fromkeys(("teacher_prob", "student_prob", "teacher_entropy", "student_entropy"), "float64")
_SUMS = ("contexts", "prompts", "visits", "taken", "graded", "correct", "teacher_prob", "student_prob", "lost")


def dropped_branches(
    teacher: Measured, candidate: Measured, teacher_run: RunFolder, candidate_run: RunFolder
) -> dict[str, Any] | None:
    """List the branches that the student dropped, those first through which most right completions went.

        lost = correct / completions · (1 − q / p)

    is the share of the teacher's completions of the prompt that are right, went through the branch, and would not have
    with the student's probability q in place of the teacher's p.

    Args:
        teacher: Measured teacher; its samples tell what a branch was worth.
        candidate: The student.
        teacher_run: Where the teacher's completions are.
        candidate_run: Where the dropped branches are.

    Returns:
        JSON-able; None where nothing was scored.
    """
    if not candidate_run.part_paths(candidate_run.dropped("teacher")):
        return None
    worst: list[tuple[Any, ...]] = []
    tokens: dict[int, np.ndarray] = {}
    totals = np.zeros(3, dtype=np.int64)
    order = 0
    for names in _blocks(teacher_run):
        block = _Block(names, teacher_run, candidate_run, teacher.completions)
        table = block.branches()
        totals += [table["node"].nunique(), len(table), table["prompt"].nunique()]
        _add(tokens, table)
        for row in table.nlargest(_LISTED, ["worth", "lost_mass"]).itertuples():
            key = (row.worth, row.lost_mass, -order)  # of equals, the first met
            order += 1
            if len(worst) < _LISTED or key > worst[0][0]:
                keep = heapq.heappush if len(worst) < _LISTED else heapq.heapreplace
                keep(worst, (key, block.told(row)))
    pieces = candidate_run.pieces()
    return {
        "question": "which of the teacher's continuations did the student drop?",
        "rule": f"tokens to which the teacher gives at least {TEACHER_LEAST:g} and the student less than "
        f"{STUDENT_MOST:g}, wherever the teacher's entropy is at least {BRANCH_FLOOR:g} nats",
        "trajectory": "teacher",
        "teacher_least": TEACHER_LEAST,
        "student_most": STUDENT_MOST,
        "floor": BRANCH_FLOOR,
        **dict(zip(("contexts", "branches", "prompts"), map(int, totals), strict=True)),
        "listed": [_written(row, teacher, pieces) for _, row in sorted(worst, key=lambda item: item[0], reverse=True)],
        "tokens": _by_token(tokens, pieces, len(teacher.prompts)),
    }


def _blocks(run: RunFolder) -> Iterator[list[str]]:
    """Names of the parts that hold the same prompts: a run that was extended has several."""
    names = [path.name for path in run.part_paths(run.samples)]
    for _, own in groupby(names, key=lambda name: name.split("-")[1]):
        yield list(own)


class _Block:
    """Some prompts' completions as a trie, with the branches dropped in it."""

    def __init__(self, names: list[str], teacher_run: RunFolder, candidate_run: RunFolder, own: Completions) -> None:
        columns = ["prompt_id", "sample_id", "token_ids"]
        self.samples = pa.concat_tables([read_part(teacher_run.samples / name, columns) for name in names])
        self.parts = np.repeat(names, [read_part(teacher_run.samples / name, ["sample_id"]).num_rows for name in names])
        self.rows = pd.MultiIndex.from_arrays(
            [self.samples["prompt_id"].to_pylist(), self.samples["sample_id"].to_numpy()]
        )
        graded = own.of(self.rows.get_level_values(0)).set_index(["prompt_id", "sample_id"])["correct"]
        self.correct = graded.reindex(self.rows).to_numpy(dtype=np.float64)
        self.trie: Trie = grow(self.rows.get_level_values(0), self.samples["token_ids"])
        folder: Path = candidate_run.dropped("teacher")
        self.dropped = pa.concat_tables([read_part(folder / name) for name in names]).to_pandas()

    def branches(self) -> pd.DataFrame:
        """[G] one row a dropped branch, with what the teacher's completions did there."""
        trie, dropped = self.trie, self.dropped
        row = self.rows.get_indexer(pd.MultiIndex.from_frame(dropped[["prompt_id", "sample_id"]]))
        node = trie.node[trie.start[row] + dropped["position"].to_numpy()]
        keys, means = ["node", "token_id"], list(_MEANS)
        # Two completions in one context may differ in the last digits, as they were scored in different batches.
        groups = dropped.assign(node=node, prompt=trie.prompt[row]).astype(_MEANS).groupby(keys, sort=True)
        table = groups[means].mean().join(groups[["prompt", "position"]].first()).reset_index()
        here = trie.of_interest(table["node"].to_numpy())
        visits = pd.DataFrame(
            {"node": trie.node[here], "token_id": trie.token[here], "right": self.correct[trie.row[here]]}
        )
        table["visits"] = visits.groupby("node").size().reindex(table["node"]).to_numpy()
        counted = visits.groupby(keys)["right"].agg(taken="size", graded="count", correct="sum")
        counted = counted.reindex(pd.MultiIndex.from_frame(table[keys]), fill_value=0)
        table = table.assign(**{name: counted[name].to_numpy() for name in counted})
        graded, drawn = (np.bincount(trie.prompt, weights) for weights in (np.isfinite(self.correct), None))
        table["completions"] = graded[table["prompt"]]
        kept = table["student_prob"] / table["teacher_prob"]
        table["lost"] = (table["correct"] / table["completions"].where(table["completions"] > 0)) * (1 - kept)
        table["lost_mass"] = table["visits"] / drawn[table["prompt"]] * table["teacher_prob"] * (1 - kept)
        table["worth"] = table["lost"].fillna(0.0)
        return table

    def told(self, row: Any) -> dict[str, Any]:
        """What of a branch is kept when its block is gone."""
        trie = self.trie
        here = np.flatnonzero(trie.node == row.node)
        rank = np.where(trie.token[here] == row.token_id, 1 + (self.correct[trie.row[here]] == 1), 0)
        example = int(trie.row[here[int(np.argmax(rank))]])  # a right one that took it, one that took it, or any
        start = int(trie.start[example])
        whole = ("position", "token_id", "completions", "visits", "taken", "graded", "correct")
        return {
            "prompt_id": str(self.rows[example][0]),
            **{name: int(getattr(row, name)) for name in whole},
            **{name: float(getattr(row, name)) for name in (*_MEANS, "lost_mass")},
            "lost": float(row.lost) if np.isfinite(row.lost) else None,
            "sample_id": int(self.rows[example][1]),
            "part": str(self.parts[example]),
            "before": trie.token[start : start + int(row.position)].tolist(),
        }


def _add(tokens: dict[int, np.ndarray], table: pd.DataFrame) -> None:
    """Sum up branches by their token, over contexts and prompts."""
    own = table.assign(contexts=1, prompts=~table.duplicated(["prompt", "token_id"]), lost=table["worth"])
    for token, row in own.groupby("token_id")[list(_SUMS)].sum().iterrows():
        tokens[int(token)] = tokens.get(int(token), 0) + row.to_numpy(dtype=np.float64)


def _by_token(tokens: dict[int, np.ndarray], pieces: dict[int, str], prompts: int) -> list[dict[str, Any]]:
    rows = []
    for token, sums in sorted(tokens.items(), key=lambda item: (-item[1][-1], -item[1][0], item[0]))[:_TOKENS]:
        found = dict(zip(_SUMS, map(float, sums), strict=True))
        rows.append({
            "branch": joined([pieces.get(token, f"<{token}>")]), "token_id": token,
            **{name: int(found[name]) for name in _SUMS[:6]},
            **{name: found[name] / found["contexts"] for name in ("teacher_prob", "student_prob")},
            "lost": found["lost"] / prompts,
        })  # fmt: skip
    return rows


def _written(row: dict[str, Any], teacher: Measured, pieces: dict[int, str]) -> dict[str, Any]:
    before = joined(pieces.get(token, f"<{token}>") for token in row.pop("before"))
    return {
        **row,
        "prompt": teacher.prompts[row["prompt_id"]].display()[:_TEXT],
        "context": before[-_CONTEXT:],
        "cut": len(before) > _CONTEXT,
        "branch": joined([pieces.get(row["token_id"], f"<{row['token_id']}>")]),
    }
