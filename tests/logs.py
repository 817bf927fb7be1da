"""The logs under fixtures/: one pair of models for each tool, and what has to be said to read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from odeval.importers.base import Imported, ImportOptions
from odeval.tasks.graders import GRADERS

FIXTURES = Path(__file__).parent / "fixtures"


@dataclass(frozen=True)
class Log:
    """One fixture: n and c of each prompt, in the file's order."""

    tool: str
    path: str
    n: list[int]
    c: list[int]
    flags: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        (found,) = FIXTURES.glob(self.path)
        return found

    @property
    def options(self) -> ImportOptions:
        said = dict(zip(self.flags[::2], self.flags[1::2], strict=True))
        columns = dict(pair.split("=") for pair in said.get("--map", "").split(",") if pair)
        grader, threshold = said.get("--grader", ""), said.get("--threshold")
        return ImportOptions(
            columns,
            GRADERS.get(grader),
            grader,
            None if threshold is None else float(threshold),
            said.get("--metric", ""),
        )

    @property
    def name(self) -> str:
        return self.path.replace("/", "-")


_ONE_OF_4 = ["1 of 4 completions are not graded: no outcome is recorded"]
_UNSCORED = [
    "2 of 20 completions are not graded: no outcome is recorded",
    "1 of 20 completions are not graded: sample error",
    "1 of 20 completions are not graded: token limit reached",
]
_TIMED_OUT = ["1 of 16 completions are not graded: timed out (the tool counts it as wrong)"]
_ONE_OF_16 = ["1 of 16 completions are not graded: no outcome is recorded"]
_ONE_OF_24 = ["1 of 24 completions are not graded: no outcome is recorded"]
_FILTERS = ["8 rows dropped: lm-eval writes one a filter, with the same responses"]
_FULL = ["--threshold", "1"]
_NUMERIC = ["--grader", "numeric"]
_PLAIN = ["--map", "prompt=question,completion=reply,correct=passed,finish_reason=how"]

LOGS = [
    Log("lm_eval", "lm_eval/teacher/samples_*.jsonl", [4] * 8, [1, 1, 0, 0, 1, 0, 0, 0], _NUMERIC, _FILTERS),
    Log("lm_eval", "lm_eval/student/samples_*.jsonl", [4] * 8, [0, 1, 0, 0, 1, 0, 0, 0], _NUMERIC, _FILTERS),
    Log("inspect", "inspect/teacher.eval", [2, 3, 4, 4, 3], [2, 3, 2, 3, 3], notes=_UNSCORED),
    Log("inspect", "inspect/student.eval", [2, 3, 4, 4, 3], [0, 2, 3, 2, 1], notes=_UNSCORED),
    Log("inspect", "inspect/teacher.json", [2, 1], [2, 1], notes=_ONE_OF_4),
    Log("inspect", "inspect/student.json", [2, 1], [0, 0], notes=_ONE_OF_4),
    Log("evalplus", "evalplus/teacher_eval_results.json", [6] * 3, [3, 4, 1]),
    Log("evalplus", "evalplus/student_eval_results.json", [6] * 3, [2, 2, 1]),
    Log("human_eval", "human_eval/teacher.jsonl_results.jsonl", [4, 3, 4, 4], [2, 2, 3, 0], notes=_TIMED_OUT),
    Log("human_eval", "human_eval/student.jsonl_results.jsonl", [4, 4, 3, 4], [1, 2, 0, 1], notes=_TIMED_OUT),
    Log("bigcode", "bigcode/teacher/generations_toy.json", [4] * 6, [1, 2, 3, 2, 2, 2], _NUMERIC),
    Log("bigcode", "bigcode/student/generations_toy.json", [4] * 5 + [3], [1, 3, 1, 1, 0, 1], _NUMERIC,
        ["1 of 24 completions are not graded: nothing was generated"]),
    Log("lighteval", "lighteval/teacher/details.parquet", [4] * 8, [1, 1, 4, 1, 3, 2, 4, 2], ["--grader", "exact"]),
    Log("lighteval", "lighteval/student/details.parquet", [4] * 8, [1, 2, 2, 3, 1, 1, 3, 1], ["--grader", "exact"]),
    Log("reasoning_gym", "reasoning_gym/teacher/leg_counting.json", [4] * 5, [1, 1, 4, 3, 1]),
    Log("reasoning_gym", "reasoning_gym/student/leg_counting.json", [4] * 5, [2, 1, 2, 1, 3]),
    Log("reasoning_gym", "reasoning_gym/teacher/results.json", [4] * 9, [1, 1, 4, 3, 1, 2, 4, 2, 2], _FULL),
    Log("reasoning_gym", "reasoning_gym/student/results.json", [4] * 9, [2, 1, 2, 1, 3, 2, 1, 2, 2], _FULL),
    Log("verl", "verl/teacher/100.jsonl", [4] * 6, [1, 2, 3, 2, 2, 2]),
    Log("verl", "verl/student/200.jsonl", [4] * 6, [1, 3, 1, 1, 0, 2]),
    Log("trl", "trl/grpo_teacher.parquet", [3, 4, 4, 4], [1, 1, 2, 4], ["--metric", "right"], _ONE_OF_16),
    Log("trl", "trl/grpo_student.parquet", [3, 4, 4, 4], [1, 2, 4, 3], ["--metric", "right"], _ONE_OF_16),
    Log("tinker", "tinker/teacher/trajectories.jsonl", [4] * 6, [3, 3, 2, 2, 3, 4]),
    Log("tinker", "tinker/student/trajectories.jsonl", [3, 3, 4, 4, 3, 4], [2, 1, 2, 1, 0, 1],
        notes=["3 of 24 completions are not graded: sample error (the tool counts it as wrong)"]),
    Log("table", "table/teacher.csv", [4, 4, 3, 4, 4, 4], [2, 3, 2, 4, 2, 4], _PLAIN, _ONE_OF_24),
    Log("table", "table/student.csv", [4, 4, 3, 4, 4, 4], [1, 2, 0, 1, 0, 1], _PLAIN, _ONE_OF_24),
]  # fmt: skip


def counted(found: Imported) -> tuple[list[int], list[int]]:
    """n and c of each prompt, counted by hand."""
    if found.counts:
        return [n for n, _ in found.counts.values()], [c for _, c in found.counts.values()]
    grades: dict[str, list[bool]] = {prompt.prompt_id: [] for prompt in found.prompts}
    for key, correct in zip(found.rows["prompt_id"], found.rows["correct"], strict=True):
        if correct is not None:
            grades[key].append(correct)
    return [len(values) for values in grades.values()], [sum(values) for values in grades.values()]
