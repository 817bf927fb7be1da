"""The embedded engine: any Hugging Face causal LM through its own forward, and a sampling loop of our own.

Against `generate(num_return_sequences=n)` it prefills each prompt once and expands the cache to the completions,
lets finished rows leave the batch, and gives every completion its own random stream. The model's own
`generation_config` supplies stop tokens and nothing else: temperature, top_p and top_k are always ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from odeval.divergence import log_prob
from odeval.engines.hf_model import HfModel
from odeval.engines.sampler import Streams, draw
from odeval.errors import OdevalError
from odeval.types import Completion, Prompt, SamplingParams

_COMPACT_AT = 0.25  # share of finished rows at which copying the cache pays
# With fewer rows a CPU's matrix product sums in another order, logits move by 1e-7, and about one token in a million
# would depend on what else is in the batch. Smaller batches are filled up with copies that are thrown away.
_MIN_ROWS = 16


class HfEngine:
    """Samples completions from one model.

    Args:
        model: A folder, or a model already wrapped.
        device: As in HfModel.
        memory_bytes: What the key-value cache and the logits of one batch may take.
    """

    def __init__(self, model: str | Path | HfModel, device: str = "auto", memory_bytes: int = 2**30) -> None:
        self.model = model if isinstance(model, HfModel) else HfModel(model, device)
        self.memory_bytes = memory_bytes

    def encode(self, prompt: Prompt) -> list[int]:
        return self.model.encode(prompt)

    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> list[list[Completion]]:
        """Draw completions; the same seed gives the same tokens whatever else is in the batch.

        Args:
            prompts: P lists of token ids.
            seeds: For each prompt the seeds of its completions; their number need not be equal.
            params: temperature, top_p, top_k and max_tokens; n and seed are not read here.

        Returns:
            P lists, one Completion per seed, in the order of the seeds.

        Raises:
            OdevalError: A prompt with max_tokens after it does not fit into the model's context.
        """
        self._check_context(max(map(len, prompts)), params.max_tokens)
        results: list[list[Completion | None]] = [[None] * len(own) for own in seeds]
        for batch in self._batches(prompts, seeds, params):
            for (p, s), completion in zip(batch, self._run(prompts, seeds, params, batch), strict=True):
                results[p][s] = completion
        return [[completion for completion in row if completion is not None] for row in results]

    def _batches(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> Iterator[list[tuple[int, int]]]:
        """Cut the work into batches of (prompt, sample) pairs: prompts of one length, within the memory budget."""
        by_length = sorted(range(len(prompts)), key=lambda p: len(prompts[p]))
        for length, group in groupby(by_length, key=lambda p: len(prompts[p])):
            pairs = [(p, s) for p in group for s in range(len(seeds[p]))]
            rows = max(1, self.memory_bytes // self._row_bytes(length + params.max_tokens))
            for start in range(0, len(pairs), rows):
                yield pairs[start : start + rows]

    def _check_context(self, prompt_tokens: int, max_tokens: int) -> None:
        limit = getattr(self.model.model.config.get_text_config(), "max_position_embeddings", None)
        if limit and prompt_tokens + max_tokens > limit:
            raise OdevalError(
                f"{self.model.name}: a prompt of {prompt_tokens} tokens with max_tokens {max_tokens} exceeds its "
                f"{limit} positions; lower --max-tokens to {max(1, limit - prompt_tokens)} or drop the prompt"
            )

    def _row_bytes(self, length: int) -> int:
        """Bytes one completion of this length needs: keys, values, and four vocabulary-wide float64 rows."""
        config = self.model.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        item = next(self.model.model.parameters()).element_size()
        return int(2 * config.num_hidden_layers * heads * width * item * length + 32 * self.model.vocab_size)

    @torch.no_grad()
    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        batch: list[tuple[int, int]],
    ) -> list[Completion]:
        device = self.model.device
        cache: Any = DynamicCache(config=self.model.model.config)
        unique = list(dict.fromkeys(p for p, _ in batch))
        place = {p: i for i, p in enumerate(unique)}
        logits = self._prefill([prompts[p] for p in unique], cache)
        filled = batch + batch[-1:] * (_MIN_ROWS - len(batch))
        expand = torch.tensor([place[p] for p, _ in filled], device=device)
        cache.batch_select_indices(expand)
        logits = logits[expand]

        tokens = np.zeros((len(filled), params.max_tokens), dtype=np.int32)
        logprobs = np.zeros((len(filled), params.max_tokens), dtype=np.float32)
        lengths = np.zeros(len(filled), dtype=np.int64)
        stopped = np.zeros(len(filled), dtype=bool)
        streams = Streams([seeds[p][s] for p, s in filled])
        stop_ids = np.array(sorted(self.model.stop_ids), dtype=np.int64)
        rows = np.arange(len(filled))  # of the results, in the order of the live batch

        for position in range(params.max_tokens):
            chosen = draw(logits, streams.at(position), params.temperature, params.top_p, params.top_k)
            alive = ~stopped[rows]
            drawn = chosen.cpu().numpy()
            tokens[rows[alive], position] = drawn[alive]
            logprobs[rows[alive], position] = log_prob(logits, chosen).cpu().numpy()[alive]
            lengths[rows[alive]] += 1
            stopped[rows] |= np.isin(drawn, stop_ids)
            if position + 1 == params.max_tokens or stopped[rows].all():
                break
            if len(rows) > _MIN_ROWS and stopped[rows].mean() >= _COMPACT_AT:
                # Unfinished rows first; a few finished ones stay where fewer than _MIN_ROWS are left.
                keep = np.sort(np.argsort(stopped[rows], kind="stable")[: max(_MIN_ROWS, (~stopped[rows]).sum())])
                index = torch.from_numpy(keep).to(device)
                cache.batch_select_indices(index)
                streams.keep(keep)
                chosen, rows = chosen[index], rows[keep]
            logits = self.model.forward(chosen[:, None], cache)

        texts = self.model.decode([tokens[row, : lengths[row]] for row in range(len(batch))])
        return [
            Completion(
                token_ids=tokens[row, : lengths[row]],
                text=text,
                finish_reason="stop" if stopped[row] else "length",
                logprobs=logprobs[row, : lengths[row]],
            )
            for row, text in enumerate(texts)
        ]

    def _prefill(self, prompts: Sequence[Sequence[int]], cache: Any) -> torch.Tensor:
        """Fill the cache with prompts of one length, return the logits that follow them, [B, V]."""
        rows = list(prompts) + [prompts[-1]] * (-(-_MIN_ROWS // len(prompts[0])) - len(prompts))
        return self.model.forward(torch.tensor([list(row) for row in rows], device=self.model.device), cache, _MIN_ROWS)
