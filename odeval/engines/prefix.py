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
_TOLERANCE = 0.02  # relative; bfloat16 rounds to 0.004, and a layer that attends otherwise is wrong by about 1
_UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring prompts of one length with equally many completions.

    Attributes:
        group: Which of the prefilled caches holds them.
        prompts: Their rows in it.
        count: Completions of each, at least 1.
        rows: The completions' rows in the batch.
    """

    group: int
    prompts: slice
    count: int
    rows: slice


def spans_of(sizes: Sequence[int], counts: Sequence[int]) -> list[Span]:
    """Lay out completions that stand in the order of their prompts.

    Args:
        sizes: Prompts in each prefilled cache.
        counts: Completions of each prompt, all caches in a row; 0 for a prompt that is done.

    Example:
        >>> [(span.group, span.prompts, span.rows) for span in spans_of([2, 2], [8, 8, 0, 3])]
        [(0, slice(0, 2, None), slice(0, 16, None)), (1, slice(1, 2, None), slice(16, 19, None))]
    """
    places = [(group, place) for group, size in enumerate(sizes) for place in range(size)]
    spans, row = [], 0
    for (group, count), same in groupby(zip(places, counts, strict=True), key=lambda one: (one[0][0], one[1])):
        own = [place for (_, place), _ in same]
        if count:
            rows = slice(row, row + count * len(own))
            spans.append(Span(group, slice(own[0], own[-1] + 1), count, rows))
            row = rows.stop
    return spans


class PrefixLayer(RoomyLayer):
    """The completions' own keys and values, [R, K, T, D]; the prompts' stand beside them.

    Args:
        prefilled: Keys and values of prompts of one length each, [N, K, P, D].
        spans: Which completions belong to which of them.
        longest: Tokens of a completion.
    """

    def __init__(self, prefilled: list[tuple[torch.Tensor, torch.Tensor]], spans: Sequence[Span], longest: int) -> None:
        super().__init__(longest)
        self.prefilled, self.spans = prefilled, spans

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
        spans = spans_of(sizes, counts)
        for same in zip(*(cache.layers for cache in prefilled), strict=True):
            self.layers.append(PrefixLayer([(layer.keys, layer.values) for layer in same], spans, longest))
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
        spans = spans_of(self._sizes, self._counts.tolist())
        for layer in self.layers:
            layer.spans = spans
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
    for row, prompt in enumerate((prompts[0], prompts[0], prompts[1])):
        plain = model.new_cache(8)
        model.forward(torch.cat([prompt, token[row : row + 1] - 1], 1), plain)
        alone = model.forward(token[row : row + 1], plain)[0]
        if not (stepped[row] - alone).norm() <= _TOLERANCE * (alone - alone.mean()).norm().clamp_min(1e-6):
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
    own, own_sum = _with_sum(packed, key, value, scaling)
    shared, shared_sum = torch.empty_like(own), torch.empty_like(own_sum)
    for span in layer.spans:
        keys, values = (tensor[span.prompts] for tensor in layer.prefilled[span.group])
        found, its_sum = _with_sum(_by_prompt(packed[span.rows], span.count), keys, values, scaling)
        shared[span.rows] = _by_completion(found, span.count, packed.shape[2])
        shared_sum[span.rows] = _by_completion(its_sum[..., None], span.count, packed.shape[2])[..., 0]
    # A softmax of pairs, and no sigmoid or lerp: those treat the elements that do not fill a vector otherwise, so a
    # completion's last bits would depend on how many others there are.
    shares = torch.softmax(torch.stack([own_sum, shared_sum], -1), -1).to(own.dtype)
    joined = own * shares[..., :1] + shared * shares[..., 1:]
    return joined.reshape(rows, 1, heads, width), None


def _by_prompt(packed: torch.Tensor, count: int) -> torch.Tensor:
    """[N · count, K, G, D] → [N, K, count · G or more, D]."""
    _, kinds, groups, width = packed.shape
    asked = packed.reshape(-1, count, kinds, groups, width).transpose(1, 2).reshape(-1, kinds, count * groups, width)
    missing = -count * groups % _ROWS
    return asked if not missing else torch.cat([asked, asked[:, :, -1:].expand(-1, -1, missing, -1)], 2)


def _by_completion(found: torch.Tensor, count: int, groups: int) -> torch.Tensor:
    """[N, K, count · G or more, D] → [N · count, K, G, D]."""
    prompts, kinds, _, width = found.shape
    kept = found[:, :, : count * groups].reshape(prompts, kinds, count, groups, width)
    return kept.transpose(1, 2).reshape(-1, kinds, groups, width)


def _with_sum(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [N, K, Q, D], and the log of what its softmax divided by, [N, K, Q].

    The kernel behind torch's scaled_dot_product_attention on a CPU, which keeps the sum back.
    """
    found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scaling)
    return found[0], found[1]


AttentionInterface.register(NAME, _attend)
