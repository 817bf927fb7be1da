"""Shared by all tests: one thread, no network, and a tiny teacher and student in Hugging Face format."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported, and inherited by every subprocess.
os.environ.update(
    {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
)
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")):
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's kernels run on a CPU; read when Triton is imported


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the graph_paths vocabulary; its weights are random."""
    return _folder(tmp_path_factory, "teacher", seed=1)


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model over the teacher's vocabulary."""
    return _folder(tmp_path_factory, "student", seed=2)


def _folder(factory: pytest.TempPathFactory, name: str, seed: int) -> Path:
    from tiny_models import save_tiny

    return save_tiny(factory.mktemp("models") / name, seed=seed)
