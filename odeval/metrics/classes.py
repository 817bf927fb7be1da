"""How often a run gave each answer: completions counted by class, for coverage and diversity.

Letters: P prompts, M rows, a row being one class of one prompt; n completions of a prompt from which k are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

Outputs = Literal["correct", "wrong", "all"]
Pool = Literal["graded", "outputs"]
_ROWS = 2**17  # completions of a block


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """How often one run produced each class. Runs counted together share prompt_ids, prompt and name.

    Attributes:
        prompt_ids: [P] str, sorted.
        prompt: [M] index into prompt_ids, ascending.
        name: [M] the class: an answer, or a digest.
        count: [M] n_c, completions of the class; 0 where only another run has it.
        n: [P] completions from which k are drawn, in a class or not.
    """

    prompt_ids: np.ndarray
    prompt: np.ndarray
    name: np.ndarray
    count: np.ndarray
    n: np.ndarray

    def outputs(self) -> np.ndarray:
        """[P] completions that are in some class."""
        return self.per_prompt(self.count)

    def per_prompt(self, values: np.ndarray) -> np.ndarray:
        """Sum [M] values to [P]."""
        return np.bincount(self.prompt, weights=values, minlength=len(self.prompt_ids))


def class_counts(
    *runs: pd.DataFrame, by: str = "answer", outputs: Outputs = "correct", pool: Pool = "graded"
) -> list[ClassCounts]:
    """Count the completions of each class, for runs that are to be compared.

    A completion that is not graded is left out of everything, and so is a right one without a class, since its class is
    unknown. A wrong one without a class (no answer was found in it) stays in the pool and is in no class.

    Args:
        runs: One row a completion with prompt_id, correct (1, 0, NaN) and the column `by`.
        by: Column that names the class; completions of one prompt with equal values are one class.
        outputs: Which completions are counted in classes.
        pool: From what k completions are drawn: all "graded" ones, as a user draws, or the counted "outputs" alone,
            which takes accuracy out.

    Returns:
        One ClassCounts a run, over the same rows; a prompt of any run is in all.
    """
    blocks = [_counted(block, by, outputs, pool) for block in prompt_blocks(*runs)]
    return [_stacked([block[number] for block in blocks]) for number in range(len(runs))]


def prompt_blocks(*runs: pd.DataFrame, rows: int = _ROWS) -> Iterator[list[pd.DataFrame]]:
    """Cut runs into blocks of the same prompts, so that what is computed on the way does not grow with a run.

    Args:
        runs: With prompt_id. Runs that are not sorted by it, or hold plain texts there, come in one block.
        rows: Of a block in all runs together, about.
    """
    columns = [run["prompt_id"] for run in runs]
    packed = all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns)
    total = sum(map(len, runs))
    if not packed or total <= rows or not all((np.diff(column.cat.codes) >= 0).all() for column in columns):
        yield list(runs)
        return
    names = sorted(set().union(*(column.cat.categories for column in columns)))
    step = max(1, len(names) * rows // total)
    starts = [0] * len(runs)
    for first in range(step, len(names) + step, step):
        ends = [
            len(column) if first >= len(names)
            else int(np.searchsorted(column.cat.codes, column.cat.categories.searchsorted(names[first])))
            for column in columns
        ]  # fmt: skip
        yield [run.iloc[start:end] for run, start, end in zip(runs, starts, ends, strict=True)]
        starts = ends


def _counted(runs: Sequence[pd.DataFrame], by: str, outputs: Outputs, pool: Pool) -> list[ClassCounts]:
    owner = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    prompt, prompt_ids = _numbered(_column(runs, "prompt_id"))
    correct, name = _column(runs, "correct").to_numpy(dtype=np.float64), _column(runs, by)
    named = name.notna().to_numpy()
    usable = np.isfinite(correct) & (named | (correct == 0))
    counted = usable if outputs == "all" else usable & (correct == (outputs == "correct"))
    drawn, classed = usable if pool == "graded" else counted, counted & named
    codes, names = _numbered(name[classed])
    rows, where = np.unique(prompt[classed] * max(len(names), 1) + codes, return_inverse=True)
    return [
        ClassCounts(
            prompt_ids=prompt_ids,
            prompt=rows // max(len(names), 1),
            name=names[rows % max(len(names), 1)],
            count=np.bincount(where[owner[classed] == number], minlength=len(rows)),
            n=np.bincount(prompt[drawn & (owner == number)], minlength=len(prompt_ids)),
        )
        for number in range(len(runs))
    ]


def _stacked(blocks: Sequence[ClassCounts]) -> ClassCounts:
    if len(blocks) == 1:
        return blocks[0]
    sizes = [len(block.prompt_ids) for block in blocks]
    starts = np.cumsum([0, *sizes[:-1]])
    return ClassCounts(
        prompt_ids=np.concatenate([block.prompt_ids for block in blocks]),
        prompt=np.concatenate([block.prompt + start for block, start in zip(blocks, starts, strict=True)]),
        name=np.concatenate([block.name for block in blocks]),
        count=np.concatenate([block.count for block in blocks]),
        n=np.concatenate([block.n for block in blocks]),
    )


def _column(runs: Sequence[pd.DataFrame], name: str) -> pd.Series:
    columns = [run[name] for run in runs]
    if all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
        return pd.Series(union_categoricals(columns, sort_categories=True))
    return pd.concat(columns, ignore_index=True)


def _numbered(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    codes, names = pd.factorize(values, sort=True)
    return codes, np.asarray(names, dtype=object)
