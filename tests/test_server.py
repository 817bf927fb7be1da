"""Servers with a real model behind them: what each can tell, from the first request to the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai_server import JsonHandler, handler_for, serving
from test_server_faults import right_answer

from odeval.cli import run
from odeval.engines import openai_api
from odeval.engines.base import EngineOptions
from odeval.engines.hf import HfEngine
from odeval.engines.server import ServerEngine
from odeval.errors import OdevalError
from odeval.measure import measure
from odeval.store import RunFolder
from odeval.testbed import embedded, world
from odeval.types import Prompt, SamplingParams

TEACHER = embedded("graph_paths", "teacher")
STANDARD = frozenset({"model", "prompt", "messages", "max_tokens", "temperature", "top_p", "seed", "n"})
PARAMS = SamplingParams(n=1, max_tokens=8)
PROMPTS = list(world().prompts("heldout", 3))
SEEDS = [[(16 * p + s + 1) << 40 for s in range(5)] for p in range(3)]


@pytest.fixture(scope="module")
def engine() -> HfEngine:
    return HfEngine(TEACHER)


def sampled(url: str, own: Path, *more: str) -> RunFolder:
    arguments = ["sample", "m", "--engine", "server", "--base-url", url, "--task", "graph_paths", "--limit", "55"]
    assert run([*arguments, "-n", "2", "--max-tokens", "6", "--out", str(own), "--quiet", *more]) == 0
    return RunFolder(own)


def test_with_token_ids_a_served_run_can_be_scored(engine: HfEngine, tmp_path: Path) -> None:
    with serving(handler_for(engine)) as url:
        teacher = sampled(url, tmp_path / "teacher")
        student = sampled(url, tmp_path / "student", "--seed", "1")
    meta = teacher.meta()
    assert meta["model"] == {"path": "server:m", "fingerprint": "", "vocabulary": "", "template": ""}
    assert meta["engine"] == {
        "name": "server", "base_urls": [url], "endpoint": "completions", "request": "token ids", "token_ids": True,
        "logprobs": True, "logprobs_are_raw": True,
    }  # fmt: skip
    for table in teacher.iterate(teacher.samples):
        for column in ("seed", "prompt_token_ids", "token_ids", "logprobs"):
            assert table[column].null_count == 0
    for one in (teacher, student):
        assert run(["grade", str(one.path), "--quiet"]) == 0
    folders = ["--teacher-run", str(teacher.path), "--teacher", str(TEACHER), "--student", str(TEACHER)]
    assert run(["score", str(student.path), *folders, "--quiet"]) == 0
    kl = measure(student, "student", 0.8).by_prompt["forward_kl_by_position@student"]
    assert abs(np.nansum(kl.numerator)) < 1e-3 < np.nansum(kl.denominator), (
        "a model against itself, from tokens that came over HTTP"
    )


def test_without_token_ids_texts_are_compared(
    engine: HfEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that knows the standard's oldest fields only."""
    with serving(handler_for(engine, known=STANDARD)) as url:
        one, two = sampled(url, tmp_path / "one"), sampled(url, tmp_path / "two", "--seed", "1")
    lacks = "odeval: server:m gives no token ids and no log-probabilities: metrics of texts and answers only"
    assert lacks in capsys.readouterr().err
    assert one.meta()["engine"]["request"] == "text"
    for table in one.iterate(one.samples):
        for column in ("prompt_token_ids", "token_ids", "logprobs"):
            assert table[column].null_count == len(table)
        assert table["completion"].null_count == table["seed"].null_count == 0
    for folder in (one, two):
        assert run(["grade", str(folder.path), "--quiet"]) == 0
    lengths = measure(one, "one", 0.8).sums["completion_length"]
    assert lengths.denominator.sum() == 0, "of unknown length"
    capsys.readouterr()
    out = tmp_path / "out"
    assert run(["compare", str(one.path), str(two.path), "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert comparison["pairs"][0]["pass_at_k"]["k"] == [1, 2]
    status = {row["check"]: row["status"] for row in comparison["trust"]}
    assert status["Entropies"] == "unknown"
    assert status["Repeats no more than chance, two"] == "unknown"
    assert run(["gate", str(two.path), "--baseline", str(one.path), "--out", str(out)]) in (0, 1)
    assert (
        run(
            [
                "score",
                str(one.path),
                "--teacher-run",
                str(two.path),
                "--teacher",
                str(TEACHER),
                "--student",
                str(TEACHER),
            ]
        )
        == 4
    )
    assert "has completions without" in capsys.readouterr().err


def test_an_audit_through_a_server_judges_the_curve(
    engine: HfEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One address that serves both models."""

    class Both(handler_for(engine, "teacher", STANDARD)):  # type: ignore[misc]
        other = handler_for(HfEngine(embedded("graph_paths", "warm_start")), "student", STANDARD)

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            asked = self.rfile.peek(length)[:length]
            (self.other.do_POST if b'"student"' in asked else super().do_POST.__func__)(self)

    out = tmp_path / "audit"
    with serving(Both) as url:
        options = ["--engine", "server", "--base-url", url, "--task", "graph_paths", "--limit", "50", "-n", "2"]
        code = run(
            ["audit", "student", "--teacher", "teacher", *options, "--max-tokens", "8", "--out", str(out), "--quiet"]
        )
    assert code in (0, 1)
    assert "through a server entropies are bounds at best" in capsys.readouterr().err
    comparison = json.loads((out / "comparison.json").read_text())
    assert [one["label"] for one in comparison["runs"]] == ["teacher", "student"]
    assert "retention@teacher" not in comparison["runs"][1]["metrics"]
    assert {row["check"]: row["status"] for row in comparison["trust"]}["Entropies"] == "unknown"
    assert (out / "report.html").exists()
    assert url in (out / "audit.yaml").read_text()


@pytest.mark.parametrize(
    ("more", "request_", "ids"),
    [
        ({"top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs",
          "return_token_ids", "return_tokens_as_token_ids"}, "token ids", True),
        ({"logprobs", "top_logprobs"}, "log-probabilities", False),
        (set(), "text", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_the_most_a_server_takes_is_asked_for(
    engine: HfEngine, endpoint: Any, more: set[str], request_: str, ids: bool
) -> None:
    with serving(handler_for(engine, known=STANDARD | more)) as url:
        served = ServerEngine(EngineOptions("m", base_urls=(url,), endpoint=endpoint, concurrency=2))
        asked = [served.encode(prompt) for prompt in PROMPTS]
        found = served.sample(asked, SEEDS, PARAMS)
        if not ids:
            with pytest.raises(OdevalError, match="server:m knows no top_k; leave --top-k at 0"):
                served.sample(asked, SEEDS, SamplingParams(n=1, max_tokens=8, top_k=3))
    assert served.describe()["request"] == request_
    expected = engine.sample([engine.encode(p) for p in PROMPTS], [[s >> 11 for s in own] for own in SEEDS], PARAMS)
    for theirs, ours in zip(found, expected, strict=True):
        assert [c.text for c in theirs] == [c.text for c in ours]
        assert [c.finish_reason for c in theirs] == [c.finish_reason for c in ours]
        for left, right in zip(theirs, ours, strict=True):
            assert left.token_ids == (list(right.token_ids) if ids else None)
            if request_ == "text":
                assert left.logprobs is None
            else:
                np.testing.assert_allclose(left.logprobs, right.logprobs, atol=1e-6)


def test_the_newer_name_of_max_tokens(engine: HfEngine) -> None:
    known = frozenset({*STANDARD, "max_completion_tokens"} - {"max_tokens"})
    with serving(handler_for(engine, known=known)) as url:
        served = ServerEngine(EngineOptions("m", base_urls=(url,), endpoint="chat"))
        found = served.sample([served.encode(PROMPTS[0])], [[1 << 40]], PARAMS)
    assert served.describe()["request"] == "text, newer name of max_tokens"
    assert found[0][0].text


def test_refusals_of_a_real_server(engine: HfEngine) -> None:
    with serving(handler_for(engine)) as url:
        with pytest.raises(OdevalError, match=r"HTTP 404 The model other does not exist\."):
            ServerEngine(EngineOptions("other", base_urls=(url,)))
        served = ServerEngine(EngineOptions("m", base_urls=(url,)))
        chat = Prompt(messages=({"role": "user", "content": "0 1"},), id="talk")
        with pytest.raises(OdevalError, match="prompt talk: has messages; ask for them with --endpoint chat"):
            served.encode(chat)
    expected = r"HTTP 400 Unrecognized request argument supplied: max_tokens"
    with serving(handler_for(engine, known=frozenset({"model"}))) as url, pytest.raises(OdevalError, match=expected):
        ServerEngine(EngineOptions("m", base_urls=(url,)))


class Processed(JsonHandler):
    """Its log-probabilities are those after temperature."""

    certain = False

    def do_POST(self) -> None:
        asked = self.asked()
        answer = right_answer(asked)
        top = 0.0 if self.certain else -1.0 / asked["temperature"]
        answer["choices"][0]["logprobs"]["top_logprobs"] = [{"a": top}, {}]
        self.reply(200, answer)


@pytest.mark.parametrize("certain", [False, True])
def test_logprobs_that_follow_the_temperature_are_not_taken_for_the_models(
    certain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Processed, "certain", certain)
    with serving(Processed) as url:
        served = ServerEngine(EngineOptions("m", base_urls=(url,)))
        plain, cold = (
            served.sample(["a"], [[1 << 40]], SamplingParams(n=1, max_tokens=8, temperature=t))[0][0] for t in (1, 0.5)
        )
    assert served.describe()["logprobs"]
    assert not served.describe()["logprobs_are_raw"]
    assert plain.logprobs == [-1.0, -0.5], "at temperature 1 they are the model's own"
    assert cold.logprobs is None


def test_nothing_that_bends_the_distribution_is_left_to_the_server() -> None:
    """vLLM takes what a request leaves out from the model's generation_config."""
    body = openai_api.body("m", "completions", "x", 2**64 - 1, PARAMS, 0)
    assert body == {
        "model": "m", "prompt": "x", "max_tokens": 8, "temperature": 1.0, "top_p": 1.0, "n": 1, "seed": 2**53 - 1,
        "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "logprobs": 1, "return_token_ids": True, "return_tokens_as_token_ids": True,
    }  # fmt: skip


def test_answers_of_other_shapes_are_read() -> None:
    """Ids that stand in the tokens' names; a model that was filtered; half a character; nothing but a stop."""
    chat = {
        "choices": [{
            "finish_reason": "content_filter", "message": {"content": None},
            "logprobs": {
                "content": [{"token": "token_id:7", "logprob": 4e-4}, {"token": "token_id:2", "logprob": -1}],
            },
        }],
        "prompt_token_ids": [4, 5],
    }  # fmt: skip
    found = openai_api.read(chat, "chat", 8)
    assert (found.token_ids, found.logprobs, found.text, found.finish_reason) == ([7, 2], [0.0, -1.0], "", "error")
    assert found.prompt_token_ids == [4, 5]
    half = openai_api.read({"choices": [{"finish_reason": "stop", "text": "a\ud800b"}]}, "completions", 8)
    assert (half.text, half.token_ids, half.logprobs) == ("a?b", None, None)
    empty = {"choices": [{"finish_reason": "stop", "text": "", "token_ids": [2], "logprobs": None}]}
    assert openai_api.read(empty, "completions", 8).token_ids == [2]
    assert openai_api.top_logprobs(chat, "chat") == []
    tops = {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"logprob": -2}, {"logprob": -1}]}]}}]}
    assert openai_api.top_logprobs(tops, "chat") == [-1.0, -2.0]
