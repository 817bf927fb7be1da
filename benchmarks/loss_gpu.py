"""The fused divergence on a GPU, by Triton and by PyTorch, beside its peers: time and peak memory in bfloat16.

    python -m venv peers && peers/bin/pip install torch trl liger-kernel -e .
    peers/bin/python benchmarks/loss_gpu.py [--rounds 10] [--quick]

A call goes from hidden states of both models to the gradients of hidden states and output matrix. "products" are its
four bare matrix products, "odeval_triton" and "odeval_torch" the same call with one kernel and the other, the rest the
peers of loss.py and Liger's Triton kernel. Calls take turns in one process, timed by CUDA events. A ratio is of calls
in the same round: its median, least and largest over rounds. Peak memory is what was allocated beyond the inputs,
gradients included. Writes results/gpu_loss_<hardware>_<yyyymm>.json. There is no result yet: no GPU was at hand.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hardware import hardware, result_path
from loss import BETA, PEERS, Inputs, odeval

from odeval.atomic import write_json
from odeval.provenance import provenance

CASES = [(151_936, 8192, 2048), (32_000, 8192, 4096)]  # vocabulary, tokens, hidden size
NAMES = ["products", "odeval_triton", "odeval_torch", "trl_chunked", "trl_gkd", "liger_triton", "liger_compiled"]


def liger_triton(x: Inputs, kind: str) -> torch.Tensor:
    from liger_kernel.transformers import LigerFusedLinearJSD

    loss: torch.Tensor = LigerFusedLinearJSD(jsd_beta=BETA[kind], accum_dtype=torch.float32)(
        x.hidden, x.weight, x.teacher_hidden, x.teacher_weight, None
    )
    return loss * len(x.hidden)


RUN: dict[str, Callable[[Inputs, str], Any]] = {
    **PEERS,
    "odeval_triton": functools.partial(odeval, kernel="triton"),
    "odeval_torch": functools.partial(odeval, kernel="torch"),
    "liger_triton": liger_triton,
}


def inputs(case: tuple[int, int, int], device: torch.device) -> Inputs:
    x = Inputs(*case)
    for name in ("teacher_hidden", "teacher_weight", "hidden", "weight"):
        moved = getattr(x, name).detach().to(device, torch.bfloat16)
        setattr(x, name, moved.requires_grad_(not name.startswith("teacher")))
    return x


def call(name: str, x: Inputs, kind: str) -> float | None:
    """Run one peer forward and back; its loss, None of the bare products."""
    x.hidden.grad = x.weight.grad = None
    found = RUN[name](x, kind)
    if name == "products":
        return None
    torch.autograd.backward(found)
    return float(found.detach())


def timed(name: str, x: Inputs, kind: str) -> tuple[float, float]:
    """Milliseconds and peak MiB of one call."""
    x.hidden.grad = x.weight.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call(name, x, kind)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end), (torch.cuda.max_memory_allocated() - before) / 2**20


def compare(case: tuple[int, int, int], kind: str, rounds: int, device: torch.device) -> dict[str, Any]:
    x = inputs(case, device)
    losses, failed = {}, {}
    names = [n for n in NAMES if not n.startswith("liger") or kind == "jsd"]
    for name in names:  # the first call loads and compiles
        try:
            losses[name] = call(name, x, kind)
        except Exception as error:  # a peer that does not run here is a result too
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    running = [name for name in names if name not in failed]
    calls: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    for turn in range(rounds):
        for name in running[turn % len(running) :] + running[: turn % len(running)]:
            calls[name].append(timed(name, x, kind))

    def ratio(one: str, other: str) -> dict[str, float]:
        turns = [a / b for (a, _), (b, _) in zip(calls[one], calls[other], strict=True)]
        return {"median": median(turns), "min": min(turns), "max": max(turns)}

    milliseconds = {n: [t for t, _ in done] for n, done in calls.items()}
    ours = "odeval_triton" if "odeval_triton" in running else "odeval_torch"
    row = {
        "vocab": case[0], "tokens": case[1], "hidden": case[2], "kind": kind, "loss": losses, "failed": failed,
        "milliseconds": {n: {"min": min(t), "median": median(t), "max": max(t)} for n, t in milliseconds.items()},
        "peak_mib": {n: max(mib for _, mib in done) for n, done in calls.items()},
        "over_products": {n: ratio(n, "products") for n in running if n != "products"},
        "over_odeval": {n: ratio(n, ours) for n in running if n not in ("products", ours)},
    }  # fmt: skip
    print(f"V {case[0]} N {case[1]} {kind}: "
          + ", ".join(f"{n} {median(t):.1f} ms {row['peak_mib'][n]:.0f} MiB" for n, t in milliseconds.items())
          + "".join(f"; {n} failed: {why}" for n, why in failed.items()), flush=True)  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="the small vocabulary alone")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("loss_gpu.py: torch sees no GPU; benchmarks/loss.py measures on a CPU")
    device = torch.device("cuda", torch.cuda.current_device())
    rows = [
        compare(case, kind, options.rounds, device)
        for case in (CASES[1:] if options.quick else CASES)
        for kind in ("forward_kl", "reverse_kl", "jsd", "blend")
    ]
    packages = {}
    for package in ("torch", "triton", "trl", "liger-kernel"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = None
    told = {"rounds": options.rounds, "hardware": hardware(), "dtype": "bfloat16", "packages": packages}
    made = {**provenance(), "command": " ".join(["python benchmarks/loss_gpu.py", *sys.argv[1:]])}
    path = options.out or result_path("gpu_loss")
    write_json(path, {"what": __doc__, "setting": told, "rows": rows, "provenance": made})
    print(path)


if __name__ == "__main__":
    main()
