"""Write a model where `from_pretrained` finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from odeval.errors import OdevalError


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save weights, config, generation config and tokenizer in Hugging Face format.

    Raises:
        OdevalError: The folder cannot be written.
    """
    noisy = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # one bar per save would bury the loop's own
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise OdevalError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from error
    finally:
        if noisy:
            transformers_logging.enable_progress_bar()
