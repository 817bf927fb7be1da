"""For anybody's loop: add completions one by one, and get a run folder that every command of odeval reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from odeval.errors import OdevalError
from odeval.importers.base import COLUMNS, Imported, write_imported
from odeval.store import RunFolder, parse_prompt, prompt_line
from odeval.types import FinishReason, Prompt

_FILE = "recorded.jsonl"


class Recorder:
    """Collects graded completions and writes them as a run folder.

    Each line is on disk when `add` returns; after a crash, `Recorder(out)` goes on where the lines end.

    Args:
        out: Folder; a new one, or one that a recorder began.
        task: Name of what is asked; runs of different tasks are not compared.
        model: Name of what answers.
        sampling: temperature, top_p, top_k, max_tokens, where they are known; runs are compared only if they agree.
        grader: Name of what decides; runs that are graded differently are not compared.

    Raises:
        OdevalError: The folder holds a run that no recorder wrote, or cannot be written.

    Example:
        >>> import tempfile
        >>> with Recorder(Path(tempfile.mkdtemp()) / "run") as recorder:
        ...     recorder.add("1 + 1 =", "2", correct=True)
        ...     recorder.add("1 + 1 =", "3", correct=False)
        >>> len(recorder)
        2
    """

    def __init__(
        self,
        out: Path | str,
        task: str = "recorded",
        model: str = "",
        sampling: Mapping[str, Any] | None = None,
        grader: str = "recorded by the caller",
    ) -> None:
        self.run = RunFolder(out)
        self._task, self._model, self._sampling = task, model or self.run.label, dict(sampling or {})
        self._grader = grader
        self._path = self.run.path / _FILE
        if self.run.holds_answers() and not self._path.exists():
            raise OdevalError(f"{self.run.path}: holds a run that was not recorded here; choose another folder")
        self._rows = [json.loads(line) for line in self._whole_lines()]
        self._samples: dict[str, int] = {}
        for row in self._rows:
            self._samples[row["prompt_id"]] = row["sample_id"] + 1
        try:
            self.run.path.mkdir(parents=True, exist_ok=True)
            self._path.write_text("".join(json.dumps(row) + "\n" for row in self._rows), encoding="utf-8")
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise OdevalError(f"cannot write {self.run.path}: {error.strerror}; choose another folder") from error

    def _whole_lines(self) -> list[str]:
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        return text.split("\n")[:-1]  # what follows the last line break was being written when the process ended

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        prompt: str | Sequence[Mapping[str, str]] | Prompt,
        completion: str,
        correct: bool | None,
        *,
        answer: str | None = None,
        finish_reason: FinishReason = "unknown",
        why: str = "",
    ) -> None:
        """Record one completion.

        Args:
            prompt: What was asked, a text, chat turns or a Prompt; equal prompts are one prompt with several samples.
            completion: What was answered.
            correct: Right or wrong; None where it could not be graded, which is never counted as wrong.
            answer: The answer in a form in which equal answers are equal; it is what makes answers distinct.
            finish_reason: "length" where it was cut.
            why: Of the grade.

        Raises:
            OdevalError: An argument has another type; the recorder is closed.
        """
        if correct is not None and not isinstance(correct, bool):
            raise OdevalError(
                f"correct {correct!r}: expected True, False, or None for a completion that was not graded"
            )
        if not isinstance(completion, str):
            raise OdevalError(f"completion is {type(completion).__name__}: expected text")
        if self._file.closed:
            raise OdevalError(f"{self.run.path}: the recorder is closed; open another one to go on")
        asked = _prompt(prompt)
        sample_id = self._samples.get(asked.prompt_id, 0)
        self._samples[asked.prompt_id] = sample_id + 1
        row = {
            "prompt": json.loads(prompt_line(asked)), "prompt_id": asked.prompt_id, "sample_id": sample_id,
            "completion": completion, "correct": correct, "answer": answer, "why": why,
            "finish_reason": finish_reason, "seed": None,
        }  # fmt: skip
        self._rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> RunFolder:
        """Write the run folder.

        Returns:
            The run, ready for `odeval compare`.

        Raises:
            OdevalError: Nothing was recorded.
        """
        self._file.close()
        for stale in [*self.run.part_paths(self.run.samples), self.run.grades]:
            stale.unlink(missing_ok=True)  # of an earlier close; all of it is in the file of lines
        asked = {row["prompt_id"]: parse_prompt(row["prompt"]) for row in self._rows}
        rows = pd.DataFrame(self._rows, columns=list(COLUMNS), dtype=object)
        found = Imported(
            tool="recorder", prompts=list(asked.values()), rows=rows, model=self._model, task=self._task,
            sampling=self._sampling, grader=self._grader,
        )  # fmt: skip
        write_imported(found, self.run, self._path)
        return self.run

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


def _prompt(prompt: str | Sequence[Mapping[str, str]] | Prompt) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        return Prompt(text=prompt)
    if not prompt or not all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in prompt):
        raise OdevalError("prompt: expected a text, or a list of {role, content} turns")
    return Prompt(messages=tuple(dict(turn) for turn in prompt))
