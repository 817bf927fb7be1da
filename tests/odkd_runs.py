"""A small student, settings for a short run, and what a run leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from odeval.tasks import graph_paths
from odeval.testbed import checkpoint
from odeval.testbed.build import tiny_llama, tiny_tokenizer
from odkd.checkpoint import save
from odkd.loggers import rows_of


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    if not (tmp_path / "student").exists():
        make_student(tmp_path / "student")
    return {
        "model_name_or_path": str(tmp_path / "student"),
        "teacher_model_name_or_path": str(checkpoint("graph_paths", "teacher")),
        "dataset_name": "graph_paths",
        "output_dir": str(tmp_path / "out"),
        "learning_rate": 1e-2,
        "max_steps": 12,
        "per_device_train_batch_size": 32,
        "max_completion_length": 8,
        "seed": 7,
        "device": "cpu",
        **changes,
    }


def make_student(folder: Path) -> None:
    tokenizer = tiny_tokenizer(graph_paths.vocabulary())
    save(tiny_llama(len(tokenizer), 12, 1, 1, 36, seed=3), tokenizer, folder)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return rows_of(folder / "log.jsonl")


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()
