"""A key-value cache that grows in place. transformers copies the whole cache for each token it appends."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens: at least this many, or a quarter of what is there, are made room for at a time


def new_cache(config: Any, longest: int) -> Any:
    """Return an empty cache of the kinds of layer a model needs; `reorder_cache` picks rows in all kinds.

    Args:
        config: Of the model.
        longest: Tokens of prompt and completion together; no room is made beyond.
    """
    cache = DynamicCache(config=config)
    # States of fixed size, sliding windows and shared layers keep their own kinds.
    cache.layers = [RoomyLayer(longest) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = partial(RoomyLayer, longest)
    return cache


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values as views of larger buffers, [B, heads, capacity, width], that new tokens are written into.

    `keys` and `values` hold what they hold in any DynamicLayer. What replaces them, such as `reorder_cache`, leaves
    the buffers behind, and the next token makes new ones.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self._longest = longest
        self._buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        length = self.keys.shape[-2]
        total = length + key_states.shape[-2]
        ours = bool(self._buffers) and self._buffers[0].data_ptr() == self.keys.data_ptr()
        if not ours or total > self._buffers[0].shape[-2]:
            capacity = max(total, min(total + max(_ROOM, total // 4), self._longest))
            self._buffers = [_with_room(old, capacity) for old in (self.keys, self.values)]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, length:total] = new
        self.keys, self.values = (buffer[:, :, :total] for buffer in self._buffers)
        return self.keys, self.values


def _with_room(old: torch.Tensor, capacity: int) -> torch.Tensor:
    buffer = old.new_empty((*old.shape[:2], capacity, old.shape[3]))
    buffer[:, :, : old.shape[2]] = old
    return buffer
