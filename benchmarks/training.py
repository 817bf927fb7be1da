"""odkd beside `trl.DistillationTrainer`: one process, same models, batch and lengths; and what watching costs.

    python benchmarks/training.py             # needs trl; about 5 minutes on one core

Losses: TRL's own loss function and ours on one batch, for forward KL, JSD and reverse KL. Throughput, in turns: CPU
seconds of a whole update (roll out, score, step), which a busy neighbour disturbs less than wall time. Memory: how far
the resident set grows over its size before, at its peak. Diagnostics: their share of the CPU time of an update. Without
trl the last part alone. Writes results/training_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from hardware import hardware, result_path
from transformers import LlamaConfig, LlamaForCausalLM

from odeval.atomic import write_json
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.provenance import provenance
from odeval.testbed.build import tiny_tokenizer
from odkd import diagnostics
from odkd.checkpoint import save
from odkd.config import make_config
from odkd.diagnostics import Twins
from odkd.ledger import Ledger
from odkd.models import Pair
from odkd.ranks import Ranks
from odkd.rollout import Rollouts, training_prompts
from odkd.train import train
from odkd.update import accumulate, positions

VOCAB, PROMPT, LENGTH, BATCH = 4096, 16, 64, 8


def build(folder: Path) -> None:
    """Two random models whose completions seldom end, and prompts of one length."""
    tokenizer = tiny_tokenizer([f"w{i}" for i in range(VOCAB - 4)], 1024)
    for name, width, layers, seed in (("student", 128, 2, 0), ("teacher", 256, 4, 1), ("deep", 320, 8, 2)):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCAB, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, pad_token_id=0, bos_token_id=1,
            eos_token_id=2, initializer_range=0.1,
        )  # fmt: skip
        save(LlamaForCausalLM(config), tokenizer, folder / name)
    rows = [
        {"prompt": " ".join(f"w{(7 * p + i) % (VOCAB - 4)}" for i in range(PROMPT - 1)), "answer": ""}
        for p in range(64)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def settings(folder: Path, out: str, **changes: Any) -> dict[str, Any]:
    return {
        "model_name_or_path": str(folder / "student"), "teacher_model_name_or_path": str(folder / "teacher"),
        "dataset_name": str(folder / "prompts.jsonl"), "output_dir": str(folder / out), "learning_rate": 1e-4,
        "per_device_train_batch_size": BATCH, "max_completion_length": LENGTH, "device": "cpu", "save_steps": 10**6,
        "max_steps": 1, "seed": 0, **changes,
    }  # fmt: skip


def losses(folder: Path) -> list[dict[str, Any]]:
    """Both libraries' losses of one batch."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    rows = []
    for beta, name in ((0.0, "forward_kl"), (0.5, "jsd"), (1.0, "reverse_kl")):
        config = make_config(settings(folder, "loss", objective=name, **({"beta": beta} if name == "jsd" else {})))
        pair = Pair(config, "cpu")
        engines = [HfEngine(model) for model in (pair.student, pair.teacher)]
        batches = Rollouts(engines[0], engines[1], training_prompts(config.dataset_name), config).at(0)
        twins = Twins(0.8, pair.student.device)
        accumulate(pair, batches, config, Ranks(), twins, Ledger())
        own = twins.row(Ranks())["loss"]
        at = positions(batches[0], pair.student.device)
        hidden = [model.model.base_model(at.ids, attention_mask=at.mask)[0] for model in (pair.student, pair.teacher)]
        heads = [model.model.get_output_embeddings().weight for model in (pair.student, pair.teacher)]
        theirs = _chunked_divergence_loss(hidden[0], hidden[1], heads[0], heads[1], at.predicting, beta)[0].item()
        rows.append(
            {"objective": name, "trl_beta": beta, "odkd": own, "trl": theirs, "relative": abs(own - theirs) / theirs}
        )
        print(f"{name:11} odkd {own:.7f}  trl {theirs:.7f}  relative {rows[-1]['relative']:.1e}", flush=True)
    return rows


def peak_above(function: Any) -> tuple[Any, int]:
    """Run, and tell by how many bytes the resident set grew at its peak."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _resident("VmRSS")
    result = function()
    return result, _resident("VmHWM") - before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def ours(folder: Path, steps: int, seed: int) -> dict[str, float]:
    stamps: list[float] = []
    tokens: list[int] = []

    def watch(row: dict[str, Any], total: int) -> None:
        stamps.append(time.process_time())
        tokens.append(row["tokens"])

    with tempfile.TemporaryDirectory() as out:
        config = make_config(settings(folder, "x", max_steps=steps, seed=seed) | {"output_dir": f"{out}/run"})
        _, grown = peak_above(lambda: train(config, watch))
    return {"seconds": (stamps[-1] - stamps[0]) / (steps - 1), "tokens": sum(tokens[1:]) / (steps - 1), "bytes": grown}


def theirs(folder: Path, steps: int, seed: int) -> dict[str, float]:
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DistillationConfig, DistillationTrainer

    stamps: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
            stamps.append(time.process_time())

    prompts = [json.loads(line)["prompt"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
    with tempfile.TemporaryDirectory() as out:
        config = DistillationConfig(
            output_dir=out, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-4, use_cpu=True,
            bf16=False, max_completion_length=LENGTH, report_to=[], save_strategy="no", seed=seed,
            gradient_checkpointing=False, disable_tqdm=True, logging_steps=1, beta=1.0, top_k=0, top_p=1.0,
        )  # fmt: skip

        def run() -> Any:
            trainer = DistillationTrainer(
                model=AutoModelForCausalLM.from_pretrained(folder / "student", dtype="float32"),
                teacher_model=AutoModelForCausalLM.from_pretrained(folder / "teacher", dtype="float32"),
                args=config,
                train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in prompts]),
                processing_class=AutoTokenizer.from_pretrained(folder / "student"),
                callbacks=[Clock()],
            )
            trainer.train()
            return trainer.state.log_history

        log, grown = peak_above(run)
    lengths = [row["completions/mean_length"] for row in log if "completions/mean_length" in row]
    tokens = BATCH * sum(lengths[1:]) / (steps - 1)
    return {"seconds": (stamps[-1] - stamps[0]) / (steps - 1), "tokens": tokens, "bytes": grown}


def watching(folder: Path, steps: int) -> list[dict[str, Any]]:
    """Share of the diagnostics in the CPU time of an update."""
    spent = 0.0

    def timed(function: Any) -> Any:
        def inner(*arguments: Any) -> Any:
            nonlocal spent
            started = time.process_time()
            try:
                return function(*arguments)
            finally:
                spent += time.process_time() - started

        return inner

    names = ("look", "add_scores", "row")
    kept = [getattr(diagnostics.Twins, name) for name in names], diagnostics.glance
    for name, function in zip(names, kept[0], strict=True):
        setattr(diagnostics.Twins, name, timed(function))
    diagnostics.glance = timed(kept[1])
    rows = []
    cases: dict[str, dict[str, Any]] = {
        "2 layers of 128, vocabulary 4096": settings(folder, "x"),
        "2 layers of 128, vocabulary 4096, through logits": settings(folder, "x", fused=False),
        "8 layers of 320, vocabulary 4096": settings(folder, "x") | {"model_name_or_path": str(folder / "deep")},
    }
    for world, length, batch in (("countdown", 19, 32), ("graph_paths", 8, 128)):
        cases[f"embedded {world}"] = settings(folder, "x") | {
            "model_name_or_path": f"embedded:{world}/warm_start", "dataset_name": world,
            "max_completion_length": length, "teacher_model_name_or_path": f"embedded:{world}/teacher",
            "per_device_train_batch_size": batch,
        }  # fmt: skip
    try:
        for case, given in cases.items():
            stamps: list[tuple[float, float]] = []
            with tempfile.TemporaryDirectory() as out:
                config = make_config(given | {"output_dir": f"{out}/run", "max_steps": steps})
                train(config, lambda row, total, seen=stamps: seen.append((time.process_time(), spent)))  # type: ignore[misc]
            (start, before), (end, after) = stamps[1], stamps[-1]
            share = (after - before) / (end - start)
            rows.append({"case": case, "milliseconds_per_update": 1e3 * (end - start) / (steps - 2), "share": share})
            print(f"diagnostics, {case}: {share:.1%} of {rows[-1]['milliseconds_per_update']:.0f} ms", flush=True)
    finally:
        for name, function in zip(names, kept[0], strict=True):
            setattr(diagnostics.Twins, name, function)
        diagnostics.glance = kept[1]
    return rows


def beside(folder: Path, steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Both trainers in turns; medians over rounds."""
    found: dict[str, list[dict[str, float]]] = {"odkd": [], "trl": []}
    for seed in range(rounds + 1):
        for name, function in (("odkd", ours), ("trl", theirs)):
            row = function(folder, steps, seed)
            if seed:  # the first round loads code
                found[name].append(row)
    summary = {}
    for name, rows in found.items():
        own = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        summary[name] = own | {"tokens_per_second": statistics.median(row["tokens"] / row["seconds"] for row in rows)}
        rate, mib = summary[name]["tokens_per_second"], own["bytes"] / 2**20
        cost = f"{own['seconds'] * 1e3:.0f} ms of CPU an update of {own['tokens']:.0f} tokens"
        print(f"{name:5} {cost}, {rate:.0f} tokens/s, {mib:.0f} MiB", flush=True)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="updates of a run; the first is not timed")
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turns; the median counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"setting": {**vars(options), "hardware": hardware(), "vocabulary": VOCAB, "batch": BATCH,
                                          "prompt_tokens": PROMPT, "completion_tokens": LENGTH}}  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build(folder)
        sizes = {name: HfModel(folder / name, "cpu").model for name in ("student", "teacher", "deep")}
        result["parameters"] = {name: sum(p.numel() for p in model.parameters()) for name, model in sizes.items()}
        del sizes
        result["diagnostics"] = watching(folder, 2 * options.steps)
        if importlib.util.find_spec("trl") is None:
            print("trl is not installed: nothing to compare with", file=sys.stderr)
        else:
            from importlib.metadata import version

            warnings.simplefilter("ignore")
            result["trl"] = version("trl")
            result["losses"] = losses(folder)
            result["trainers"] = beside(folder, options.steps, options.rounds)
    path = result_path("training")
    command = " ".join(["python benchmarks/training.py", *sys.argv[1:]])
    write_json(path, {**result, "provenance": {**provenance(), "command": command}})
    print(path)


if __name__ == "__main__":
    main()
