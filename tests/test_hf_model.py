"""Model folders: what loads, what is refused in one line, and what the model's own files decide."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, EOS, VOCAB, WORDS, network, tiny
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from odeval.engines.hf_model import HfModel, check_same_vocabulary, hash_vocabulary, load_vocabulary
from odeval.errors import OdevalError
from odeval.tasks.worlds import SPECIALS
from odeval.testbed.build import tiny_tokenizer
from odeval.types import Prompt


@pytest.fixture
def folder(teacher_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(teacher_folder, tmp_path / "model"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_tensor(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.down_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_folder_loads_frozen_in_float32_and_its_name_says_which(folder: Path) -> None:
    model = HfModel(folder)
    assert not model.model.training
    assert model.model.dtype == torch.float32
    first = model.ref()
    assert first.path == str(folder)
    assert first.vocabulary == hash_vocabulary(load_vocabulary(folder)) != hash_vocabulary({"a": 0})
    assert first.template == ""
    drop = load_file(folder / "model.safetensors")
    drop["model.norm.weight"][0] += 1e-3
    save_file(drop, folder / "model.safetensors", metadata={"format": "pt"})
    assert HfModel(folder).ref().fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (shutil.rmtree, "model: no such folder; give a local model folder .* `hf download NAME"),
        (lambda f: (f / "config.json").unlink(), r"model: no model here \(config.json is missing"),
        (
            lambda f: (f / "config.json").rename(f / "adapter_config.json"),
            r"model: no model here \(an adapter alone; merge it into its base model",
        ),
        (lambda f: (f / "config.json").write_text("{"), "model: its tokenizer cannot be loaded: "),
        (lambda f: edit_json(f / "config.json", model_type="nosuch"), "model: cannot be loaded as a causal .*nosuch"),
        (
            lambda f: edit_json(f / "config.json", model_type="vit"),
            "model: cannot be loaded as a causal language model",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), "model: its tokenizer cannot be loaded: "),
        (
            lambda f: (f / "model.safetensors").unlink(),
            "model: cannot be loaded as a causal language model: .*safetensors",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"x" * 99),
            "model: cannot be loaded as a causal language model",
        ),
        (
            drop_tensor,
            "model: the weights of 1 parameters are missing, first model.layers.0.mlp.down_proj.weight; give a folder",
        ),
        (lambda f: edit_json(f / "config.json", hidden_size=32), "model: cannot be loaded as a causal language model"),
        (
            lambda f: tiny_tokenizer([f"x{i}" for i in range(500)]).save_pretrained(f),
            r"model: the tokenizer knows 504 token ids \(the last is 'x499'\) but the model only 245; put",
        ),
    ],
)
def test_what_is_no_model_gets_one_line(folder: Path, damage: Callable[[Path], object], text: str) -> None:
    damage(folder)
    with pytest.raises(OdevalError, match=text) as caught:
        HfModel(folder)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_gets_one_line(folder: Path) -> None:
    with pytest.raises(OdevalError, match=r"device 'gpu': is not here \(.*\); use cpu, cuda or auto"):
        HfModel(folder, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(OdevalError, match=r"device 'cuda': is not here \(.*\); use cpu, cuda or auto"):
            HfModel(folder, device="cuda")


def test_stop_ids_come_from_all_three_places() -> None:
    model = network()
    model.config.eos_token_id = 5
    model.generation_config = GenerationConfig(eos_token_id=[6, 7])
    assert HfModel.wrap(model, tiny_tokenizer(WORDS)).stop_ids == {EOS, 5, 6, 7}
    model.config.eos_token_id, model.generation_config.eos_token_id = None, None
    tokenizer = tiny_tokenizer(WORDS)
    tokenizer.eos_token = None
    assert HfModel.wrap(model, tokenizer).stop_ids == set()


def test_wrapping_leaves_a_model_in_training() -> None:
    model = network().train()
    wrapped = HfModel.wrap(model, tiny_tokenizer(WORDS))
    wrapped.check_cache()
    assert model.training
    assert wrapped.ref().fingerprint == ""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_states_and_our_head_give_the_models_own_logits(architecture: str) -> None:
    """Softcap, scale and divisor included; where we do not know a head, whole logits stand in for hidden states."""
    model = tiny(architecture)
    ids = torch.arange(4, 28).reshape(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    with torch.no_grad():
        ours = model.logits_at(model.hidden(ids, mask)[mask.bool()])
        own = model.model(input_ids=ids, use_cache=False).logits[mask.bool()]
    assert model.plain_head
    torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)


def test_a_head_that_is_not_known_is_left_to_the_model() -> None:
    model = network("llama")
    plain = model.lm_head.forward
    model.lm_head.forward = lambda hidden: plain(hidden) ** 3  # no attribute of the configuration says so
    model.config.logits_scaling = 2.0
    wrapped = HfModel.wrap(model, tiny_tokenizer(WORDS))
    assert not wrapped.plain_head
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        found = wrapped.logits_at(wrapped.hidden(ids, torch.ones_like(ids))[0])
        torch.testing.assert_close(found, model(input_ids=ids).logits[0])


def test_padded_rows_of_the_head_are_cut() -> None:
    """A head is often wider than the vocabulary; its spare rows would take mass from the real tokens."""
    model = network("llama")
    model.resize_token_embeddings(VOCAB + 32)
    wrapped = HfModel.wrap(model, tiny_tokenizer(WORDS))
    assert wrapped.vocab_size == VOCAB
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        assert wrapped.logits_at(wrapped.hidden(ids, torch.ones_like(ids))[0]).shape == (16, VOCAB)
        assert wrapped.forward(ids, wrapped.new_cache(16)).shape == (1, VOCAB)


def test_messages_go_through_the_models_own_template() -> None:
    tokenizer = tiny_tokenizer(WORDS)
    prompt = Prompt(messages=({"role": "user", "content": "w1 w2"},), id="q")
    plain = HfModel.wrap(network(), tokenizer, "m")
    with pytest.raises(OdevalError, match="prompt q: has messages, but m has no chat template; give `prompt` instead"):
        plain.encode(prompt)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "<bos> w9 {{ m.content }} {% endfor %}{% if add_generation_prompt %}w8{% endif %}"
    )
    model = HfModel.wrap(network(), tokenizer, "m")
    first = len(SPECIALS)
    assert model.encode(prompt) == [1, first + 9, first + 1, first + 2, first + 8], "one <bos>, the template's"
    assert model.ref().template != ""
    with pytest.raises(OdevalError, match="prompt s: the chat template of m refuses its messages: no system role"):
        model.encode(Prompt(messages=({"role": "system", "content": "w1"},), id="s"))


def test_a_prompt_that_is_nothing_gets_one_line() -> None:
    tokenizer = tiny_tokenizer(WORDS)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(OdevalError, match="prompt blank: is empty after tokenization by m"):
        HfModel.wrap(network(), tokenizer, "m").encode(Prompt(text="  ", id="blank"))


def test_an_end_token_that_the_tokenizer_adds_is_dropped() -> None:
    """After it the model would begin something new, and every completion would answer no question."""
    tokenizer = tiny_tokenizer(WORDS)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", EOS)]
    )
    model = HfModel.wrap(network(), tokenizer)
    assert model.encode(Prompt(text="w0 w1")) == [1, 4, 5]
    assert model.encode(Prompt(text="w0 <eos>")) == [1, 4, EOS], "this one the user wrote"


def test_vocabularies_are_compared_id_by_id() -> None:
    one = {"a": 0, "b": 1, "c": 2, "d": 3}
    check_same_vocabulary(one, dict(reversed(one.items())), "t / s")
    with pytest.raises(
        OdevalError,
        match=r"vocabularies of t / s differ at 3 ids, first 1 \('b' / 'x'\), 2 \('c' / 'b'\), 4 \(None / 'e'\): ",
    ):
        check_same_vocabulary(one, {"a": 0, "x": 1, "b": 2, "d": 3, "e": 4}, "t / s")


def test_cache_bytes_are_measured() -> None:
    """Two layers of keys and values: 1 head of 16 floats, and states that do not grow."""
    assert tiny("llama").cache_bytes == (0, 2 * 2 * 16 * 4)
    constant, per_token = tiny("mamba").cache_bytes
    assert constant > 0
    assert per_token == 0


def test_positions() -> None:
    assert tiny("llama").max_length == 128
    assert tiny("gpt2").max_length == 128
    assert tiny("mamba").max_length is None
