"""The exact distribution an engine should sample from: whole passes without a cache. T tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from odeval.divergence import log_softmax
from odeval.engines.hf_model import HfModel
from odeval.engines.sampler import truncated
from odeval.types import Prompt, SamplingParams


class Reference:
    """The model's own word on its tokens, from transformers alone.

    Args:
        model: A folder in Hugging Face format, or a model already wrapped.
        device: As in HfModel.
    """

    def __init__(self, model: str | Path | HfModel, device: str = "auto") -> None:
        self.model = model if isinstance(model, HfModel) else HfModel(model, device)

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids."""
        return self.model.encode(prompt)

    def first_token(self, prompt: Sequence[int], params: SamplingParams) -> np.ndarray:
        """Return the probabilities [V] that the first token of a completion is drawn with."""
        log_probs = self._log_probs(prompt)[-1:]
        probs = truncated(torch.softmax(log_probs / params.temperature, -1), params.top_p, params.top_k)[0]
        return np.asarray((probs / probs.sum()).cpu())

    def logprobs(self, prompt: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """Return the log-probabilities [T] of a completion's tokens at temperature 1."""
        log_probs = self._log_probs([*prompt, *tokens])[len(prompt) - 1 : -1]
        chosen = torch.tensor(list(tokens), device=log_probs.device)
        return np.asarray(log_probs.gather(-1, chosen[:, None])[:, 0].cpu())

    @torch.no_grad()
    def _log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        rows = torch.tensor([list(ids)], device=self.model.device)
        logits = self.model.model(input_ids=rows, use_cache=False).logits[0, :, : self.model.vocab_size]
        return log_softmax(logits)
