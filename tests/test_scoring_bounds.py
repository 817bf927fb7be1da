"""Scoring through a server that tells the likeliest tokens, against the whole distributions of the same models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openai_server import JsonHandler, handler_for, serving
from page_reader import Page

from odeval.cli import run
from odeval.engines.base import EngineOptions
from odeval.engines.hf import HfEngine
from odeval.engines.http import Malformed
from odeval.engines.openai_api import read_prompt_logprobs
from odeval.engines.server import ServerEngine
from odeval.errors import OdevalError
from odeval.report.numbers import count
from odeval.scoring import score_sequences
from odeval.scoring_bounds import _outward, score_bounds
from odeval.store import RunFolder
from odeval.testbed import embedded, world
from odeval.types import TRAJECTORIES

TEACHER, STUDENT = (embedded("graph_paths", name) for name in ("teacher", "reverse_kl"))


@pytest.fixture(scope="module")
def engines() -> dict[str, HfEngine]:
    return {"teacher": HfEngine(TEACHER), "student": HfEngine(STUDENT)}


def both(engines: dict[str, HfEngine]) -> type[JsonHandler]:
    """One address that serves two models."""
    handlers = {name: handler_for(engine, name) for name, engine in engines.items()}

    class Both(JsonHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            name = json.loads(self.rfile.peek(length)[:length])["model"]
            handlers[name].do_POST(self)

    return Both


def flat(run: RunFolder, trajectory: str, column: str) -> np.ndarray:
    tables = run.iterate(run.tokens(trajectory), [column])
    return np.concatenate([np.concatenate(table[column].to_pylist()) for table in tables])


@pytest.fixture(scope="module")
def audited(engines: dict[str, HfEngine], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "audit"
    with serving(both(engines)) as url:
        options = ["--engine", "server", "--base-url", url, "--task", "graph_paths", "--limit", "60", "-n", "4"]
        models = ["audit", "student", "--teacher", "teacher"]
        assert run([*models, *options, "--max-tokens", "8", "--out", str(out), "--quiet"]) in (0, 1)
    return out


def test_bounds_enclose_the_whole_distributions(engines: dict[str, HfEngine], audited: Path) -> None:
    """Truth: entropies of both models from all their logits, scored by the embedded engine."""
    own = RunFolder(audited / "student")
    for trajectory, source in (("teacher", RunFolder(audited / "teacher")), ("student", own)):
        pairs = [
            (tuple(prompt), tuple(tokens))
            for table in source.iterate(source.samples, ["prompt_token_ids", "token_ids"])
            for prompt, tokens in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
        ]
        truth = score_sequences(engines["teacher"].model, engines["student"].model, pairs)
        for column, model in ((2, "teacher"), (3, "student")):
            exact = np.concatenate([one.values[column] for one in truth])
            low, high = (flat(own, trajectory, f"{model}_entropy_{end}") for end in ("low", "high"))
            slack = 1e-3 * exact + 1e-4  # exact scores are kept in half precision
            assert (low <= exact + slack).all()
            assert (high >= exact - slack).all()
            assert (high - low).max() > 0.005, "20 tokens of 245 leave something open"
            assert flat(own, trajectory, f"{model}_mass").max() <= 1 + 1e-6
    assert not own.part_paths(own.dropped("teacher"))


def test_the_report_shows_bounds_as_bounds(audited: Path) -> None:
    comparison = json.loads((audited / "comparison.json").read_text())
    found = comparison["runs"][1]["bounds"]
    assert set(found) == set(TRAJECTORIES)
    assert found["teacher"]["tokens"] > 0
    trust = {row["check"]: row for row in comparison["trust"]}["Entropies"]
    assert (trust["status"], trust["detail"]) == ("warn", "student: bounds from the likeliest tokens, not values")
    text = " ".join(Page((audited / "report.html").read_text()).text.split())
    assert "student: bounds, in %, from the likeliest tokens" in text
    undecided = found["teacher"]["teacher_high_entropy"]["undecidable_tokens"][1]
    assert f"{undecided} of {count(found['teacher']['tokens'])} undecided" in text
    assert "No run is scored" not in text


def test_score_alone_reads_two_servers_and_keeps_what_is_there(
    engines: dict[str, HfEngine], audited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = RunFolder(audited / "student")
    part = own.part_paths(own.tokens("teacher"))[0]
    before = part.read_bytes()
    asked: list[str] = []

    def counting(name: str) -> type[JsonHandler]:
        class Counting(handler_for(engines[name], name)):  # type: ignore[misc]
            def do_POST(self) -> None:
                asked.append(name)
                super().do_POST()

        return Counting

    with serving(counting("student")) as mine, serving(counting("teacher")) as theirs:
        command = ["score", str(own.path), "--teacher-run", str(audited / "teacher"), "--engine", "server", "--quiet"]
        places = ["--base-url", mine, "--teacher-base-url", theirs]
        assert run([*command, *places]) == 0
        assert part.read_bytes() == before
        opened = len(asked)
        assert run([*command, *places, "--top-logprobs", "245", "--vocab-size", "245"]) == 0
        assert set(asked[opened:]) == {"teacher", "student"}
    for trajectory in TRAJECTORIES:
        for model in TRAJECTORIES:
            low, high = (flat(own, trajectory, f"{model}_entropy_{end}") for end in ("low", "high"))
            np.testing.assert_allclose(low, high, atol=1e-5, err_msg="the whole vocabulary leaves nothing open")
    capsys.readouterr()
    with serving(handler_for(engines["student"], "student", frozenset(STANDARD))) as url:
        assert run([*command, "--base-url", url, "--student", "student", "--teacher", "student"]) == 4
    assert "server:student: gives no top 20 log-probabilities of a prompt; a vLLM server does, with --max-logprobs" in (
        capsys.readouterr().err
    )


STANDARD = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "n"}


def test_rounding_keeps_a_bound_a_bound() -> None:
    values = np.random.default_rng(0).random(1000) * 10 ** np.random.default_rng(1).uniform(-9, 1, 1000)
    assert (_outward(values, "teacher_entropy_low") <= values).all()
    assert (_outward(values, "teacher_entropy_high") >= values).all()
    assert np.abs(_outward(values, "teacher_entropy_low") / values - 1).max() < 1e-6


def test_no_tokens_asked_for_is_an_error(tmp_path: Path) -> None:
    own = RunFolder(tmp_path)
    with pytest.raises(OdevalError, match="top-logprobs 0: at least 1 token must be asked for"):
        score_bounds(None, own, own, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"choices": [{}]}, "has no log-probabilities of the prompt"),
        ({"choices": [{"prompt_logprobs": [None, {"3": {"logprob": -0.1}}]}]}, "do not fit the prompt"),
        ({"choices": [{"prompt_logprobs": [None, {}, {}]}]}, "do not fit the prompt"),
        ({"choices": [{"prompt_logprobs": [None, {"3": {"logprob": 2.0}}, {"4": {"logprob": -1}}]}]}, "do not fit"),
        ({"choices": [{"prompt_logprobs": [None, {"3": {"logprob": None}}, {}]}]}, "has no log-probabilities"),
        ({"choices": []}, "has no log-probabilities of the prompt"),
        ([], "has no log-probabilities of the prompt"),
    ],
)
def test_what_is_no_answer_is_asked_for_again(answer: Any, text: str) -> None:
    with pytest.raises(Malformed, match=text):
        read_prompt_logprobs(answer, 3, 1, 2)


def test_the_token_that_stands_there_does_not_bound_the_others() -> None:
    """The k likeliest are kept; the token itself, told beside them, is far below the rest of the tail."""
    row = {"7": {"logprob": -12.0}, "1": {"logprob": -0.5}, "2": {"logprob": -1.5}}
    answer = {"choices": [{"prompt_logprobs": [None, row, {"5": {"logprob": -9999.0}, "6": {"logprob": 0.0}}]}]}
    assert read_prompt_logprobs(answer, 3, 1, 2).tolist() == [[-0.5, -1.5], [0.0, -np.inf]]


def test_replicas_are_each_asked(engines: dict[str, HfEngine]) -> None:
    with serving(handler_for(engines["student"])) as one, serving(handler_for(engines["student"])) as two:
        engine = ServerEngine(EngineOptions("m", base_urls=(one, two)))
        assert engine.gives_top_logprobs(5)
        prompt = engines["student"].encode(world().prompts("heldout", 1)[0])
        found = engine.top_logprobs([(prompt, [5, 6]), (prompt, [7])], 26)
    with torch.no_grad():
        logits = engines["student"].model.model(torch.tensor([[*prompt, 5, 6]])).logits[0, len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits.double(), -1).sort(descending=True).values.numpy()
    assert [len(table) for table in found] == [2, 1]
    np.testing.assert_allclose(found[0], expected[:, :26], atol=1e-5)
