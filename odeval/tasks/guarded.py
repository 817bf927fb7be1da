"""Graders that may hang or crash, so they run in another process with a time limit for each completion.

A time-out or a crash is no verdict: `correct` is None with the reason, never wrong. The process is kept for the next
completion, and started anew after it had to be ended.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError
from odeval.types import Grade, Prompt

SECONDS = 10.0  # for one completion
_START = 120.0  # for loading the grader's library, on a busy machine
_EXTRAS = {"math": ("math_verify", "math"), "reasoning_gym": ("reasoning_gym", "tasks")}


class Worker:
    """The other process.

    Args:
        seconds: Limit for one completion.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None
        self._loaded: set[str] = set()
        self._lock = threading.Lock()
        atexit.register(self.stop)

    def grade(self, grader: str, answer: str, completion: str) -> Grade:
        """Grade one completion.

        Raises:
            OdevalError: The grader's library is not installed.
        """
        with self._lock:
            if grader in _EXTRAS and (self.process is None or grader not in self._loaded):
                library, extra = _EXTRAS[grader]
                loaded = self._ask({"grader": "import", "answer": library}, _START)
                if "missing" in loaded:
                    raise OdevalError(f"grader '{grader}': {library} is not installed: pip install 'odeval[{extra}]'")
                if self.process is None:
                    return Grade(None, None, loaded["why"])
                self._loaded.add(grader)
            reply = self._ask({"grader": grader, "answer": answer, "completion": completion}, self.seconds)
        return Grade(reply.get("correct"), reply.get("answer"), str(reply.get("why") or ""))

    def stop(self) -> None:
        """End the process; the next completion starts another."""
        if self.process is not None:
            self.process.kill()
            with self.process:  # closes the pipes and waits
                pass
            self.process = None
            self._loaded.clear()

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            self.stop()
            command = [sys.executable, "-P", str(Path(__file__).with_name("grading_worker.py"))]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            line = self._line(seconds)
        except (OSError, TimeoutError) as error:
            self.stop()
            timed_out = isinstance(error, TimeoutError)
            return {"correct": None, "why": f"no verdict within {seconds:g} s" if timed_out else "the grader crashed"}
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _line(self, seconds: float) -> bytes:
        """Read one line; TimeoutError when it does not come in time, BrokenPipeError when the process ended."""
        assert self.process is not None
        assert self.process.stdout is not None
        deadline, parts = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            while not parts.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not ready.select(left):
                    raise TimeoutError
                read = self.process.stdout.read1(2**16)  # type: ignore[attr-defined]
                if not read:
                    raise BrokenPipeError
                parts += read
        return parts


_WORKER = Worker()


def math(prompt: Prompt, completion: str) -> Grade:
    """Right when math-verify finds the completion's last answer equal to the expected one (extra [math])."""
    return _WORKER.grade("math", prompt.answer, completion)


def reasoning_gym(prompt: Prompt, completion: str) -> Grade:
    """Right when the dataset's own scorer gives the full score; `answer` is the entry as JSON (extra [tasks]).

    The scorer is given what stands in <answer> tags; with `"bare": true` in the entry, the whole completion.
    """
    if problem := entry_problem(prompt.answer):
        raise OdevalError(f"prompt {prompt.prompt_id}: {problem}")
    return _WORKER.grade("reasoning_gym", prompt.answer, completion)


def regex(prompt: Prompt, completion: str) -> Grade:
    """Right when the answer, a regular expression, matches somewhere; its first group is the canonical answer.

    A pattern that backtracks for ever gives no verdict.
    """
    return _WORKER.grade("regex", prompt.answer, completion)


def entry_problem(answer: str) -> str:
    """Say what is wrong with an answer for `reasoning_gym`, "" if nothing."""
    entry: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        entry = json.loads(answer)
    if not (isinstance(entry, dict) and isinstance(entry.get("metadata"), dict)):
        return "the grader 'reasoning_gym' needs the entry as its answer: JSON with question, answer and metadata"
    return "" if entry["metadata"].get("source_dataset") else "the entry's metadata lacks 'source_dataset'"
