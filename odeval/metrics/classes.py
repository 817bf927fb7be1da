"""How often a run gave each answer: completions counted by class, for coverage and diversity.

Letters: P prompts, M rows, a row being one class of one prompt; n completions of a prompt from which k are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

Outputs = Literal["correct", "wrong", "all"]
Pool = Literal["graded", "outputs"]


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


def _column(runs: Sequence[pd.DataFrame], name: str) -> pd.Series:
    columns = [run[name] for run in runs]
    if all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
        return pd.Series(union_categoricals(columns, sort_categories=True))
    return pd.concat(columns, ignore_index=True)


def _numbered(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    codes, names = pd.factorize(values, sort=True)
    return codes, np.asarray(names, dtype=object)
