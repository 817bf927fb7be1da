"""Refresh the README from what is true: tables from results/, outputs by running its own commands.

    python benchmarks/readme.py             # tables and outputs, about a minute on 2 cores
    python benchmarks/readme.py --tables    # tables alone

In README.md a table stands between `<!-- table: NAME -->` and `<!-- end -->`, and a fence ```console holds commands
after `$ `, each followed by what it prints. All commands run one after another in one empty folder; progress (stderr)
is left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from odeval.atomic import read_json, write_text

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the README and what it says is printed."""

    command: str
    output: str


def newest(name: str) -> Any:
    """The most recent results of a benchmark, whatever the hardware."""
    found = sorted(RESULTS.glob(f"{name}_*.json"), key=lambda path: path.stem.rsplit("_", 1)[1])
    if not found:
        raise SystemExit(f"{RESULTS}: no results of {name}; run benchmarks/{name}.py")
    return read_json(found[-1])


def models() -> str:
    """Exact figures of the embedded models, arms as means over seeds."""
    lines = ["| world | model | pass@1 | pass@4 | pass@16 | pass@64 | retention |", "|---|---|---|---|---|---|---|"]
    for world, found in newest("testbed")["worlds"].items():
        start = next(name for name in found["models"] if name != "teacher")
        rows = {name: [found["models"][name]] for name in ("teacher", start)}
        for run in found["runs"]:
            if run["start"] == start:
                rows.setdefault(run["arm"], []).append(run)
        for name, runs in rows.items():
            cells = [mean(run["pass_at_k"][k] for run in runs) for k in ("1", "4", "16", "64")]
            cells.append(mean(run["retention"] for run in runs))
            lines.append(f"| {world} | `{name}` | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return "\n".join(lines)


def calibration() -> str:
    """Verdicts of the gate on simulated truth, a design a row; population scope but for the last column."""
    rows = newest("gate_calibration")["rows"]
    designs = list(dict.fromkeys((row["prompts"], row["samples"]) for row in rows))
    gammas = sorted({row["gamma"] for row in rows})
    found = {(row["prompts"], row["samples"], row["gamma"]): row for row in rows}
    drops = [100 * mean(found[*design, gamma]["worst_drop"] for design in designs) for gamma in gammas]
    heads = [
        "prompts × samples",
        *(f"drop {abs(drop):.1f}" for drop in drops),
        "alarms, population",
        "alarms, benchmark",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for design in designs:
        verdicts = [found[*design, gamma]["population 0.03"] for gamma in gammas]
        cells = [" / ".join(f"{100 * one[word]:.0f}" for word in ("FAIL", "INCONCLUSIVE", "PASS")) for one in verdicts]
        alarms = [f"{100 * found[*design, 1.0][f'{scope} 0.0']['FAIL']:.1f}" for scope in ("population", "benchmark")]
        lines.append(f"| {' × '.join(map(str, design))} | {' | '.join(cells + alarms)} |")
    return "\n".join(lines)


def sampling() -> str:
    """Completion tokens per CPU second beside plain generate."""
    lines = [
        "| prompt tokens | completions | odeval, tokens per CPU s | `generate`, tokens per CPU s | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in newest("sampling")["rows"]:
        ours, theirs = (row["per_cpu_second"][name] for name in ("odeval", "generate"))
        lines.append(
            f"| {row['prompt_tokens']} | {row['completions']} | {ours:,.0f} | {theirs:,.0f} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def agreement() -> str:
    """Other packages on the same inputs, where the quantity is the same."""
    names = {one: one for one in ("pass@k", "pass^k", "G-Pass@k", "self-BLEU")} | {"Vendi, order 1": "Vendi score"}
    for objective in ("forward KL", "reverse KL", "JSD"):
        names |= {f"{objective}, {part}, float64": "losses, gradients" for part in ("loss", "gradient")}
    found: dict[tuple[str, str], list[Any]] = {}
    for package, peer in newest("agreement")["peers"].items():
        first = {row["quantity"]: row for row in reversed(peer["rows"]) if row["quantity"] in names}
        for quantity, row in first.items():
            found.setdefault((names[quantity], f"{package} | {peer['version']}"), []).append(row["difference"])
    lines = ["| quantity | package | version | largest difference |", "|---|---|---|---|"]
    order = list(dict.fromkeys(names.values()))
    for quantity, package in sorted(found, key=lambda one: order.index(one[0])):
        lines.append(f"| {quantity} | {package} | {max(found[quantity, package]):.1e} |")
    return "\n".join(lines)


def loss() -> str:
    """The fused divergence beside its peers, as ratios of CPU time, medians over rounds."""
    peers = ("trl_chunked", "trl_gkd", "liger_compiled", "autograd")
    heads = [
        "vocabulary × tokens × hidden",
        "divergence",
        "over the four bare products",
        *(f"{p} over it" for p in peers),
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in newest("loss")["rows"]:
        ratios = [row["peer_over_odeval"].get(peer) for peer in peers]
        cells = [row["odeval_over_products"]["median"], *(ratio and ratio["median"] for ratio in ratios)]
        shown = ["" if cell is None else f"{cell:.2f}" for cell in cells]
        lines.append(f"| {row['vocab']} × {row['tokens']} × {row['hidden']} | {row['kind']} | {' | '.join(shown)} |")
    return "\n".join(lines)


def scale() -> str:
    """Peak memory against the number of prompts."""
    lines = [
        "| prompts × samples | scored tokens | token tables, peak MB | whole comparison, peak MB |",
        "|---|---|---|---|",
    ]
    found = newest("scale")
    for row in found["runs"]:
        cells = (f"{row['scored_tokens']:,}", str(row["tokens_peak_mb"]), str(row["compare_peak_mb"]))
        lines.append(f"| {row['prompts']:,} × {found['samples']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def machines() -> str:
    """What 10,000 prompts × 256 samples on 8 GPUs are: cut by the sampling stage's rule, counted by odkd's ledger."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from odeval.sampling import prompts_per_part
    from odeval.types import SamplingParams
    from odkd.ledger import shape_of

    prompts, samples, asked, drawn, gpus, rate = 10_000, 256, 200, 500, 8, 1e14
    with torch.device("meta"):  # Qwen2.5-7B by its config.json; no weight is made
        config = Qwen2Config(
            vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
            num_key_value_heads=4, tie_word_embeddings=False,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_config(config)
    shape, run = shape_of(model), (prompts, samples, asked, drawn)
    block = prompts_per_part(SamplingParams(n=samples, max_tokens=512), parallel=256)
    scale = newest("scale")["runs"][-1]
    size = scale["files_mb"] * 2**20 / scale["scored_tokens"]
    tokens = prompts * samples * drawn / 1e9
    sampled, scored = shape.sampling(*run), 4 * shape.scoring(*run)
    parts = f"{-(-prompts // block):,} parts of {block} prompts"
    work = f"{prompts * samples:,} completions, {tokens:.2f}·10⁹ tokens, {parts}"
    both = (
        f"two models on two runs, {2 * tokens:.2f}·10⁹ tokens, about {size * 2 * tokens:.0f} GB with both runs' samples"
    )
    lines = ["| stage | work | FLOPs | hours |", "|---|---|---|---|"]
    for stage, told, flops in (
        ("sample and grade, each model", work, sampled),
        ("score, each student or baseline", both, scored),
        ("audit of one student against teacher and baseline", "3 runs sampled, 2 scored", 3 * sampled + 2 * scored),
    ):
        lines.append(f"| {stage} | {told} | {flops:.1e} | {flops / (gpus * rate * 3600):.0f} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "models": models,
    "calibration": calibration,
    "sampling": sampling,
    "agreement": agreement,
    "loss": loss,
    "scale": scale,
    "machines": machines,
}


def with_tables(text: str) -> str:
    """Replace what stands between the markers of each table."""
    return _TABLE.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


def steps(text: str) -> Iterator[Step]:
    """Every command of the console fences, in order."""
    for block in _CONSOLE.findall(text):
        for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = piece.splitlines()
            end = next(i for i, line in enumerate(lines) if not line.endswith("\\")) + 1
            yield Step("\n".join(lines[:end]), "\n".join(lines[end:]).strip("\n"))


def run(step: Step, folder: Path) -> str:
    """Run a command of the README and return what it prints; any exit code that is no verdict stops."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    python = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PATH": paths, "PYTHONPATH": python, "COLUMNS": "120"}
    done = subprocess.run(step.command, shell=True, cwd=folder, env=variables, capture_output=True, text=True)
    if done.returncode > 1:
        raise RuntimeError(f"{shlex.quote(step.command)} ended with {done.returncode}:\n{done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def with_outputs(text: str) -> str:
    """Run every command in one empty folder and put what it prints under it."""
    with tempfile.TemporaryDirectory() as folder:
        for step in list(steps(text)):
            now = run(step, Path(folder))
            old = f"$ {step.command}\n" + (f"{step.output}\n" if step.output else "")
            assert old in text, step.command
            text = text.replace(old, f"$ {step.command}\n" + (f"{now}\n" if now else ""), 1)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="leave the outputs of commands as they are")
    options = parser.parse_args()
    text = with_tables(README.read_text(encoding="utf-8"))
    write_text(README, text if options.tables else with_outputs(text))


if __name__ == "__main__":
    main()
