"""Completions that share their prompts' keys: the same attention, fewer passes, and one seed one completion."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_hf_engine import PARAMS, PROMPTS, SEEDS, counted, tokens
from tiny_models import ARCHITECTURES, SHARING, tiny
from transformers import LlamaConfig, LlamaForCausalLM

from odeval.engines import prefix
from odeval.engines.cache import new_cache
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.engines.prefix import PrefixCache, _attend, attending, sharing_holds
from odeval.errors import OdevalError
from odeval.testbed.build import tiny_tokenizer

LENGTHS, COUNTS = ([3, 3], [1], [32], [33], [40]), [2, 5, 0, 9, 1, 17]  # a prompt is filled up to 32, or to 64


def cache_of(kinds: int, width: int) -> tuple[PrefixCache, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A cache of one layer over six prompts, and the keys and values of each prompt."""
    prefilled, prompts = [], []
    for lengths in LENGTHS:
        cache = new_cache(SimpleNamespace(get_text_config=lambda **_: LlamaConfig(num_hidden_layers=1)), 50)
        # one row more than there are prompts: prefilling fills up its batch
        keys, values = (torch.randn(len(lengths) + 1, kinds, lengths[0], width) for _ in range(2))
        cache.update(keys, values, 0)
        prefilled.append(cache)
        prompts.extend((keys[i], values[i]) for i in range(len(lengths)))
    return PrefixCache(prefilled, [len(lengths) for lengths in LENGTHS], COUNTS, 10), prompts


@pytest.mark.parametrize(("heads", "kinds", "width"), [(4, 4, 8), (9, 3, 16)])
def test_attention_is_that_over_prompt_and_completion(heads: int, kinds: int, width: int) -> None:
    """Against softmax(q kᵀ · scale) v in float64 over the keys in a row; rows leave between the steps."""
    torch.manual_seed(0)
    cache, prompts = cache_of(kinds, width)
    owners = np.repeat(np.arange(6), COUNTS)
    own: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in owners]
    for step in range(6):
        rows = len(owners)
        query = torch.randn(rows, heads, 1, width)
        new = [torch.randn(rows, kinds, 1, width) for _ in range(2)]
        found, _ = _attend(torch.nn.Identity(), query, *cache.update(*new, 0), None, scaling=0.3)
        for row in range(rows):
            own[row].append((new[0][row], new[1][row]))
            pairs = [prompts[owners[row]], *own[row]]
            keys, values = (torch.cat([pair[side] for pair in pairs], 1).double() for side in (0, 1))
            for head in range(heads):
                kind = head // (heads // kinds)
                weights = (keys[kind] @ query[row, head, 0].double() * 0.3).softmax(0)
                torch.testing.assert_close(found[row, 0, head].double(), weights @ values[kind], rtol=1e-5, atol=1e-6)
        lengths = torch.tensor([prompts[owner][0].shape[1] for owner in owners])
        assert torch.equal(cache.positions()[:, 0], lengths + step + 1)
        if step in (1, 3):
            keep = [row for row in range(rows) if row % 4 != step]
            cache.reorder_cache(torch.tensor(keep))
            owners, own = owners[keep], [own[row] for row in keep]


def test_what_is_no_plain_softmax_is_refused() -> None:
    cache, _ = cache_of(2, 8)
    new = cache.update(*(torch.randn(16, 2, 1, 8) for _ in range(2)), 0)
    query = torch.randn(16, 2, 1, 8)
    for more in ({"softcap": 3.0}, {"sliding_window": 4}, {"dropout": 0.1}):
        with pytest.raises(NotImplementedError):
            _attend(torch.nn.Identity(), query, *new, None, **more)
    with pytest.raises(NotImplementedError):
        _attend(torch.nn.Identity(), query, *new, torch.ones(1))


def test_models_that_cannot_share_are_told_apart() -> None:
    """Local attention, capped attention, and states without keys decode from caches of their own."""
    assert {name for name in ARCHITECTURES if sharing_holds(tiny(name))} == set(SHARING)
    with pytest.raises(OdevalError, match="gemma2: its attention cannot share a prompt's keys; leave `share` out"):
        HfEngine(tiny("gemma2"), share=True)
    model = tiny("llama")
    model.model.bfloat16()
    assert sharing_holds(model), "whose rounding is no other attention"
    assert not HfEngine(tiny("llama")).shares, "too few tokens for it to be the default"


def test_the_models_own_attention_is_put_back() -> None:
    model = tiny("llama").model
    before = model.config._attn_implementation
    with attending(model):
        assert model.config._attn_implementation != before
    assert model.config._attn_implementation == before
    with pytest.raises(ZeroDivisionError), attending(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == before


def test_sharing_or_not_the_tokens_are_the_same() -> None:
    shared, apart = (HfEngine(tiny("llama"), share=share).sample(PROMPTS, SEEDS, PARAMS) for share in (True, False))
    assert tokens(shared) == tokens(apart)


def test_prompts_of_all_lengths_decode_together() -> None:
    """Four lengths are prefilled one by one, then every step is one pass; without sharing each length has its own."""
    steps = {}
    for share in (True, False):
        engine = HfEngine(tiny("llama"), share=share)
        engine.model.stop_ids = frozenset()
        passes = counted(engine)
        engine.sample(PROMPTS, SEEDS, PARAMS)
        steps[share] = sum(length == 1 for _, length in passes) - 1  # one prompt is a single token
    assert steps == {True: PARAMS.max_tokens - 1, False: 4 * (PARAMS.max_tokens - 1)}


@pytest.mark.parametrize(
    ("lengths", "counts", "calls"),
    [([5, 9, 32], [4, 4, 4], 1), ([5, 9, 33], [4, 4, 4], 2), ([5, 9, 32], [4, 4, 17], 2), ([5, 9, 32], [4, 0, 4], 2)],
)
def test_prompts_of_about_one_length_are_attended_to_at_once(
    lengths: list[int], counts: list[int], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = tiny("llama"), list[int]()
    caches = [model.new_cache(40) for _ in lengths]
    for length, cache in zip(lengths, caches, strict=True):
        model.forward(torch.arange(length)[None] % model.vocab_size, cache)
    cache = PrefixCache(caches, [1, 1, 1], counts, 2)
    inner = prefix._with_sum
    monkeypatch.setattr(prefix, "_with_sum", lambda *args: seen.append(len(args[0])) or inner(*args))
    model.forward(torch.ones((sum(counts), 1), dtype=torch.long), cache)
    layers = len(cache.layers)
    assert len(seen) == layers * (1 + calls), "one for the completions' own keys"
    assert sum(seen) == layers * (sum(counts) + sum(count > 0 for count in counts))


def test_one_seed_is_one_completion_where_nothing_fills_a_vector() -> None:
    """Nine heads on three: 16 completions are no multiple of two vectors, which sigmoid and exp round differently."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600, hidden_size=144, intermediate_size=96, num_hidden_layers=3, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(6 if parameter.dim() == 2 else 1)
    engine = HfEngine(HfModel.wrap(network, tiny_tokenizer([f"w{i}" for i in range(596)], 128)))
    assert engine.shares
    company = engine.sample(PROMPTS, SEEDS, PARAMS)
    assert len({tuple(t) for own in tokens(company) for t in own}) > 20
    for prompt, seeds, answers in zip(PROMPTS, SEEDS, company, strict=True):
        alone = engine.sample([prompt], [seeds[::-1]], PARAMS)[0][::-1]
        for left, right in zip(alone, answers, strict=True):
            assert np.array_equal(left.token_ids, right.token_ids)
            assert np.array_equal(left.logprobs, right.logprobs)
