"""The key-value cache that grows in place."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny
from transformers import DynamicCache

from odeval.engines import cache
from odeval.engines.cache import new_cache
from odeval.engines.hf import HfEngine
from odeval.types import SamplingParams


def test_a_cache_that_grows_in_place_holds_what_any_cache_holds() -> None:
    """Every update against concatenation, with rows leaving and the buffers filling up in between."""
    ours, plain = new_cache(ARCHITECTURES["llama"](), longest=400), DynamicCache(config=ARCHITECTURES["llama"]())
    torch.manual_seed(0)
    rows = 5
    for step in range(300):
        tokens_now = 3 if step % 50 == 0 else 1
        new = [torch.randn(rows, 1, tokens_now, 16) for _ in range(2)]
        for layer in range(2):
            for left, right in zip(ours.update(*new, layer), plain.update(*new, layer), strict=True):
                assert torch.equal(left, right)
        if step in (0, 70, 71, 200):
            index = torch.randint(rows, (rows - 1 if step else 5,))
            rows = len(index)
            ours.reorder_cache(index)
            plain.reorder_cache(index)
        assert ours.get_seq_length() == plain.get_seq_length()
    assert ours.layers[0]._buffers[0].shape[-2] <= 400


def test_the_cache_is_not_copied_for_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    with_room = cache._with_room
    monkeypatch.setattr(cache, "_with_room", lambda old, capacity: copies.append(capacity) or with_room(old, capacity))
    engine = HfEngine(tiny("llama"))
    engine.model.stop_ids = frozenset()
    copies.clear()
    engine.sample([[1, 5, 9]], [list(range(16))], SamplingParams(n=1, max_tokens=120))
    assert copies == [68] * 4 + [123] * 4, "two layers of keys and values, for 120 tokens"
