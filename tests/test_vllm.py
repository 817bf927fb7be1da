"""Real vLLM: its traps, and its server. The contract itself is in test_engine_contract.py."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import save_lively

from odeval.doctor import Doctor
from odeval.engines import open_engine
from odeval.engines.base import EngineOptions
from odeval.engines.hf import HfEngine
from odeval.engines.reference import Reference
from odeval.engines.server import ServerEngine
from odeval.engines.vllm_sync import check
from odeval.errors import OdevalError
from odeval.sampling import completion_seed
from odeval.scoring_bounds import TopK
from odeval.testbed import world
from odeval.types import SamplingParams
from odkd.config import make_config
from odkd.train import train

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vllm is not installed; `make test-vllm` runs this in an environment of its own",
)
PROMPTS = list(world().prompts("heldout", 8))
PARAMS = SamplingParams(n=1, max_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose generation_config would make sampling greedy, and end at a token of its own."""
    path = save_lively(tmp_path_factory.mktemp("vllm") / "model")
    config = {"do_sample": True, "top_k": 1, "temperature": 0.1, "repetition_penalty": 2.0, "eos_token_id": [2, 9]}
    (path / "generation_config.json").write_text(json.dumps(config))
    return path


def test_more_prompts_than_are_read_in_one_step(folder: Path) -> None:
    """vLLM would read the last of them in two steps, and then cannot take back a random number on a CPU."""
    engine = open_engine("vllm", EngineOptions(str(folder)))
    prompts = [[1, *(4 + (7 * p + i) % 200 for i in range(100))] for p in range(100)]
    found = engine.sample(prompts, [[completion_seed(0, "m", str(p), 0)] for p in range(100)], PARAMS)
    assert [len(own) for own in found] == [1] * 100


def test_vllm_takes_end_tokens_and_nothing_else_from_a_generation_config(folder: Path) -> None:
    engine = open_engine("vllm", EngineOptions(str(folder)))
    asked = [engine.encode(prompt) for prompt in PROMPTS]
    seeds = [[completion_seed(0, "m", str(p), s) for s in range(64)] for p in range(8)]
    found = [c for own in engine.sample(asked, seeds, PARAMS) for c in own]
    assert len({tuple(c.token_ids) for c in found}) > 400, "top_k 1 would give 8"
    ended = {int(c.token_ids[-1]) for c in found if c.finish_reason == "stop"}
    assert ended == {2, 9}
    assert not any(9 in list(c.token_ids)[:-1] for c in found)
    assert engine.ref() == HfEngine(folder, "cpu").ref(), (
        "one model by either engine, so that one can score the other's"
    )
    with pytest.raises(OdevalError, match="device 'cuda': this vLLM runs on cpu; use --device auto"):
        open_engine("vllm", EngineOptions(str(folder), device="cuda"))


def check_top_logprobs(engine: Any, folder: Path) -> None:
    """Against whole passes: the likeliest 5, and the whole vocabulary, which leaves nothing open."""
    reference = HfEngine(folder, "cpu").model
    pairs = [(reference.encode(prompt), [3 + p, 4, 5 + p]) for p, prompt in enumerate(PROMPTS)]
    size = reference.vocab_size
    for k in (5, size):
        assert engine.gives_top_logprobs(k)
        for (prompt, tokens), found in zip(pairs, engine.top_logprobs(pairs, k), strict=True):
            with torch.no_grad():
                logits = reference.model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1, :size]
            expected = torch.log_softmax(logits.double(), -1).sort(descending=True).values[:, :k].numpy()
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_vllm_tells_top_logprobs_of_given_tokens(folder: Path) -> None:
    engine = open_engine("vllm", EngineOptions(str(folder)))
    assert isinstance(engine, TopK)
    assert engine.vocab_size >= HfEngine(folder, "cpu").model.vocab_size
    check_top_logprobs(engine, folder)


@pytest.mark.parametrize("tied", [False, True])
def test_new_weights_reach_vllm_and_stale_ones_are_noticed(tied: bool, tmp_path: Path) -> None:
    """A tied head is what vLLM leaves stale; the probe sees it, with the remedy taken out."""
    path = save_lively(tmp_path / "model", tied=tied)
    engine, model = open_engine("vllm", EngineOptions(str(path))), HfEngine(path, "cpu").model
    probe = [(model.encode(prompt), [3, 4, 5]) for prompt in PROMPTS[:3]]
    assert check(engine, model, probe) < 1e-4
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in dict.fromkeys(model.model.parameters()):
            value.add_(0.2 * value.std() * torch.randn(value.shape, generator=generator))
    with pytest.raises(
        OdevalError, match=r"vLLM has other weights than .* log-probabilities differ by .* 0.001 allowed"
    ):
        check(engine, model, probe)
    assert engine.load(model, probe) < 1e-4
    asked = [model.encode(prompt) for prompt in PROMPTS[:2]]
    [[drawn], _] = engine.sample(asked, [[1 << 40], [2 << 40]], PARAMS)
    expected = Reference(model).logprobs(asked[0], [int(i) for i in drawn.token_ids])
    np.testing.assert_allclose(drawn.logprobs, expected, atol=1e-4)


@pytest.mark.parametrize("more", [{}, {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0}])
def test_odkd_rolls_out_through_vllm_with_the_weights_of_the_step(more: dict[str, Any], tmp_path: Path) -> None:
    """The log compares each rollout's log-probabilities with those of the pass that trains on it: stale ones differ."""
    path = save_lively(tmp_path / "student", tied=True)
    settings = {
        "recipe": "reverse_kl", "use_vllm": True, "model_name_or_path": str(path),
        "teacher_model_name_or_path": str(save_lively(tmp_path / "teacher")), "dataset_name": "graph_paths",
        "output_dir": str(tmp_path / "out"), "max_steps": 4, "learning_rate": 0.02, "device": "cpu",
        "per_device_train_batch_size": 16, "max_completion_length": 8, "lr_scheduler_type": "constant",
    }  # fmt: skip
    train(make_config(settings | more))
    rows = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == ["student"] * 4
    assert max(row["rollout_largest_gap"] for row in rows) < 1e-4
    assert abs(rows[0]["student_entropy"] - rows[3]["student_entropy"]) > 1e-3, "the weights moved"


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    options = [
        "--served-model-name",
        "m",
        "--max-logprobs",
        "-1",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--host",
        "127.0.0.1",
    ]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    log = folder.parent / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen([*command, *options], stdout=file, stderr=file, env=environment)
        try:
            for _ in range(600):
                if process.poll() is not None:
                    pytest.fail(f"the server ended: {log.read_text()[-2000:]}")
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(60)


def test_a_vllm_server_holds_the_contract(url: str, folder: Path) -> None:
    """Its generation_config is not overridden on its own command line: every request has to do it."""
    engine = ServerEngine(EngineOptions("m", base_urls=(url,), concurrency=16, retries=8))
    assert engine.describe() == {
        "name": "server", "base_urls": [url], "endpoint": "completions", "request": "token ids", "token_ids": True,
        "logprobs": True, "logprobs_are_raw": True,
    }  # fmt: skip
    findings = list(Doctor(engine, PROMPTS, Reference(folder, "cpu"), samples=400, max_tokens=8).findings())
    assert [f"{f.check}: {f.detail}" for f in findings if f.status != "ok"] == []
    check_top_logprobs(engine, folder)
