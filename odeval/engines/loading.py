"""Loading a model folder: everything that can be wrong with one ends in one line that says so."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from odeval.errors import OdevalError


def check_folder(folder: Path) -> None:
    """Make sure there is something to load.

    Raises:
        OdevalError: There is not.
    """
    if not folder.exists():
        raise OdevalError(
            f"{folder}: no such folder; give a local model folder in Hugging Face format "
            "(fetch one from the hub with `hf download NAME --local-dir FOLDER`)"
        )
    if not (folder / "config.json").is_file():
        what = "an adapter alone; merge it into its base model and save that"
        if not (folder / "adapter_config.json").is_file():
            what = "config.json is missing; give a folder in Hugging Face format"
        raise OdevalError(f"{folder}: no model here ({what})")


def device_named(name: str) -> torch.device:
    """Find a device.

    Args:
        name: "cpu", "cuda", "cuda:1" …, or "auto" for a GPU where there is one.

    Raises:
        OdevalError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OdevalError(f"device '{name}': is not here ({first_line(error)}); use cpu, cuda or auto") from error
    return device


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder.

    Raises:
        OdevalError: There is none, or it is damaged.
    """
    return _load(AutoTokenizer, folder, "its tokenizer cannot be loaded")


def load_weights(folder: Path, dtype: str) -> Any:
    """Load the causal language model of a folder.

    Raises:
        OdevalError: It cannot be loaded, or parts of it are missing.
    """
    problem = "cannot be loaded as a causal language model"
    model, found = _load(AutoModelForCausalLM, folder, problem, dtype=dtype, output_loading_info=True)
    # transformers fills in what a checkpoint lacks with random numbers, and only warns
    if absent := sorted(found["missing_keys"]):
        raise OdevalError(
            f"{folder}: the weights of {len(absent)} parameters are missing, first {absent[0]}; "
            "give a folder with a whole causal language model"
        )
    return model


def _load(kind: Any, folder: Path, problem: str, **options: Any) -> Any:
    transformers.utils.logging.disable_progress_bar()  # it would cut into ours
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notices about the checkpoint's age are not the user's concern
            return kind.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # transformers raises many kinds for one thing: this folder does not load
        raise OdevalError(f"{folder}: {problem}: {first_line(error)}") from error


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a completion, from generation config, config and tokenizer."""
    found: set[int] = set()
    for source in (model.generation_config, model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    return frozenset(found)


def first_line(error: BaseException) -> str:
    """Return an error's text up to the first line break; its kind where it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
