"""Attention of completions that share their prompts: each prompt's keys and values are held and read once.

A step attends in two parts, to the prompt's keys by all its completions in one matrix product and to each
completion's own keys, and joins the two by their log-sum-exps. The prompts of a batch may differ in length, for only
the completions' own tokens are laid out in step.

Letters: R completions, H query heads, K key heads, G = H / K, D width of a head, P tokens of a prompt.

Source:
    Juravsky et al. 2024, Hydragen, arXiv 2402.05099, section 3.1, where the two parts are joined as here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache

from odeval.engines.cache import RoomyLayer

NAME = "odeval_prefix"
_ROWS = 16  # queries are filled up to a multiple, or the last of them go through a product that sums in another order
_TOLERANCE, _TOLERANCE_HALF = 1e-3, 0.1  # relative; attention that is not ours is wrong by about 1
_UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring prompts of one length with equally many completions.

    Attributes:
        group: Which of the prefilled caches holds them.
        prompts: Their rows in it.
        count: Completions of each, at least 1.
    """

    group: int
    prompts: slice
    count: int


def spans_of(sizes: Sequence[int], counts: Sequence[int]) -> list[Span]:
    """Lay out completions that stand in the order of their prompts.

    Args:
        sizes: Prompts in each prefilled cache.
        counts: Completions of each prompt, all caches in a row; 0 for a prompt that is done.

    Example:
        >>> [(span.group, span.prompts, span.count) for span in spans_of([2, 2], [8, 8, 0, 3])]
        [(0, slice(0, 2, None), 8), (1, slice(1, 2, None), 3)]
    """
    places = [(group, place) for group, size in enumerate(sizes) for place in range(size)]
    spans = []
    for (group, count), same in groupby(zip(places, counts, strict=True), key=lambda one: (one[0][0], one[1])):
        own = [place for (_, place), _ in same]
        if count:
            spans.append(Span(group, slice(own[0], own[-1] + 1), count))
    return spans


class Layout:
    """Which completions belong to which prompts, and where their queries go.

    Args:
        sizes: Prompts in each prefilled cache.
        counts: Completions of each prompt.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int]) -> None:
        self.spans = spans_of(sizes, counts)
        self._counts = torch.tensor([count for count in counts if count])
        self._places: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def places(self, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which query, of R · G, stands in each place when every prompt's are filled up, and the way back."""
        if groups not in self._places:
            asked = self._counts * groups
            room = -(-asked // _ROWS) * _ROWS
            first, place = asked.cumsum(0) - asked, room.cumsum(0) - room
            within = torch.arange(int(room.sum())) - place.repeat_interleave(room)
            forth = first.repeat_interleave(room) + within.minimum((asked - 1).repeat_interleave(room))
            back = torch.arange(int(asked.sum())) + (place - first).repeat_interleave(asked)
            self._places[groups] = forth, back
        return self._places[groups]


class PrefixLayer(RoomyLayer):
    """The completions' own keys and values, [R, K, T, D]; the prompts' stand beside them.

    Args:
        prefilled: Keys and values of prompts of one length each, [N, K, P, D].
        layout: Which completions belong to which of them.
        longest: Tokens of a completion.
    """

    def __init__(self, prefilled: list[tuple[torch.Tensor, torch.Tensor]], layout: Layout, longest: int) -> None:
        super().__init__(longest)
        self.prefilled, self.layout = prefilled, layout

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().update(key_states, value_states)
        keys.prefix = self  # type: ignore[attr-defined]  # attention is handed these tensors, and nothing else of the cache
        return keys, values


class PrefixCache(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """Cache of the completions of several prompts.

    Args:
        prefilled: Caches of prompts of one length each, as `new_cache` makes them.
        sizes: Prompts in each of them; rows beyond are spare.
        counts: Completions of each prompt.
        longest: Tokens of a completion.
    """

    def __init__(self, prefilled: Sequence[Any], sizes: Sequence[int], counts: Sequence[int], longest: int) -> None:
        super().__init__()
        lengths = [length for cache, size in zip(prefilled, sizes, strict=True) for length in [_length(cache)] * size]
        self._sizes, self._counts, self._lengths = sizes, torch.tensor(counts), torch.tensor(lengths)
        layout = Layout(sizes, counts)
        for same in zip(*(cache.layers for cache in prefilled), strict=True):
            self.layers.append(PrefixLayer([(layer.keys, layer.values) for layer in same], layout, longest))
        self.layer_class_to_replicate = None

    def positions(self) -> torch.Tensor:
        """Where the next token of each completion stands, [R, 1]."""
        starts = self._lengths.repeat_interleave(self._counts)[:, None]
        places: torch.Tensor = starts + self.get_seq_length()
        return places.to(self.layers[0].prefilled[0][0].device)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these completions, [R'], in ascending order."""
        owners = torch.searchsorted(self._counts.cumsum(0), beam_idx.cpu(), right=True)
        self._counts = torch.bincount(owners, minlength=len(self._counts))
        layout = Layout(self._sizes, self._counts.tolist())
        for layer in self.layers:
            layer.layout = layout
        super().reorder_cache(beam_idx)


def _length(cache: Any) -> int:
    return int(cache.layers[0].keys.shape[2])


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """Let a model attend through a PrefixCache for as long as this lasts."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


@torch.no_grad()
def sharing_holds(model: Any) -> bool:
    """Tell whether completions of an HfModel can share their prompts' keys: it is seen to give the same logits."""
    if model.device.type != "cpu":
        return False
    prompts = [torch.arange(length)[None] % model.vocab_size for length in (2, 5)]
    caches = [model.new_cache(8) for _ in prompts]
    if any(type(layer) is not RoomyLayer for cache in caches for layer in getattr(cache, "layers", [None])):
        return False
    token = torch.tensor([[7], [3], [3]])
    try:
        for prompt, cache in zip(prompts, caches, strict=True):
            model.forward(prompt, cache)
        shared = PrefixCache(caches, [1, 1], [2, 1], 2)
        model.forward(token - 1, shared)
        stepped = model.forward(token, shared)
    except Exception:  # whatever an architecture raises, it has its own cache to fall back on
        return False
    tolerance = _TOLERANCE if stepped.dtype.itemsize >= 4 else _TOLERANCE_HALF
    for row, prompt in enumerate((prompts[0], prompts[0], prompts[1])):
        plain = model.new_cache(8)
        model.forward(torch.cat([prompt, token[row : row + 1] - 1], 1), plain)
        alone = model.forward(token[row : row + 1], plain)[0]
        if not (stepped[row] - alone).norm() <= tolerance * (alone - alone.mean()).norm().clamp_min(1e-6):
            return False
    return True


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from queries [R, H, 1, D] to prompts and own keys [R, K, T, D]; returns [R, 1, H, D]."""
    if attention_mask is not None or dropout or any(kwargs.get(name) is not None for name in _UNKNOWN):
        raise NotImplementedError("attention that is more than a softmax over all earlier tokens")
    layer: PrefixLayer = key.prefix  # type: ignore[attr-defined]
    rows, heads, _, width = query.shape
    packed = query.reshape(rows, key.shape[1], -1, width)
    own, own_sum = (part.transpose(1, 2) for part in _with_sum(packed, key, value, scaling))  # [R, G, K, …]
    found, found_sum = _to_prompts(packed, layer, scaling)
    # A softmax of pairs, and no sigmoid or lerp: those treat the elements that do not fill a vector otherwise, so a
    # completion's last bits would depend on how many others there are.
    shares = torch.softmax(torch.stack([own_sum, found_sum.view(own_sum.shape)], -1), -1).to(own.dtype)
    joined = own * shares[..., :1] + found.view(own.shape) * shares[..., 1:]
    return joined.transpose(1, 2).reshape(rows, 1, heads, width), None


def _to_prompts(packed: torch.Tensor, layer: PrefixLayer, scaling: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from [R, K, G, D] to the prompts; returns [R · G, K, D], and the logs of the sums, [R · G, K]."""
    _, kinds, groups, width = packed.shape
    forth, back = layer.layout.places(groups)
    asked = packed.transpose(1, 2).reshape(-1, kinds, width)
    filled = len(forth) > len(asked)
    if filled:
        asked = asked[forth]
    found, sums, start = [], [], 0
    for span in layer.layout.spans:
        keys, values = (tensor[span.prompts] for tensor in layer.prefilled[span.group])
        room = -(-span.count * groups // _ROWS) * _ROWS
        own = asked[start : start + len(keys) * room].view(len(keys), room, kinds, width).transpose(1, 2)
        part, its_sum = _with_sum(own, keys, values, scaling)
        found.append(part.transpose(1, 2).reshape(-1, kinds, width))
        sums.append(its_sum.transpose(1, 2).reshape(-1, kinds))
        start += len(keys) * room
    whole = [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (found, sums)]
    return (whole[0][back], whole[1][back]) if filled else (whole[0], whole[1])


def _with_sum(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [N, K, Q, D], and the log of what its softmax divided by, [N, K, Q].

    The kernel behind torch's scaled_dot_product_attention on a CPU, which keeps the sum back.
    """
    found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scaling)
    return found[0], found[1]


AttentionInterface.register(NAME, _attend)
