"""New weights for a running vLLM: loaded by each of its workers, then proved by a probe. Imported by the workers too.

On a CPU vLLM packs an output matrix that is tied to the embeddings, and a reload leaves the packed copy as it was: the
engine then samples from a mixture of old and new weights, without a word.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError

EXTENSION = "odeval.engines.vllm_sync.Loader"
_TOLERANCE = {"float32": 1e-3}  # nats; other precisions differ between kernels
_ROUGH = 0.1
_PROBED = 5  # likeliest tokens at each position


class Loader:
    """What vLLM adds to each of its workers; `self` is the worker."""

    def odeval_load(self, path: str) -> None:
        """Load a safetensors file of a whole checkpoint into the running model."""
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        with safe_open(path, "pt") as file:
            runner.reload_weights(weights_iterator=((name, file.get_tensor(name)) for name in file.keys()))  # noqa: SIM118
        head = getattr(runner.get_model(), "lm_head", None)
        method: Any = getattr(head, "quant_method", None)
        if hasattr(method, "process_weights_after_loading"):
            method.process_weights_after_loading(head)  # or a tied head keeps the weights it was packed from


def load(llm: Any, model: HfModel) -> None:
    """Give a running vLLM the weights that a model has now.

    Args:
        llm: Opened with EXTENSION.
        model: Of the architecture that `llm` was opened with.
    """
    state = {name: value.detach() for name, value in _weights(model)}
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="odeval-", dir=shared) as folder:
        path = Path(folder) / "model.safetensors"
        save_file({name: value.contiguous().cpu() for name, value in state.items()}, path, {"format": "pt"})
        llm.collective_rpc("odeval_load", args=(str(path),))
    llm.reset_prefix_cache()


def _weights(model: HfModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor once, adapters merged in: of tied ones the first, which is the embedding."""
    adapted = {name: module for name, module in model.model.named_modules() if hasattr(module, "get_delta_weight")}
    seen: set[int] = set()
    for name, value in model.model.state_dict().items():
        if ".lora_" in name or value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        layer, found, rest = name.partition(".base_layer.")
        if found and rest == "weight" and layer in adapted:
            module: Any = adapted[layer]
            value = value + sum(module.get_delta_weight(adapter) for adapter in module.active_adapters)
        yield f"{layer}.{rest}" if found else name, value


def check(engine: Any, model: HfModel, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Compare what engine and model say of the same tokens.

    Args:
        engine: With `top_logprobs`.
        model: With the weights that the engine should have.
        texts: Pairs of prompt ids and completion ids.

    Returns:
        Largest difference of log-probabilities of the likeliest tokens, nats.

    Raises:
        OdevalError: They differ by more than kernels do: the engine has other weights.
    """
    worst = 0.0
    for (prompt, tokens), told in zip(texts, engine.top_logprobs(texts, _PROBED), strict=True):
        ids = torch.tensor([[*prompt, *tokens]], device=model.device)
        with torch.no_grad():
            logits = model.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1, : model.vocab_size]
        likeliest = torch.log_softmax(logits.double(), -1).topk(min(_PROBED, model.vocab_size), -1).values
        worst = max(worst, float(np.abs(told[:, : likeliest.shape[1]] - likeliest.cpu().numpy()).max()))
    allowed = _TOLERANCE.get(engine.describe()["dtype"], _ROUGH)
    if not worst <= allowed:
        raise OdevalError(
            f"vLLM has other weights than {model.name} after they were handed over: log-probabilities differ by "
            f"{worst:.3g} nats, {allowed:g} allowed; sample with the embedded engine"
        )
    return worst
