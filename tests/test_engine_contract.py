"""One contract for all engines: honest seeds, honest draws, honest log-probabilities."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai_server import handler_for, serving
from scipy import stats
from tiny_models import save_lively

from odeval.doctor import Doctor
from odeval.engines import ENGINES, open_engine
from odeval.engines.base import Engine, EngineOptions
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.engines.reference import Reference
from odeval.testbed import world
from odeval.types import Completion, SamplingParams

PARAMS = SamplingParams(n=1, max_tokens=12)
PROMPTS = list(world().prompts("heldout", 6))
SEEDS = [[7919 * 10**9 * (16 * p + s + 1) for s in range(16)] for p in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every token is a surprise."""
    return save_lively(tmp_path_factory.mktemp("contract") / "model")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    if request.param == "server":
        with serving(handler_for(HfEngine(folder))) as url:
            yield open_engine("server", EngineOptions("m", base_urls=(url,), concurrency=4))
        return
    if request.param == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed; `make test-vllm` runs this in an environment of its own")
    yield open_engine(request.param, EngineOptions(str(folder), device="cpu"))


@pytest.fixture(scope="module")
def drawn(engine: Engine) -> list[list[Completion]]:
    return engine.sample([engine.encode(prompt) for prompt in PROMPTS], SEEDS, PARAMS)


def ids(answers: list[list[Completion]]) -> list[list[list[int]]]:
    return [[[int(i) for i in completion.token_ids] for completion in own] for own in answers]


def exact_logprobs(folder: Path, prompt: list[int], completion: list[int]) -> np.ndarray:
    """[T, V] float64, by transformers and numpy alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0].double().numpy()
    logits = logits[len(prompt) - 1 :]
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


def test_one_distinct_completion_for_every_seed(drawn: list[list[Completion]]) -> None:
    assert [len(own) for own in drawn] == [16] * len(PROMPTS)
    said = [tuple(one) for own in ids(drawn) for one in own]
    assert len(set(said)) > 0.9 * len(said), "the model hardly ever says the same twice"
    for completion in (c for own in drawn for c in own):
        assert 1 <= len(completion.token_ids) <= 12
        assert completion.finish_reason in ("stop", "length")
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 12
        assert len(completion.logprobs) == len(completion.token_ids)


def test_same_seed_same_tokens_in_any_company(engine: Engine, drawn: list[list[Completion]]) -> None:
    asked = [engine.encode(prompt) for prompt in PROMPTS]
    again = engine.sample(asked[::-1], [own[::-1] for own in SEEDS[::-1]], PARAMS)
    assert [own[::-1] for own in ids(again)[::-1]] == ids(drawn)


def test_eight_samples_extend_the_first_four(engine: Engine, drawn: list[list[Completion]]) -> None:
    asked = [engine.encode(prompt) for prompt in PROMPTS]
    four, eight = (ids(engine.sample(asked, [own[:n] for own in SEEDS], PARAMS)) for n in (4, 8))
    assert [own[:4] for own in eight] == four
    assert eight == [own[:8] for own in ids(drawn)]


def test_a_prompts_tokens_are_told(engine: Engine, drawn: list[list[Completion]], folder: Path) -> None:
    model = HfModel(folder, "cpu")
    assert [list(own[0].prompt_token_ids or ()) for own in drawn] == [model.encode(prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("cut", [{}, {"temperature": 0.6, "top_k": 12}, {"top_p": 0.7}])
def test_first_tokens_follow_the_exact_distribution(engine: Engine, folder: Path, cut: dict[str, Any]) -> None:
    """Seeds are neighbours: that they are independent is tested with it."""
    params, draws = replace(PARAMS, max_tokens=1, **cut), 400
    asked = engine.encode(PROMPTS[0])
    seeds = [2**40 + i * 2**11 for i in range(draws)]
    first = np.array([one[0] for one in ids(engine.sample([asked], [seeds], params))[0]])
    probs = np.exp(exact_logprobs(folder, HfModel(folder, "cpu").encode(PROMPTS[0]), [])[0])
    probs = probs ** (1 / params.temperature)
    order = np.argsort(-probs, kind="stable")
    kept = order[: params.top_k or None]
    before = np.cumsum(probs[kept]) - probs[kept]
    kept = kept[before < params.top_p * probs[kept].sum() - 1e-9]
    assert set(first) <= set(kept.tolist()), "nothing that is cut away is drawn"
    share = np.zeros_like(probs)
    share[kept] = probs[kept] / probs[kept].sum()
    counts = np.bincount(first, minlength=len(share))
    large = share * draws >= 5
    seen, wanted = ([*x[large], x[~large].sum()] for x in (counts, share * draws))
    assert len(seen) > 3
    keep = [j for j in range(len(seen)) if wanted[j] > 1e-9]
    assert stats.chisquare([seen[j] for j in keep], [wanted[j] for j in keep]).pvalue > 1e-3
    pairs = np.mean(first[1:] == first[:-1])
    assert abs(pairs - (share**2).sum()) < 5 * np.sqrt((share**2).sum() / draws)


@pytest.mark.parametrize("cut", [{}, {"temperature": 0.5, "top_p": 0.9}])
def test_logprobs_are_those_of_a_pass_over_the_whole_sequence(
    engine: Engine, folder: Path, cut: dict[str, Any]
) -> None:
    """At temperature 1 and untruncated, however the completion was drawn."""
    asked = [engine.encode(prompt) for prompt in PROMPTS[:2]]
    answers = engine.sample(asked, [own[:3] for own in SEEDS[:2]], replace(PARAMS, **cut))
    model = HfModel(folder, "cpu")
    for prompt, own in zip(PROMPTS, answers, strict=False):
        for completion in own:
            tokens = [int(i) for i in completion.token_ids]
            expected = exact_logprobs(folder, model.encode(prompt), tokens)
            np.testing.assert_allclose(
                completion.logprobs, [row[i] for row, i in zip(expected, tokens, strict=False)], rtol=0, atol=1e-4
            )


def test_the_doctor_finds_nothing(engine: Engine, folder: Path) -> None:
    findings = list(Doctor(engine, PROMPTS, Reference(folder, "cpu"), samples=100, max_tokens=4).findings())
    assert [f.check for f in findings if f.status != "ok"] == []
    assert len(findings) == 11
