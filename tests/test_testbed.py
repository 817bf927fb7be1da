"""The embedded models load, are small, and do what their record says; exact figures agree with sampled ones."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from odeval import testbed
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.testbed import exact
from odeval.testbed.build import tiny_llama, tiny_tokenizer
from odeval.types import Prompt, SamplingParams

EMBEDDED = [(world, model) for world in testbed.WORLDS for model in testbed.models(world)]
ARMS = ["blend", "forward_kl", "gkd", "reverse_kl"]


@cache
def enumeration(world: str, model: str, limit: int) -> exact.Enumeration:
    loaded = HfModel(testbed.checkpoint(world, model), "cpu")
    prompts = testbed.world(world).prompts("heldout", limit)
    return exact.enumerate_solutions(loaded.model, loaded.tokenizer, prompts, testbed.world(world).solutions)


def test_both_worlds_hold_a_teacher_a_start_and_every_arm() -> None:
    assert list(testbed.WORLDS) == ["graph_paths", "countdown"]
    for world in testbed.WORLDS:
        assert testbed.models(world) == ["teacher", "warm_start", *ARMS]


def test_an_unknown_name_gets_one_line() -> None:
    with pytest.raises(OdevalError, match=r"^unknown graph_paths model 'reverse-kl': .*did you mean 'reverse_kl'"):
        testbed.checkpoint("graph_paths", "reverse-kl")
    with pytest.raises(OdevalError, match=r"^unknown world 'count': expected one of countdown, graph_paths"):
        testbed.checkpoint("count", "teacher")


def test_all_checkpoints_fit_into_six_megabytes() -> None:
    root = testbed.checkpoint("graph_paths", "teacher").parent.parent
    assert sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) < 6e6


def test_listing_the_testbed_loads_no_torch() -> None:
    code = "import sys, odeval.testbed as t; t.models('countdown'); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("world", "model"), EMBEDDED)
def test_a_checkpoint_is_genuine_hugging_face(world: str, model: str) -> None:
    folder = testbed.checkpoint(world, model)
    loaded = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert type(loaded).__name__ == "LlamaForCausalLM"
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    assert len(tokenizer) == loaded.config.vocab_size
    generation = loaded.generation_config
    assert (generation.temperature, generation.top_p, generation.top_k) == (1.0, 1.0, 0)
    for prompt in testbed.world(world).prompts("heldout", 20):
        words = (prompt.text or "").split()
        assert tokenizer.convert_ids_to_tokens(tokenizer(prompt.text)["input_ids"]) == ["<bos>", *words]
        for answer in testbed.world(world).solutions(prompt):
            ids = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            assert len(ids) == len(answer.split()) + 1 <= testbed.world(world).max_tokens
            assert tokenizer.unk_token_id not in ids
            text = tokenizer.decode(ids, skip_special_tokens=True)
            assert text == answer
            assert testbed.world(world).grade(prompt, text).correct


@pytest.mark.parametrize("world", testbed.WORLDS)
def test_models_of_a_world_share_one_vocabulary(world: str) -> None:
    files = {(testbed.checkpoint(world, model) / "tokenizer.json").read_bytes() for model in testbed.models(world)}
    assert len(files) == 1


@pytest.mark.parametrize(("world", "model"), EMBEDDED)
def test_a_record_tells_how_the_model_was_made_and_no_place_on_a_disk(world: str, model: str) -> None:
    text = (testbed.checkpoint(world, model) / "training.json").read_text()
    record: dict[str, Any] = json.loads(text)
    assert (record["world"], record["model"]) == (world, model)
    assert {"torch", "transformers", "python"} <= set(record["versions"])
    assert set(record["exact"]["pass_at_k"]) == {"1", "2", "4", "8", "16", "32", "64"}
    if model in ARMS:
        config = record["config"]
        assert config["model_name_or_path"] == "warm_start"
        assert record["exact"]["steps"] == config["max_steps"]
    assert '"/' not in text


@pytest.mark.parametrize("model", ["teacher", "warm_start", "reverse_kl"])
def test_a_record_states_what_the_model_does(model: str) -> None:
    record = json.loads((testbed.checkpoint("graph_paths", model) / "training.json").read_text())["exact"]
    scores, teacher = (enumeration("graph_paths", name, 1000) for name in (model, "teacher"))
    for k, value in record["pass_at_k"].items():
        assert exact.pass_at_k(scores, [int(k)]).mean() == pytest.approx(value, abs=2e-4)
    assert exact.coverage(scores, 64).mean() == pytest.approx(record["coverage_at_64"], abs=2e-4)
    assert exact.retention(teacher, scores) == pytest.approx(record["retention"], abs=5e-3)


@pytest.mark.parametrize("model", ["teacher", "warm_start", "reverse_kl"])
def test_exact_figures_agree_with_sampled_ones(model: str) -> None:
    world, n = testbed.world("graph_paths"), 64
    prompts = world.prompts("heldout", 100)
    engine = HfEngine(testbed.checkpoint("graph_paths", model), "cpu")
    seeds = [[1_000_003 * place + s for s in range(n)] for place in range(len(prompts))]
    params = SamplingParams(n=1, max_tokens=world.max_tokens)
    drawn = engine.sample([engine.encode(prompt) for prompt in prompts], seeds, params)
    grades = [[world.grade(p, c.text) for c in row] for p, row in zip(prompts, drawn, strict=True)]
    scores = enumeration("graph_paths", model, 100)

    p = exact.pass_at_k(scores, [1])[:, 0]
    sampled = np.array([sum(bool(grade.correct) for grade in row) / n for row in grades])
    assert abs(sampled.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p) / n).sum()) / len(p)

    # Distinct answers found: a sum of found/not-found, which are negatively related within a prompt.
    expected = -np.expm1(n * np.log1p(-scores.probability))
    found = sum(len({grade.answer for grade in row if grade.correct}) for row in grades)
    assert abs(found - expected.sum()) < 4 * np.sqrt((expected * (1 - expected)).sum())


def test_enumeration_equals_a_walk_token_by_token() -> None:
    tokenizer = tiny_tokenizer(["a", "b", "c"])
    model = tiny_llama(len(tokenizer), 8, 1, 2, 16, seed=0).double()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(50)  # from nearly uniform to opinionated
    answers = {"a": ["b", "b c a"], "a b c": ["c c", "a", "b a"]}
    prompts = [Prompt(text=text) for text in answers]
    scores = exact.enumerate_solutions(model, tokenizer, prompts, lambda p: answers[p.text or ""], batch_size=2)
    row = 0
    for index, (text, completions) in enumerate(answers.items()):
        for completion in completions:
            ids, expected, entropies = tokenizer(text)["input_ids"], 1.0, []
            for token in [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]:
                with torch.no_grad():
                    p = model(torch.tensor([ids])).logits[0, -1].softmax(-1).numpy()
                expected *= p[token]
                entropies.append(-(p * np.log(p)).sum())
                ids = [*ids, token]
            assert scores.prompt[row] == index
            assert scores.probability[row] == pytest.approx(expected, rel=1e-9)
            assert scores.mask_NT[row].sum() == len(entropies)
            np.testing.assert_allclose(scores.entropy_NT[row, : len(entropies)], entropies, rtol=1e-9)
            row += 1
    assert row == len(scores.prompt)


def toy(probabilities: list[list[float]], entropies: list[list[list[float]]]) -> exact.Enumeration:
    """Two-token completions; the first token carries all the uncertainty."""
    owner = [i for i, own in enumerate(probabilities) for _ in own]
    flat = [p for own in probabilities for p in own]
    with np.errstate(divide="ignore"):
        logprobs = np.array([[np.log(p), 0.0] for p in flat])
    spread = np.array([row for own in entropies for row in own])
    return exact.Enumeration(np.array(owner), len(probabilities), logprobs, spread, np.ones_like(spread, dtype=bool))


def test_figures_by_hand() -> None:
    low = [0.1, 0.1]
    teacher = toy([[0.5, 0.25], [1.0], [0.0]], [[[0.9, 0.1], [0.9, 1.2]], [[0.8, 0.0]], [low]])
    student = toy([[0.5, 0.0], [0.9], [0.2]], [[[0.7, 0.9], [0.9, 0.9]], [[0.8, 0.0]], [low]])
    np.testing.assert_allclose(exact.pass_at_k(teacher, [1, 2]), [[0.75, 0.9375], [1, 1], [0, 0]])
    np.testing.assert_allclose(exact.coverage(teacher, 2), [(0.75 + 0.4375) / 2, 1, 0])
    # Teacher's branch points and weights: .5 (first), .25 + .25 (second completion, both tokens), 1 (third).
    assert exact.retention(teacher, student) == pytest.approx((0.25 + 0.25 + 1) / (0.5 + 0.25 + 0.25 + 1))
    assert exact.retention(teacher, teacher) == 1
    assert exact.high_entropy_share(teacher, teacher) == pytest.approx(2 / 3.5)
    assert exact.high_entropy_share(teacher, student) == pytest.approx((0.5 + 0.25 + 0.25 + 1) / 3.5)
    assert np.isnan(exact.retention(teacher, student, threshold=5))


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = tiny_llama(20, 8, 1, 1, 16, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, third = tiny_llama(20, 8, 1, 1, 16, seed=5), tiny_llama(20, 8, 1, 1, 16, seed=6)
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("file", ["README.md"])
def test_the_report_is_rendered_from_the_newest_results(file: str, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    results = sorted((root / "benchmarks" / "results").glob("testbed_*.json"))
    code = "import sys, pathlib, testbed_report as r; r.write(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, results[-1], tmp_path / file], check=True, cwd=root / "benchmarks")
    assert (tmp_path / file).read_text() == (root / "reports" / "testbed" / file).read_text()
