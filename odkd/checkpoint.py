"""Everything a run needs to go on, written whole or not at all; and a model where `from_pretrained` finds it.

    output_dir/checkpoint-000100/
      state.pt        weights that are trained, optimizer, the teacher's completions, ledger, probes
      settings.json   the configuration it belongs to

All randomness of a run is a function of (seed, step), so there is no generator whose state could be forgotten. A
checkpoint is written when the loss of its step is known to be finite: there is always a good state to return to.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from odeval.atomic import read_json, write_json
from odeval.errors import OdevalError
from odkd.config import TrainConfig

# What may differ between a checkpoint and the run that goes on from it: nothing that moves the weights.
_FREE = {"output_dir", "device", "save_steps", "report_to", "early_stopping_patience"}


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


def write_checkpoint(out: Path, step: int, state: dict[str, Any], config: TrainConfig) -> Path:
    """Write the state before a step, then delete older ones.

    Args:
        out: output_dir.
        step: Updates that are done.
        state: Tensors and plain values.
        config: It belongs to.

    Returns:
        The new folder.

    Raises:
        OdevalError: The folder cannot be written.
    """
    target, temporary = out / f"checkpoint-{step:06d}", out / f".checkpoint-{os.getpid()}.tmp"
    try:
        for leftover in out.glob(".checkpoint-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        torch.save(state, temporary / "state.pt")
        write_json(temporary / "settings.json", config.model_dump())
        if target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
    except (OSError, RuntimeError) as error:
        raise OdevalError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from error
    for older in checkpoints(out)[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    return target


def checkpoints(out: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted(path for path in out.glob("checkpoint-*") if (path / "settings.json").is_file())


def read_checkpoint(folder: Path, config: TrainConfig) -> tuple[int, dict[str, Any]]:
    """Read a checkpoint back.

    Args:
        folder: From `checkpoints`.
        config: Of the run that wants to go on.

    Returns:
        Updates done, and the state.

    Raises:
        OdevalError: It belongs to another configuration, or is damaged.
    """
    check_same(folder, config)
    try:
        state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise OdevalError(f"{folder}: damaged ({str(error).splitlines()[0]}); delete it") from error
    return int(folder.name.rpartition("-")[2]), state


def check_same(folder: Path, config: TrainConfig) -> None:
    """Make sure that what lies in a folder belongs to a configuration.

    Args:
        folder: Holds settings.json.
        config: Of the run that wants to go on. Where the learning rate does not depend on it, max_steps may have grown.

    Raises:
        OdevalError: It does not; the text names the first setting that differs.
    """
    old, new = read_json(folder / "settings.json"), config.model_dump(mode="json")
    for name in sorted(new.keys() | old.keys()):
        if name in _FREE or old.get(name) == new.get(name):
            continue
        longer = name == "max_steps" and isinstance(old.get(name), int) and new[name] > old[name]
        if longer and config.lr_scheduler_type.startswith("constant") and not config.phases:
            continue  # it takes the same steps first
        raise OdevalError(
            f"{folder}: is of another configuration ({name} was {old.get(name)!r}, now {new.get(name)!r}); choose "
            "another output_dir, or delete this one"
        )
