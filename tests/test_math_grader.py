"""Graders in another process: a time-out or a crash is no verdict, and the next completion is graded all the same."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from odeval.errors import OdevalError
from odeval.tasks import guarded as math_grader
from odeval.tasks.guarded import Worker, entry_problem, reasoning_gym, regex
from odeval.types import Grade, Prompt

SLOW = (r"(a+)+$", "a" * 40 + "b")  # 2^40 ways to try


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(seconds=20)
    yield worker
    worker.stop()


def test_a_pattern_that_never_ends_is_no_verdict_and_the_worker_goes_on(worker: Worker) -> None:
    assert worker.grade("regex", r"= (4|four)", "2 + 2 = four") == Grade(True, "four", "")
    first = worker.process
    assert worker.grade("regex", "5", "4") == Grade(False, None, "the pattern does not match")
    assert worker.process is first
    worker.seconds = 0.3
    started = time.monotonic()
    assert worker.grade("regex", *SLOW) == Grade(None, None, "no verdict within 0.3 s")
    assert time.monotonic() - started < 10
    worker.seconds = 20
    assert worker.grade("regex", "4", "4").correct
    assert worker.process is not first


def test_a_crash_is_no_verdict(worker: Worker) -> None:
    worker.grade("regex", "4", "4")
    assert worker.process is not None
    threading.Timer(0.3, os.kill, (worker.process.pid, signal.SIGKILL)).start()
    assert worker.grade("regex", *SLOW) == Grade(None, None, "the grader crashed")
    assert worker.grade("regex", "4", "4").correct
    os.kill(worker.process.pid, signal.SIGKILL)  # between two completions
    time.sleep(0.2)
    assert worker.grade("regex", "4", "4").correct is not False
    assert worker.grade("regex", "4", "4").correct


def test_an_exception_is_no_verdict(worker: Worker) -> None:
    assert worker.grade("regex", "(", "4") == Grade(None, None, "the grader failed (error)")
    assert worker.grade("regex", "4", "\ud800 4 \n\u2028").correct  # any text crosses the pipe


def test_a_missing_library_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> None:
    monkeypatch.setitem(math_grader._EXTRAS, "math", ("math_verify_that_is_absent", "math"))
    with pytest.raises(OdevalError, match=r"grader 'math': math_verify_that_is_absent is not installed: pip install"):
        worker.grade("math", "1", "1")


def test_threads_take_turns(worker: Worker) -> None:
    found: list[bool | None] = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(worker.grade("regex", f"^{i}$", str(i)).correct))
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20


@pytest.mark.parametrize(
    ("answer", "completion", "right"),
    [
        ("1/2", r"The answer is $\frac{1}{2}$.", True),
        (r"\frac{1}{2}", "so 0.5", True),
        ("2", r"First 3, then \boxed{2}", True),
        ("x^2+1", "$1+x^2$", True),
        ("$1,200$", "1200", True),
        ("2", "I think 3", False),
        ("2", "no idea", False),
    ],
)
def test_math(answer: str, completion: str, right: bool) -> None:
    pytest.importorskip("math_verify")
    assert math_grader.math(Prompt(text="?", answer=answer), completion).correct is right


def test_math_is_never_wrong_by_a_time_out(worker: Worker) -> None:
    pytest.importorskip("math_verify")
    assert worker.grade("math", "1/2", "0.5").answer == worker.grade("math", "0.5", r"\boxed{\frac12}").answer == "1/2"
    worker.seconds = 2
    assert worker.grade("math", "3", r"\boxed{10^{10^{10^{10}}}}").correct is None
    assert worker.grade("math", "", r"\boxed{3}") == Grade(None, None, "math-verify cannot read the answer ''")


def test_reasoning_gym_uses_the_datasets_own_scorer() -> None:
    pytest.importorskip("reasoning_gym")
    log = Path(__file__).parent / "fixtures/reasoning_gym/teacher/countdown.json"
    for entry in json.loads(log.read_text())["results"]:
        known = {"question": entry["question"], "answer": entry["expected_answer"], "metadata": entry["metadata"]}
        prompt = Prompt(text=entry["question"], answer=json.dumps(known))
        for item in entry["completions"]:
            grade = reasoning_gym(prompt, item["full_model_response"])
            assert (grade.correct, grade.answer) == (item["score"] == 1, item["model_answer"])


def test_a_bare_entry_is_graded_without_tags() -> None:
    pytest.importorskip("reasoning_gym")
    known = {"metadata": {"source_dataset": "countdown", "numbers": [2, 3, 4], "target": 10}}
    bare, tagged = (Prompt(text="?", answer=json.dumps({**known, **more})) for more in ({"bare": True}, {}))
    assert reasoning_gym(bare, " 2 * 3 + 4\n") == Grade(True, "2 * 3 + 4", "")
    assert reasoning_gym(bare, "2 * 3 + 4 = 10").correct is False
    assert reasoning_gym(tagged, "2 * 3 + 4").correct is False
    assert reasoning_gym(tagged, "<answer>2 * 3 + 4</answer>").correct is True


def test_what_a_reasoning_gym_prompt_must_carry() -> None:
    assert "needs the entry as its answer" in entry_problem("42")
    assert "needs the entry as its answer" in entry_problem('{"answer": "42"}')
    assert entry_problem('{"metadata": {}}') == "the entry's metadata lacks 'source_dataset'"
    assert entry_problem('{"metadata": {"source_dataset": "countdown"}}') == ""
    with pytest.raises(OdevalError, match="prompt p1: the grader 'reasoning_gym' needs the entry"):
        reasoning_gym(Prompt(text="?", answer="42", id="p1"), "x")


def test_the_shared_worker() -> None:
    assert regex(Prompt(text="?", answer="b(c)"), "abc") == Grade(True, "c", "")
