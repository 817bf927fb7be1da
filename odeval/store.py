"""The run folder: atomic parts, resume by (prompt_id, sample_id), provenance. Nothing is ever half written.

run/
run.json                         what made it: model, task, sampling, versions, command, time
prompts.jsonl                    the questions, in the format `--task FILE` reads
samples/part-00000-00000.parquet block of prompts, first sample_id of the part
grades.parquet
tokens/trajectory=student/part-*.parquet
dropped/trajectory=student/part-*.parquet   the teacher's branches that the student no longer takes
pieces.parquet                   what each token id reads as
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from odeval.atomic import hash_files, read_json, write_json, write_text
from odeval.errors import CannotJudge, OdevalError
from odeval.parts import part_provenance as part_provenance
from odeval.parts import read_part as read_part
from odeval.parts import write_table as write_table
from odeval.provenance import git_state as git_state
from odeval.provenance import provenance as provenance
from odeval.provenance import versions as versions
from odeval.types import Prompt, content_hash

if sys.platform != "win32":
    import fcntl

SCHEMA_VERSION = 1
_SAME = ("model", "task", "sampling", "prompts")  # what makes two runs one


class RunFolder:
    """One model's answers to one task, and everything computed from them.

    Args:
        path: The folder; it need not exist yet.

    Example:
        >>> RunFolder(Path("runs/student")).samples.as_posix()
        'runs/student/samples'
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.samples = self.path / "samples"
        self.grades = self.path / "grades.parquet"
        self.piece_table = self.path / "pieces.parquet"
        self.label = self.path.resolve().name  # what comparisons call it

    def tokens(self, trajectory: str) -> Path:
        return self.path / "tokens" / f"trajectory={trajectory}"

    def dropped(self, trajectory: str) -> Path:
        return self.path / "dropped" / f"trajectory={trajectory}"

    def pieces(self) -> dict[int, str]:
        """What each token id reads as, {} where nothing was scored; `odeval.pieces.joined` makes a text of some."""
        if not self.piece_table.exists():
            return {}
        table = read_part(self.piece_table)
        texts = (piece.decode("utf-8", "surrogateescape") for piece in table["piece"].to_pylist())
        return dict(zip(table["token_id"].to_pylist(), texts, strict=True))

    def holds_answers(self) -> bool:
        """Tell whether there is anything to continue or to protect: samples, or imported counts."""
        return bool(self.part_paths(self.samples)) or (self.path / "counts.jsonl").exists()

    def check(self, meta: Mapping[str, Any], prompts: Sequence[Prompt]) -> None:
        """Make sure that the folder is new, or holds samples of the same run so that it can be continued.

        Args:
            meta: `model`, `task`, `sampling` of the run, JSON-able. `sampling.n` may grow.
            prompts: What is asked.

        Raises:
            OdevalError: The folder holds samples of another run.
        """
        if not self.holds_answers():
            return
        if not (self.path / "run.json").exists():
            raise OdevalError(
                f"{self.path} holds samples of an unknown run (run.json is missing); choose another --out, or delete it"
            )
        old = self.meta()
        for key, new in {**meta, "prompts": _hash_prompts(prompts)}.items():
            if key in _SAME and _comparable(key, old.get(key)) != _comparable(key, new):
                raise OdevalError(
                    f"{self.path} holds another run: {_difference(key, old.get(key), new)}; "
                    "choose another --out, or delete the folder"
                )

    def open(self, meta: Mapping[str, Any], prompts: Sequence[Prompt]) -> None:
        """Create the folder, or continue what it holds; arguments and errors as in `check`.

        Raises:
            OdevalError: The folder holds samples of another run, or cannot be written.
        """
        self.check(meta, prompts)
        meta = {**meta, "prompts": _hash_prompts(prompts)}
        if self.holds_answers() and meta["sampling"]["n"] < self.meta()["sampling"]["n"]:
            meta = {**meta, "sampling": self.meta()["sampling"]}  # the deeper run is kept whole
        write_text(self.path / "prompts.jsonl", "".join(prompt_line(prompt) + "\n" for prompt in prompts))
        write_json(self.path / "run.json", {"schema": SCHEMA_VERSION, **meta, "provenance": provenance()})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process from writing the same run at the same time.

        Raises:
            OdevalError: Another process holds it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise OdevalError(
                f"cannot write {self.path}: {error.strerror or error}; choose another output folder"
            ) from error
        with file:
            if sys.platform != "win32":  # there nothing stands between two processes
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise OdevalError(
                        f"{self.path}: another odeval process is writing it; wait for it to end"
                    ) from None
                except OSError:
                    pass  # a file system without locks, such as some network ones
            yield

    def meta(self) -> dict[str, Any]:
        """Read run.json.

        Raises:
            CannotJudge: There is no run here, or a newer odeval wrote it.
        """
        path = self.path / "run.json"
        if not path.exists():
            raise CannotJudge(f"{self.path}: no run here (run.json is missing); make one with `odeval sample`")
        meta: dict[str, Any] = read_json(path)
        if meta.get("schema", 0) > SCHEMA_VERSION:
            raise CannotJudge(f"{path}: written by a newer odeval (schema {meta['schema']}); upgrade odeval")
        return meta

    def prompts(self) -> list[Prompt]:
        """Read the questions, in their order.

        Raises:
            CannotJudge: They are missing or damaged.
        """
        return [prompt for _, prompt in self.iterate_prompts()]

    def iterate_prompts(self) -> Iterator[tuple[int, Prompt]]:
        """Read them one by one, each with the place of its line in the file; errors as in `prompts`."""
        path, start = self.path / "prompts.jsonl", 0
        try:
            with path.open("rb") as file:  # as bytes: a prompt may hold U+2028 and its like, which end no line here
                for line in file:
                    if line.strip():
                        yield start, parse_prompt(json.loads(line))
                    start += len(line)
        except FileNotFoundError:
            raise CannotJudge(f"{path}: missing; the run folder is not whole") from None
        except (OSError, ValueError, AttributeError) as error:
            raise CannotJudge(f"{path}: damaged ({error}); rerun `odeval sample` with the same settings") from error

    def part_paths(self, folder: Path) -> list[Path]:
        """The parts of a table, in order."""
        return sorted(folder.glob("part-*.parquet"))

    def iterate(self, folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield a folder's tables part by part, in order.

        Raises:
            OdevalError: A part is damaged.
        """
        for path in self.part_paths(folder):
            yield read_part(path, columns)

    def keys(self, folder: Path) -> set[tuple[str, int]]:
        """The (prompt_id, sample_id) pairs that are already there."""
        found: set[tuple[str, int]] = set()
        for table in self.iterate(folder, ["prompt_id", "sample_id"]):
            found.update(zip(table["prompt_id"].to_pylist(), table["sample_id"].to_pylist(), strict=True))
        return found

    def stale_tokens(self, trajectory: str, source: RunFolder) -> str:
        """Say why tokens/ do not belong to the samples of `source`, "" if they do."""
        parts = {path.name: path for path in source.part_paths(source.samples)}
        for folder in (self.tokens(trajectory), self.dropped(trajectory)):
            scored = {path.name: path for path in self.part_paths(folder)}
            if parts.keys() != scored.keys() and (scored or folder == self.tokens(trajectory)):
                return f"{len(scored)} of {len(parts)} parts of {source.path} are scored"
            for name, path in scored.items():
                if part_provenance(path).get("samples") != hash_files([parts[name]]):
                    return f"{name} was scored from other samples than are in {source.path} now"
        return ""

    def fingerprint(self, folder: Path) -> str:
        """Hash of a stage's artifact, recorded by whatever is computed from it."""
        return hash_files([folder] if folder.is_file() else self.part_paths(folder))


def prompt_line(prompt: Prompt) -> str:
    """One line of prompts.jsonl."""
    row: dict[str, Any] = {"id": prompt.prompt_id}
    if prompt.messages is None:
        row["prompt"] = prompt.text
    else:
        row["messages"] = list(prompt.messages)
    row["answer"] = prompt.answer
    if prompt.cluster:
        row["cluster"] = prompt.cluster
    if prompt.chance is not None:
        row["chance"] = prompt.chance
    return json.dumps(row, ensure_ascii=False)


def parse_prompt(row: Mapping[str, Any]) -> Prompt:
    """The inverse of `prompt_line`, for rows that are known to be well formed."""
    messages = row.get("messages")
    return Prompt(
        text=row.get("prompt"),
        messages=None if messages is None else tuple(messages),
        answer=row.get("answer", ""),
        id=row.get("id", ""),
        cluster=row.get("cluster", ""),
        chance=row.get("chance"),
    )


def _hash_prompts(prompts: Sequence[Prompt]) -> str:
    # What guessing would score is said about a question and is no part of it: a run goes on when that is learnt later.
    return content_hash([prompt_line(replace(prompt, chance=None)) for prompt in prompts])


def _comparable(key: str, value: Any) -> Any:
    if key == "sampling" and isinstance(value, dict):
        return {name: value[name] for name in value if name != "n"}
    if key == "model" and isinstance(value, dict):
        return value.get("fingerprint") or value.get("path")
    return value


def _difference(key: str, old: Any, new: Any) -> str:
    if key == "prompts":
        return "it asks other prompts"
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"{key} was {old!r}, now {new!r}"
    names = [name for name in new if old.get(name) != new[name] and (key, name) != ("sampling", "n")]
    return ", ".join(f"{key} {name} was {old.get(name)!r}, now {new[name]!r}" for name in names)
