"""What a GitHub step shows: a summary table, a few annotations, and outputs that later steps read.

Every text here may come from a model, a file name or a log. None of it can start a workflow command, end a heredoc,
or say anything in Markdown but itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from odeval.errors import OdevalError
from odeval.exporters.cases import cases
from odeval.exporters.markdown import blocks, escaped, headline
from odeval.visible import visible

_SUMMARY = 900_000  # bytes; GitHub drops a whole summary over 1 MiB, sometimes without a word
_CUT = "\n*The rest did not fit; see the report.*\n"
_WARNINGS = 9  # beside one error; GitHub shows 10 annotations of a kind a step
_TITLE, _MESSAGE = 200, 4000  # characters


def summary(comparisons: Sequence[dict[str, Any]], verdict: dict[str, Any], report: Path | None = None) -> str:
    """Markdown for $GITHUB_STEP_SUMMARY, of any length."""
    where = "" if report is None else f"\nThe whole report: {escaped(str(report))}\n"
    return "\n".join(["", f"### {headline(verdict)}\n", *blocks(comparisons, verdict)]) + where


def commands(verdict: dict[str, Any], strict: bool = False) -> list[str]:
    """Annotations: at most 1 ::error and 9 ::warning."""
    failed: list[str] = []
    open_: list[str] = []
    for case in cases(verdict, strict):
        if case.outcome != "passed":
            group = failed if case.outcome == "failed" else open_
            group.append(f"{case.name}: {case.text}")
    lines = []
    if failed:
        rows = [row for row in verdict["candidates"] if row["verdict"] == verdict["verdict"]]
        told = [visible(f"{row['candidate']}: {row['headline']}", _MESSAGE) for row in rows]
        title = f"odeval: {verdict['verdict']} {_diagnosis(verdict)}"
        lines.append(_command("error", title, "\n".join([*told, *failed])))
    for text in open_[: _WARNINGS - (len(open_) > _WARNINGS)]:
        lines.append(_command("warning", "odeval: not decisive", text))
    if len(open_) > _WARNINGS:
        rest = len(open_) - _WARNINGS + 1
        lines.append(_command("warning", "odeval: not decisive", f"{rest} more rules warn or are inconclusive"))
    return lines


def _command(kind: str, title: str, message: str) -> str:
    name = _data(visible(title.strip(), _TITLE)).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={name}::{_data(message[:_MESSAGE])}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def outputs(values: Mapping[str, str]) -> str:
    """Lines for $GITHUB_OUTPUT; the delimiter is drawn anew, so no value can hold it."""
    lines = []
    for name, value in values.items():
        delimiter = f"odeval_{secrets.token_hex(16)}"
        lines.append(f"{name}<<{delimiter}\n{visible(value)}\n{delimiter}\n")
    return "".join(lines)


def publish(
    comparisons: Sequence[dict[str, Any]], verdict: dict[str, Any], out: Path | None, strict: bool, stream: TextIO
) -> None:
    """Write summary, outputs and annotations of a verdict.

    Args:
        comparisons: One a benchmark.
        verdict: From `gate.as_json`, over all of them.
        out: Folder of the report, if one was written.
        strict: Inconclusive is failed.
        stream: Where annotations go; a runner reads stdout and stderr alike.
    """
    report = None if out is None else out / "report.html"
    report = report if report is not None and report.exists() else out  # several benchmarks: a folder of reports
    values = {"verdict": verdict["verdict"], "diagnosis": _diagnosis(verdict),
              "report-path": "" if report is None else str(report),
              "verdict-path": "" if out is None else str(out / "verdict.json")}  # fmt: skip
    _append("GITHUB_OUTPUT", outputs(values))
    _append("GITHUB_STEP_SUMMARY", summary(comparisons, verdict, report), _SUMMARY)
    _print(commands(verdict, strict), stream)


def publish_error(reason: str, stream: TextIO) -> None:
    """Say that there is no verdict, which is neither a pass nor a fail."""
    _append("GITHUB_OUTPUT", outputs({"verdict": "CANNOT_JUDGE", "report-path": "", "verdict-path": ""}))
    _append("GITHUB_STEP_SUMMARY", f"\n### odeval could not judge\n\n{escaped(reason, _MESSAGE)}\n", _SUMMARY)
    _print([_command("error", "odeval could not judge", visible(reason))], stream)


@contextlib.contextmanager
def commands_off(stream: TextIO) -> Iterator[None]:
    """Keep a runner from reading what is printed meanwhile as commands: a wrapped line may start with "::"."""
    token = secrets.token_hex(16)
    _print([f"::stop-commands::{token}"], stream)
    try:
        yield
    finally:
        _print([f"::{token}::"], stream)


def _diagnosis(verdict: dict[str, Any]) -> str:
    return ", ".join(sorted({row["diagnosis"] for row in verdict["candidates"]} - {""}))


def _append(variable: str, text: str, most: int | None = None) -> None:
    """Append to a file that the runner named; outside of GitHub there is none."""
    if not (name := os.environ.get(variable)):
        return
    path, data = Path(name), text.encode()
    try:
        if most is not None:
            room = most - (path.stat().st_size if path.exists() else 0)
            data = data if len(data) <= room else _cut(data, room)
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        raise OdevalError(f"cannot write {variable} {path}: {error.strerror or error}") from error


def _cut(data: bytes, room: int) -> bytes:
    """Whole lines that fit, and a word that there was more."""
    end = data.rfind(b"\n", 0, max(room - len(_CUT), 0)) + 1
    return data[:end] + _CUT.encode() if room >= len(_CUT) else b""


def _print(lines: Iterable[str], stream: TextIO) -> None:
    for line in lines:
        stream.write(line + "\n")
    stream.flush()


def stream_of(json_on_stdout: bool) -> TextIO:
    """Commands go to stdout with the table, so that their order holds; beside JSON they go to stderr."""
    return sys.stderr if json_on_stdout else sys.stdout
