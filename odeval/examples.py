"""The prompts behind a number: which ones the reference solves and the candidate never does, with what was said."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from odeval.measure import Measured
from odeval.stats import rare
from odeval.store import RunFolder

_TEXT = 2000  # characters of a prompt or completion that a comparison carries


def lost_prompts(
    reference: Measured, candidate: Measured, reference_run: RunFolder, candidate_run: RunFolder, most: int
) -> list[dict[str, Any]]:
    """Describe the prompts that the reference solved at least once and the candidate never, surest first.

    Args:
        reference: Measured reference.
        candidate: Measured candidate.
        reference_run: Where the reference's texts are.
        candidate_run: Where the candidate's texts are.
        most: How many get their texts; all are listed.

    Returns:
        One dict a prompt: prompt_id, n and c of both, `upper` (95 % bound of the candidate's true solve rate), and for
        the first `most` also the prompt, a correct answer of the reference and the candidate's commonest wrong one.
    """
    table = reference.counts.merge(
        candidate.counts, left_index=True, right_index=True, suffixes=("_reference", "_candidate")
    )
    lost = table[(table["c_reference"] > 0) & (table["c_candidate"] == 0) & (table["n_candidate"] > 0)]
    lost = lost.assign(rate=lost["c_reference"] / lost["n_reference"]).sort_values(
        "rate", ascending=False, kind="stable"
    )
    rows = [
        {
            "prompt_id": prompt_id,
            "baseline": {"n": int(row.n_reference), "c": int(row.c_reference)},
            "candidate": {"n": int(row.n_candidate), "c": int(row.c_candidate)},
            "upper": rare(int(row.n_candidate), 0.05),
        }
        for prompt_id, row in zip(map(str, lost.index), lost.itertuples(), strict=True)
    ]
    shown: dict[str, dict[str, Any]] = {str(row["prompt_id"]): row for row in rows[:most]}
    right = _texts(reference, reference_run, shown.keys(), correct=1.0)
    wrong = _texts(candidate, candidate_run, shown.keys(), correct=0.0)
    for prompt_id, row in shown.items():
        row["prompt"] = reference.prompts[prompt_id].display()[:_TEXT]
        row["baseline_answer"] = right.get(prompt_id, "")
        row["candidate_answer"] = wrong.get(prompt_id, "")
    return rows


def _texts(run: Measured, folder: RunFolder, prompt_ids: Any, correct: float) -> dict[str, str]:
    """The commonest right (or wrong) completion of each prompt."""
    rows = run.completions.of(prompt_ids)
    rows = rows[rows["correct"] == correct]
    if rows.empty:
        return {}
    commonest = rows.groupby("prompt_id")["digest"].agg(lambda digests: digests.value_counts(sort=True).index[0])
    chosen = rows[rows["digest"] == rows["prompt_id"].map(commonest)].drop_duplicates("prompt_id")
    wanted = dict(zip(chosen["prompt_id"], chosen["sample_id"], strict=True))
    found: dict[str, str] = {}
    for table in folder.iterate(folder.samples, ["prompt_id", "sample_id", "completion"]):
        part = table.filter(pc.is_in(table["prompt_id"], value_set=_array(list(wanted))))
        for prompt_id, sample_id, text in zip(*(part[name].to_pylist() for name in part.column_names), strict=True):
            if wanted[prompt_id] == sample_id:
                found[prompt_id] = (text or "")[:_TEXT]
    return found


def _array(values: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())
