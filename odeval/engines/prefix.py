"""Attention of completions that share their prompts: each prompt's keys and values are held and read once.

A step attends in two parts, to the prompt's keys by all its completions in one matrix product and to each
completion's own keys, and joins the two by their log-sum-exps. The prompts of a batch may differ in length, for only
the completions' own tokens are laid out in step; those of about one length lie in one tensor, masked behind their ends.

Letters: R completions, H query heads, K key heads, G = H / K, D width of a head, P tokens of a prompt, N prompts.

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
_LENGTHS = 32  # a prompt is filled up to a multiple, whatever else is there: the last bits depend on the width
_TOLERANCE, _TOLERANCE_HALF = 1e-3, 0.1  # relative; attention that is not ours is wrong by about 1
_UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of prompts of about one length.

    Attributes:
        keys: [N, K, P, D].
        values: [N, K, P, D].
        mask: [N, 1, 1, P], 0 on a prompt's tokens and −inf behind them.
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor

    @staticmethod
    def of(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Prefix:
        """Put keys and values [n, K, P, D] of prompts of one length each into one."""
        width = _filled(max(keys.shape[2] for keys, _ in parts), _LENGTHS)
        like, total = parts[0][0], sum(len(keys) for keys, _ in parts)
        both = [like.new_zeros((total, like.shape[1], width, like.shape[3])) for _ in range(2)]
        mask = like.new_full((total, 1, 1, width), -torch.inf)
        start = 0
        for part in parts:
            count, _, length, _ = part[0].shape
            for whole, own in zip(both, part, strict=True):
                whole[start : start + count, :, :length] = own
            mask[start : start + count, ..., :length] = 0
            start += count
        return Prefix(both[0], both[1], mask)


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring prompts that are asked equally many queries.

    Attributes:
        group: Which of the prefixes holds them.
        prompts: Their rows in it.
        room: Queries of each, filled up.
    """

    group: int
    prompts: slice
    room: int


def spans_of(sizes: Sequence[int], counts: Sequence[int], groups: int) -> list[Span]:
    """Lay out completions that stand in the order of their prompts.

    Args:
        sizes: Prompts in each prefix.
        counts: Completions of each prompt, all prefixes in a row; 0 for a prompt that is done.
        groups: G, queries of a completion.

    Example:
        >>> [(span.group, span.prompts, span.room) for span in spans_of([2, 2], [8, 7, 0, 30], 1)]
        [(0, slice(0, 2, None), 16), (1, slice(1, 2, None), 32)]
    """
    places = [(group, place) for group, size in enumerate(sizes) for place in range(size)]
    rooms = [_filled(count * groups, _ROWS) for count in counts]
    spans = []
    for (group, room), same in groupby(zip(places, rooms, strict=True), key=lambda one: (one[0][0], one[1])):
        own = [place for (_, place), _ in same]
        if room:
            spans.append(Span(group, slice(own[0], own[-1] + 1), room))
    return spans


def _filled(count: int, step: int) -> int:
    return -(-count // step) * step


class Layout:
    """Which completions belong to which prompts, and where their queries go.

    Args:
        sizes: Prompts in each prefix.
        counts: Completions of each prompt.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int]) -> None:
        self._sizes, self._counts = sizes, counts
        self._plans: dict[int, tuple[list[Span], torch.Tensor, torch.Tensor]] = {}

    def plan(self, groups: int) -> tuple[list[Span], torch.Tensor, torch.Tensor]:
        """Return the spans, which query of R · G stands in each place when every prompt's are filled up, and back."""
        if groups not in self._plans:
            spans = spans_of(self._sizes, self._counts, groups)
            asked = groups * torch.tensor([count for count in self._counts if count])
            room = torch.tensor([span.room for span in spans for _ in range(span.prompts.start, span.prompts.stop)])
            first, place = asked.cumsum(0) - asked, room.cumsum(0) - room
            within = torch.arange(int(room.sum())) - place.repeat_interleave(room)
            forth = first.repeat_interleave(room) + within.minimum((asked - 1).repeat_interleave(room))
            back = torch.arange(int(asked.sum())) + (place - first).repeat_interleave(asked)
            self._plans[groups] = spans, forth, back
        return self._plans[groups]


class PrefixLayer(RoomyLayer):
    """The completions' own keys and values, [R, K, T, D]; the prompts' stand beside them.

    Args:
        prefixes: Of the prompts.
        layout: Which completions belong to which of them.
        longest: Tokens of a completion.
    """

    def __init__(self, prefixes: list[Prefix], layout: Layout, longest: int) -> None:
        super().__init__(longest)
        self.prefixes, self.layout = prefixes, layout

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
        lengths = [int(cache.layers[0].keys.shape[2]) for cache in prefilled]
        self._lengths = torch.tensor(lengths).repeat_interleave(torch.tensor(sizes))
        alike = [list(own) for _, own in groupby(range(len(sizes)), key=lambda i: _filled(lengths[i], _LENGTHS))]
        self._sizes, self._counts = [sum(sizes[i] for i in own) for own in alike], torch.tensor(counts)
        layout = Layout(self._sizes, counts)
        for same in zip(*(cache.layers for cache in prefilled), strict=True):
            parts = [(layer.keys[:size], layer.values[:size]) for layer, size in zip(same, sizes, strict=True)]
            self.layers.append(PrefixLayer([Prefix.of([parts[i] for i in own]) for own in alike], layout, longest))
        self.layer_class_to_replicate = None

    def positions(self) -> torch.Tensor:
        """Where the next token of each completion stands, [R, 1]."""
        starts = self._lengths.repeat_interleave(self._counts)[:, None]
        places: torch.Tensor = starts + self.get_seq_length()
        return places.to(self.layers[0].prefixes[0].keys.device)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these completions, [R'], in ascending order."""
        owners = torch.searchsorted(self._counts.cumsum(0), beam_idx.cpu(), right=True)
        self._counts = torch.bincount(owners, minlength=len(self._counts))
        layout = Layout(self._sizes, self._counts.tolist())
        for layer in self.layers:
            layer.layout = layout
        super().reorder_cache(beam_idx)


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
    spans, forth, back = layer.layout.plan(groups)
    asked = packed.transpose(1, 2).reshape(-1, kinds, width)
    filled = len(forth) > len(asked)
    if filled:
        asked = asked[forth]
    found, sums, start = [], [], 0
    for span in spans:
        prefix = layer.prefixes[span.group]
        keys, values, mask = (tensor[span.prompts] for tensor in (prefix.keys, prefix.values, prefix.mask))
        stop = start + len(keys) * span.room
        own = asked[start:stop].view(len(keys), span.room, kinds, width).transpose(1, 2)
        part, its_sum = _with_sum(own, keys, values, scaling, mask)
        found.append(part.transpose(1, 2).reshape(-1, kinds, width))
        sums.append(its_sum.transpose(1, 2).reshape(-1, kinds))
        start = stop
    whole = [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (found, sums)]
    return (whole[0][back], whole[1][back]) if filled else (whole[0], whole[1])


def _with_sum(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [N, K, Q, D], and the log of what its softmax divided by, [N, K, Q].

    The kernel behind torch's scaled_dot_product_attention on a CPU, which keeps the sum back.
    """
    found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=mask, scale=scaling)
    return found[0], found[1]


AttentionInterface.register(NAME, _attend)
