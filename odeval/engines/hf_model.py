"""A Hugging Face causal LM from a local folder: tokenizer, stop ids, and logits cut to the real vocabulary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from odeval.atomic import hash_files
from odeval.engines.cache import new_cache
from odeval.engines.loading import check_folder, device_named, first_line, load_tokenizer, load_weights, stop_ids
from odeval.engines.prefix import PrefixCache, attending
from odeval.errors import OdevalError
from odeval.fused import Head
from odeval.testbed import model_folder
from odeval.types import ModelRef, Prompt, content_hash

_WEIGHTS = ("*.safetensors", "*.bin")
_CACHE_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # relative; a broken cache is wrong by about 1
_CACHE_TOLERANCE_HALF = 0.2


class HfModel:
    """Weights and tokenizer of one model, frozen and in evaluation mode.

    Args:
        path: A folder in Hugging Face format.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        dtype: "float32", "bfloat16", or "auto": float32 on a CPU, the checkpoint's own on a GPU.

    Raises:
        OdevalError: The folder is no model, its parts do not fit together, or there is no such device.
    """

    def __init__(self, path: str | Path, device: str = "auto", dtype: str = "auto") -> None:
        folder = model_folder(path)
        check_folder(folder)
        self.device = device_named(device)
        wanted = ("float32" if self.device.type == "cpu" else "auto") if dtype == "auto" else dtype
        self.tokenizer: Any = load_tokenizer(folder)
        self._adopt(load_weights(folder, wanted).to(self.device), str(path))
        self._fingerprint_files = self.fingerprint_files(folder)

    @staticmethod
    def fingerprint_files(folder: Path) -> list[Path]:
        """List the files that make a model what it is: configuration and weights."""
        return sorted([folder / "config.json", *(file for pattern in _WEIGHTS for file in folder.glob(pattern))])

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any, name: str = "in memory") -> HfModel:
        """Use a model that is already in memory, such as one that is being trained. Its mode is left alone."""
        self = cls.__new__(cls)
        self.tokenizer, self.device, self._fingerprint_files = tokenizer, model.device, []
        training = model.training
        self._adopt(model, name)
        model.train(training)
        return self

    def _adopt(self, model: Any, name: str) -> None:
        self.model, self.name = model.eval(), name
        self.vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        last = max(self.vocabulary, key=lambda token: self.vocabulary[token])
        self.vocab_size = self.vocabulary[last] + 1
        width = model.get_output_embeddings().weight.shape[0]
        if width < self.vocab_size:
            raise OdevalError(
                f"{name}: the tokenizer knows {self.vocab_size} token ids (the last is {last!r}) but the model only "
                f"{width}; put the tokenizer there that belongs to the weights"
            )
        self.stop_ids = stop_ids(model, self.tokenizer)
        self.plain_head = self._head_is_plain()

    def ref(self) -> ModelRef:
        """Name the model for provenance. Reads every weight file once, to hash it."""
        return ModelRef(
            path=self.name,
            fingerprint=hash_files(self._fingerprint_files) if self._fingerprint_files else "",
            vocabulary=hash_vocabulary(self.vocabulary),
            template=content_hash(self.tokenizer.chat_template) if self.tokenizer.chat_template else "",
        )

    @property
    def max_length(self) -> int | None:
        """Positions the model was made for; None where its configuration names no limit."""
        limit: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit or None

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids, through the model's own chat template where it has messages.

        Raises:
            OdevalError: There are messages but no template, the template refuses them, or nothing is left to
                condition on.
        """
        if prompt.messages is None:
            ids = self._without_end(prompt.text or "")
        elif not self.tokenizer.chat_template:
            raise OdevalError(
                f"prompt {prompt.prompt_id}: has messages, but {self.name} has no chat template; give `prompt` instead"
            )
        else:
            turns = [dict(turn) for turn in prompt.messages]
            try:
                text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            except Exception as error:  # a template is a program of the model's maker, and raises what it likes
                raise OdevalError(
                    f"prompt {prompt.prompt_id}: the chat template of {self.name} refuses its messages: "
                    f"{first_line(error)}"
                ) from error
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise OdevalError(f"prompt {prompt.prompt_id}: is empty after tokenization by {self.name}")
        return [int(i) for i in ids]

    def _without_end(self, text: str) -> list[int]:
        """Tokenize, and drop an end token that the tokenizer adds of its own: a prompt is there to be continued."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        if ids and ids[-1] in self.stop_ids:
            plain = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            added = self._ends(ids) - self._ends(plain)
            return ids[: len(ids) - added]
        return ids

    def _ends(self, ids: Sequence[int]) -> int:
        return next((n for n, token in enumerate(reversed(ids)) if token not in self.stop_ids), len(ids))

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of token id sequences, without special tokens."""
        return list(self.tokenizer.batch_decode([list(ids) for ids in sequences], skip_special_tokens=True))

    def new_cache(self, longest: int) -> Any:
        """Return an empty cache for `forward`, for sequences of at most `longest` tokens."""
        return new_cache(self.model.config, longest)

    @torch.no_grad()
    def forward(self, input_ids: torch.Tensor, cache: Any, keep: int = 1) -> torch.Tensor:
        """Return the last position's logits, [B, V] for input [B, T], extending `cache` in place.

        The head runs on the last `keep` positions, so that its matrix product has as many rows as a decoding step's.
        """
        # Mamba ignores `past_key_values` without a word
        name = "cache_params" if "cache_params" in signature(self.model.forward).parameters else "past_key_values"
        if isinstance(cache, PrefixCache):
            with attending(self.model):
                output = self.model(input_ids, position_ids=cache.positions(), use_cache=True, past_key_values=cache)
        else:
            output = self.model(input_ids=input_ids, use_cache=True, logits_to_keep=keep, **{name: cache})
        logits: torch.Tensor = output.logits[:, -1, : self.vocab_size]
        return logits

    @torch.no_grad()
    def check_cache(self) -> None:
        """Make sure that a step from a cache gives what a pass over the whole sequence gives.

        Raises:
            OdevalError: It does not; sampling would go wrong silently.
        """
        ids = (torch.arange(6, device=self.device) % self.vocab_size)[None]
        training = self.model.training
        self.model.eval()
        try:
            whole = self.model(input_ids=ids, use_cache=False).logits[0, -1, : self.vocab_size].float()
            cache = self.new_cache(ids.shape[1])
            self.forward(ids[:, :-1], cache)
            cache.reorder_cache(torch.zeros(2, dtype=torch.long, device=self.device))
            stepped = self.forward(ids[:, -1:].expand(2, -1), cache)[1].float()
        except Exception as error:  # whatever an architecture raises, it means one thing here
            raise OdevalError(
                f"{self.name}: {type(self.model).__name__} cannot be sampled token by token with this engine "
                f"({first_line(error)})"
            ) from error
        finally:
            self.model.train(training)
        wrong = float((stepped - whole).norm() / (whole - whole.mean()).norm().clamp_min(1e-6))
        if not wrong < _CACHE_TOLERANCE.get(self.model.dtype, _CACHE_TOLERANCE_HALF):
            raise OdevalError(
                f"{self.name}: {type(self.model).__name__} gives other logits with a key-value cache than without "
                f"(relative difference {wrong:.2g}); this engine cannot sample from it"
            )

    @cached_property
    def cache_bytes(self) -> tuple[int, int]:
        """Bytes of cache that a completion needs at once, and for each token of prompt and completion."""
        sizes = []
        for length in (1, 2):
            cache = self.new_cache(length)
            self.forward(torch.zeros((1, length), dtype=torch.long, device=self.device), cache)
            sizes.append(sum(_num_bytes(vars(layer)) for layer in cache.layers))
        return max(0, 2 * sizes[0] - sizes[1]), sizes[1] - sizes[0]

    def hidden(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what `logits_at` turns into logits, [B, T, H]: hidden states, or whole logits if the head is unknown.

        Args:
            input_ids: [B, T], padded on the right.
            mask: [B, T], 0 on padding.
        """
        if self.plain_head:
            hidden: torch.Tensor = self.model.base_model(input_ids, attention_mask=mask, use_cache=False)[0]
            return hidden
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
        return logits

    def logits_at(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """Return logits [N, V] over the real vocabulary; padded rows of the head are cut before any softmax."""
        logits = self._head(hidden_NH) if self.plain_head else hidden_NH
        return logits[:, : self.vocab_size]

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the output matrix and the scalings known from Granite, Cohere and Gemma."""
        logits: torch.Tensor = self.model.get_output_embeddings()(hidden)
        config = self.model.config.get_text_config()
        if divisor := getattr(config, "logits_scaling", None):
            logits = logits / divisor
        if factor := getattr(config, "logit_scale", None):
            logits = logits * factor
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def head(self) -> Head | None:
        """Return the output matrix with its scalings, as `odeval.fused` takes it; None where it is not one matrix."""
        layer = self.model.get_output_embeddings()
        if not self.plain_head or type(layer) is not torch.nn.Linear:
            return None
        config = self.model.config.get_text_config()
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return Head(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None) or None)

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Tell whether our head on the hidden states gives the model's own logits, as it must."""
        ids = torch.arange(min(4, self.vocab_size), device=self.device)[None]
        try:
            hidden = self.model.base_model(ids, use_cache=False)[0]
            logits = self._head(hidden)
        except (AttributeError, TypeError, RuntimeError):
            return False
        whole = self.model(input_ids=ids, use_cache=False).logits
        return logits.shape == whole.shape and torch.allclose(logits, whole, rtol=1e-4, atol=1e-4)


def hash_vocabulary(vocabulary: dict[str, int]) -> str:
    """Hash of the token -> id map, in id order: 16 hex digits."""
    ordered = sorted(vocabulary.items(), key=lambda item: item[1])
    return hashlib.blake2b(json.dumps(ordered).encode(), digest_size=8).hexdigest()


def load_vocabulary(path: str | Path) -> dict[str, int]:
    """Read the token -> id map of a model folder without its weights.

    Raises:
        OdevalError: There is no model, or no tokenizer in it.
    """
    folder = model_folder(path)
    check_folder(folder)
    found: dict[str, int] = load_tokenizer(folder).get_vocab()
    return found


def check_same_vocabulary(teacher: dict[str, int], student: dict[str, int], names: str) -> None:
    """Compare two vocabularies id by id.

    Args:
        teacher: Token -> id.
        student: Token -> id.
        names: Of the two models, for the error.

    Raises:
        OdevalError: They differ; the text names the first ids that do.
    """
    if teacher == student:
        return
    left, right = ({index: token for token, index in v.items()} for v in (teacher, student))
    differing = [i for i in sorted(left.keys() | right.keys()) if left.get(i) != right.get(i)]
    shown = ", ".join(f"{i} ({left.get(i)!r} / {right.get(i)!r})" for i in differing[:3])
    raise OdevalError(
        f"vocabularies of {names} differ at {len(differing)} ids, first {shown}: token scores compare only models with "
        "one vocabulary; audit with a student of the same tokenizer"
    )


def _num_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(map(_num_bytes, value.values())) if isinstance(value, dict) else 0
