"""A Hugging Face causal LM from a local folder: tokenizer, stop ids, and logits cut to the real vocabulary."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from odeval.atomic import hash_files
from odeval.errors import OdevalError
from odeval.types import ModelRef, Prompt, content_hash

_WEIGHTS = ("*.safetensors", "*.bin")


class HfModel:
    """Weights and tokenizer of one model, frozen and in evaluation mode.

    Args:
        path: A folder in Hugging Face format.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        dtype: "float32", "bfloat16", or "auto": float32 on a CPU, the checkpoint's own on a GPU.

    Raises:
        OdevalError: The folder is no model, or its parts do not fit together.
    """

    def __init__(self, path: str | Path, device: str = "auto", dtype: str = "auto") -> None:
        folder = Path(path)
        check_folder(folder)
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        wanted = ("float32" if self.device.type == "cpu" else "auto") if dtype == "auto" else dtype
        self.tokenizer: Any = _load(AutoTokenizer, folder, "its tokenizer cannot be loaded")
        model = _load(AutoModelForCausalLM, folder, "cannot be loaded as a causal language model", dtype=wanted)
        self._adopt(model.to(self.device), str(path))
        self._fingerprint_files = sorted(
            [folder / "config.json", *(file for pattern in _WEIGHTS for file in folder.glob(pattern))]
        )

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
        self.vocab_size = max(self.vocabulary.values()) + 1
        width = model.get_output_embeddings().weight.shape[0]
        if width < self.vocab_size:
            raise OdevalError(
                f"{name}: the tokenizer knows {self.vocab_size} token ids but the model only {width}; "
                "the folder mixes two models"
            )
        self.stop_ids = _stop_ids(model, self.tokenizer)
        self.plain_head = self._head_is_plain()

    def ref(self) -> ModelRef:
        """Name the model for provenance. Reads every weight file once, to hash it."""
        return ModelRef(
            path=self.name,
            fingerprint=hash_files(self._fingerprint_files) if self._fingerprint_files else "",
            vocabulary=hash_vocabulary(self.vocabulary),
            template=content_hash(self.tokenizer.chat_template) if self.tokenizer.chat_template else "",
        )

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids, through the model's own chat template where it has messages.

        Raises:
            OdevalError: There are messages but no template, or nothing is left to condition on.
        """
        if prompt.messages is None:
            ids = self.tokenizer(prompt.text)["input_ids"]
        elif not self.tokenizer.chat_template:
            raise OdevalError(
                f"prompt {prompt.prompt_id}: has messages, but {self.name} has no chat template; give `prompt` instead"
            )
        else:
            text = self.tokenizer.apply_chat_template(
                [dict(turn) for turn in prompt.messages], add_generation_prompt=True, tokenize=False
            )
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise OdevalError(f"prompt {prompt.prompt_id}: is empty after tokenization by {self.name}")
        return [int(i) for i in ids]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of token id sequences, without special tokens."""
        return list(self.tokenizer.batch_decode([list(ids) for ids in sequences], skip_special_tokens=True))

    @torch.no_grad()
    def forward(self, input_ids: torch.Tensor, cache: Any, keep: int = 1) -> torch.Tensor:
        """Return the last position's logits, [B, V] for input [B, T], extending `cache` in place.

        The head runs on the last `keep` positions, so that its matrix product has as many rows as a decoding step's.
        """
        output = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=keep)
        logits: torch.Tensor = output.logits[:, -1, : self.vocab_size]
        return logits

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

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Tell whether our head on the hidden states gives the model's own logits, as it must."""
        ids = torch.arange(min(4, self.vocab_size), device=self.device)[None]
        try:
            hidden = self.model.base_model(ids, use_cache=False)[0]
            logits = self._head(hidden)
        except (AttributeError, TypeError):
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
    check_folder(Path(path))
    found: dict[str, int] = _load(AutoTokenizer, Path(path), "its tokenizer cannot be loaded").get_vocab()
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


def check_folder(folder: Path) -> None:
    if not folder.exists():
        raise OdevalError(
            f"{folder}: no such folder; give a local model folder in Hugging Face format "
            "(fetch one from the hub with `hf download NAME --local-dir FOLDER`)"
        )
    if not (folder / "config.json").is_file():
        raise OdevalError(f"{folder}: no model here (config.json is missing); give a folder in Hugging Face format")


def _load(kind: Any, folder: Path, problem: str, **options: Any) -> Any:
    transformers.utils.logging.disable_progress_bar()  # it would cut into ours
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notices about the checkpoint's age are not the user's concern
            return kind.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # transformers raises many kinds for one thing: this folder does not load
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OdevalError(f"{folder}: {problem}: {reason}") from error


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a completion, from generation config, config and tokenizer."""
    found: set[int] = set()
    for source in (model.generation_config, model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    return frozenset(found)
