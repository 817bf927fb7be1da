"""The embedded engine: any Hugging Face causal LM through its own forward, and a sampling loop of our own.

Against `generate(num_return_sequences=n)` it prefills each prompt once, lets the completions share its keys and values,
lets finished rows leave the batch, and gives every completion its own random stream. The model's own
`generation_config` supplies stop tokens and nothing else: temperature, top_p and top_k are always ours.

Letters: R completions of a batch, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odeval.divergence import log_softmax
from odeval.engines.hf_model import HfModel
from odeval.engines.prefix import PrefixCache, sharing_holds
from odeval.engines.sampler import draw, entropies, uniforms
from odeval.errors import OdevalError
from odeval.types import Completion, ModelRef, Prompt, SamplingParams

_COMPACT_AT = 0.25  # share of rows that must leave for copying the cache to pay
# With fewer rows a CPU's matrix product sums in another order, and the last elements of a tensor that do not fill a
# vector register go through another exp(): logits move by 1e-7, and about one token in a million would depend on what
# else is in the batch. Batches are filled up to a multiple of this with copies that are thrown away.
_ROWS = 16
_SHARES_FROM = 512  # tokens of vocabulary
_LOGITS_BYTES = 40  # per row and token of the vocabulary: float32 logits and four float64 rows of draw()


class HfEngine:
    """Samples completions from one model.

    The same seed gives the same tokens and log-probabilities, bit for bit, whatever else is in the batch: on a CPU
    with one torch thread. On a GPU, in a mixture of experts, or with more threads and layers about 1000 wide, the
    number of rows changes the order in which a product is summed; then a token whose random number falls within 1e-6
    of the boundary to its neighbour may come out as that neighbour.

    A token's log-probability agrees with a pass over the whole sequence within 1e-4 nats in float32 (measured: at
    most 1.1e-5 for state-space models, 4e-6 for 36 other architectures).

    Args:
        model: A folder, or a model already wrapped.
        device: As in HfModel.
        memory_bytes: What the key-value cache and the logits of one batch may take; 16 rows always run.
        share: Hold and read a prompt's keys and values once for all its completions, and decode prompts of different
            lengths together, on a CPU; log-probabilities differ by rounding from those of a cache for each completion.
            By default wherever the model allows it and has 512 tokens or more: the embedded models, whose published
            runs were drawn without, have fewer.

    Raises:
        OdevalError: The folder is no model, or the model cannot decode from a cache, or not from a shared one if told.
    """

    def __init__(
        self, model: str | Path | HfModel, device: str = "auto", memory_bytes: int = 2**30, share: bool | None = None
    ) -> None:
        self.model = model if isinstance(model, HfModel) else HfModel(model, device)
        self.model.check_cache()
        self.memory_bytes = memory_bytes
        wanted = self.model.vocab_size >= _SHARES_FROM if share is None else share
        self.shares = wanted and sharing_holds(self.model)
        if share and not self.shares:
            raise OdevalError(f"{self.model.name}: its attention cannot share a prompt's keys; leave `share` out")

    @property
    def max_length(self) -> int | None:
        """Tokens of prompt and completion together that the model has positions for; None for no limit."""
        return self.model.max_length

    @property
    def parallel(self) -> int:
        """Batches are filled from within a part; nothing waits for its last completion."""
        return 1

    def ref(self) -> ModelRef:
        """Name the weights; reads them once, to hash them."""
        return self.model.ref()

    def describe(self) -> dict[str, Any]:
        """Name the engine, the device and the precision."""
        return {"name": "hf", "device": self.model.device.type, "dtype": str(self.model.model.dtype).split(".")[-1]}

    def limits(self) -> str:
        """There are none."""
        return ""

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids."""
        return self.model.encode(prompt)

    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> list[list[Completion]]:
        """Draw completions.

        Args:
            prompts: P lists of token ids, none of them empty.
            seeds: For each prompt the seeds of its completions; their number need not be equal.
            params: temperature, top_p, top_k and max_tokens; n and seed are not read here.

        Returns:
            P lists, one Completion per seed, in the order of the seeds.

        Raises:
            OdevalError: A prompt with max_tokens after it does not fit into the model's context, or the model gives
                logits that are not finite.
        """
        longest = max(map(len, prompts), default=0)
        if self.max_length is not None and longest + params.max_tokens > self.max_length:
            raise OdevalError(
                f"{self.model.name}: a prompt of {longest} tokens with max_tokens {params.max_tokens} exceeds its "
                f"{self.max_length} positions; lower --max-tokens or drop the prompt"
            )
        results: list[list[Completion | None]] = [[None] * len(own) for own in seeds]
        for batch in self._batches(prompts, seeds, params):
            for (p, s), completion in zip(batch, self._run(prompts, seeds, params, batch), strict=True):
                results[p][s] = completion
        return [[completion for completion in row if completion is not None] for row in results]

    def _batches(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> Iterator[list[tuple[int, int]]]:
        """Cut the work into batches of (prompt, sample) pairs, within the memory budget, the shorter prompts first.

        Prompts of different lengths share a batch only where the prompts' keys are shared.
        """
        constant, per_token = self.model.cache_bytes
        batch: list[tuple[int, int]] = []
        used = 0
        for p in sorted(range(len(prompts)), key=lambda p: len(prompts[p])):
            held = per_token * len(prompts[p])
            row = constant + per_token * params.max_tokens + _LOGITS_BYTES * self.model.vocab_size
            row += 0 if self.shares else held
            if batch and not self.shares and len(prompts[batch[-1][0]]) != len(prompts[p]):
                yield batch
                batch, used = [], 0
            used += held if self.shares else 0
            for s in range(len(seeds[p])):
                if batch and len(batch) % _ROWS == 0 and used + _ROWS * row > self.memory_bytes:
                    yield batch
                    batch, used = [], held if self.shares else 0
                batch.append((p, s))
                used += row
        if batch:
            yield batch

    @torch.no_grad()
    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        batch: list[tuple[int, int]],
    ) -> list[Completion]:
        filled = batch + batch[-1:] * (_round_up(len(batch)) - len(batch))
        cache, logits = self._begin(prompts, Counter(p for p, _ in filled), params.max_tokens)

        tokens: Any = np.zeros((len(filled), params.max_tokens), dtype=np.int32)
        logprobs, entropy = (np.zeros(tokens.shape, dtype=np.float32) for _ in range(2))
        lengths = np.zeros(len(filled), dtype=np.int64)
        stopped = np.zeros(len(filled), dtype=bool)
        own_seeds = np.array([seeds[p][s] for p, s in filled], dtype=np.uint64)
        stop_ids = np.array(sorted(self.model.stop_ids), dtype=np.int64)
        rows = np.arange(len(filled))  # of the results, in the order of the live batch

        for position in range(params.max_tokens):
            log_probs = log_softmax(logits)
            random = uniforms(own_seeds[rows], position)
            chosen = draw(log_probs, random, params.temperature, params.top_p, params.top_k)
            drawn, scored = chosen.cpu().numpy(), log_probs.gather(-1, chosen[:, None])[:, 0].cpu().numpy()
            if not np.isfinite(scored).all():
                raise OdevalError(
                    f"{self.model.name}: gives logits that are not finite; its weights are damaged, or too large for "
                    f"{self.model.model.dtype}"
                )
            alive = ~stopped[rows]
            tokens[rows[alive], position] = drawn[alive]
            logprobs[rows[alive], position] = scored[alive]
            entropy[rows[alive], position] = entropies(log_probs).cpu().numpy()[alive]
            lengths[rows[alive]] += 1
            stopped[rows] |= np.isin(drawn, stop_ids)
            if position + 1 == params.max_tokens or stopped[rows].all():
                break
            size = _round_up(int((~stopped[rows]).sum()))
            if size <= (1 - _COMPACT_AT) * len(rows):
                # Unfinished rows first; some finished ones stay to make up the number.
                keep = np.sort(np.argsort(stopped[rows], kind="stable")[:size])
                index = torch.from_numpy(keep).to(self.model.device)
                cache.reorder_cache(index)
                chosen, rows = chosen[index], rows[keep]
            logits = self.model.forward(chosen[:, None], cache)

        texts = self.model.decode([tokens[row, : lengths[row]] for row in range(len(batch))])
        return [
            Completion(
                token_ids=tokens[row, : lengths[row]],
                text=text,
                finish_reason="stop" if stopped[row] else "length",
                logprobs=logprobs[row, : lengths[row]],
                prompt_token_ids=prompts[batch[row][0]],
                entropies=entropy[row, : lengths[row]],
            )
            for row, text in enumerate(texts)
        ]

    def _begin(
        self, prompts: Sequence[Sequence[int]], counts: Counter[int], max_tokens: int
    ) -> tuple[Any, torch.Tensor]:
        """Return a batch's cache, `counts[p]` rows for prompt p in that order, and the logits [R, V] that follow."""
        caches, logits, sizes = [], [], []
        for length, group in groupby(counts, key=lambda p: len(prompts[p])):
            same = [prompts[p] for p in group]
            caches.append(self.model.new_cache(length + max_tokens))
            logits.append(self._prefill(same, caches[-1])[: len(same)])
            sizes.append(len(same))
        rows = torch.tensor(list(counts.values()), device=self.model.device)
        expand = torch.arange(len(counts), device=self.model.device).repeat_interleave(rows)
        if self.shares:
            return PrefixCache(caches, sizes, list(counts.values()), max_tokens), torch.cat(logits)[expand]
        caches[0].reorder_cache(expand)
        return caches[0], logits[0][expand]

    def _prefill(self, prompts: Sequence[Sequence[int]], cache: Any) -> torch.Tensor:
        """Fill the cache with prompts of one length, return the logits that follow them, [R, V].

        Body and head get at least _ROWS rows, as in a decoding step: rows of prompts, or positions of a prompt. One
        more row takes the end of every tensor, where it does not fill a vector register.
        """
        count, length = len(prompts), len(prompts[0])
        keep = -(-_ROWS // count)
        spare = int(count * length % _ROWS > 0 or count * keep % _ROWS > 0)
        rows = list(prompts) + [prompts[-1]] * max(spare, -(-_ROWS // length) - count)
        return self.model.forward(torch.tensor([list(row) for row in rows], device=self.model.device), cache, keep)


def _round_up(rows: int) -> int:
    return -(-rows // _ROWS) * _ROWS
