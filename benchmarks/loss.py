"""The fused divergence beside its peers: CPU time in one process in turns, peak memory in a process each.

    python -m venv peers && peers/bin/pip install torch==2.13.0 trl liger-kernel -e .
    peers/bin/python benchmarks/loss.py [--rounds 3] [--quick]

A call goes from hidden states of both models to the gradients of hidden states and output matrix, in float32 on one
thread. "products" are its four bare matrix products, which no formulation avoids. TRL's chunked kernel and GKD loss
take one divergence at a time, so their blend is two calls; "autograd" is the formula on full logits. Compiled Liger
runs where torch.compile works. A ratio is of calls in the same round: its median, least and largest over rounds.
Writes results/loss_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hardware import hardware, result_path

from odeval.atomic import write_json
from odeval.fused import Head, Kind, fused_divergence
from odeval.provenance import provenance

BETA = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}
CASES: list[tuple[tuple[int, int, int], list[str]]] = [  # (vocabulary, tokens, hidden size), peers
    ((32_000, 512, 1024),
     ["products", "odeval", "odeval_recompute", "trl_chunked", "trl_gkd", "autograd", "liger_compiled"]),
    ((151_936, 256, 1024), ["products", "odeval", "trl_chunked"]),
]  # fmt: skip
MEMORY = [
    (151_936, 1024, "jsd", {"odeval": (512, 4096)}),
    (32_000, 1024, "jsd", {"odeval": (512, 2048, 4096), "trl_gkd": (2048,), "trl_chunked": (2048,)}),
]
Call = Callable[[], object]


class Inputs:
    """Two models that are near one another, as a student and its teacher are."""

    def __init__(self, vocab: int, tokens: int, hidden: int) -> None:
        torch.manual_seed(0)
        self.teacher_hidden = torch.randn(tokens, hidden)
        self.teacher_weight = torch.randn(vocab, hidden) * 2 / hidden**0.5
        self.hidden = self.teacher_hidden + 0.2 * torch.randn(tokens, hidden)
        self.weight = self.teacher_weight + 0.1 * torch.randn(vocab, hidden) / hidden**0.5
        self.hidden.requires_grad_()
        self.weight.requires_grad_()


def products(x: Inputs, kind: str) -> object:
    with torch.no_grad():
        logits = x.hidden @ x.weight.T
        teacher = x.teacher_hidden @ x.teacher_weight.T
        return logits @ x.weight, logits.T @ x.hidden, teacher


def odeval(x: Inputs, kind: str, **options: Any) -> torch.Tensor:
    loss = fused_divergence(
        x.hidden, Head(x.weight), x.teacher_hidden, Head(x.teacher_weight), Kind(kind), **options
    ).loss
    return loss.sum()


def trl_chunked(x: Inputs, kind: str) -> torch.Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def one(beta: float) -> torch.Tensor:
        parts = x.hidden, x.weight, None, x.teacher_hidden, x.teacher_weight, None
        loss: torch.Tensor = ChunkedDivergenceFunction.apply(*parts, beta)[0]
        return loss.sum()

    return (one(0.0) + one(1.0)) / 2 if kind == "blend" else one(BETA[kind])


def trl_gkd(x: Inputs, kind: str) -> torch.Tensor:
    from trl.experimental.gkd import GKDTrainer

    student, teacher = x.hidden @ x.weight.T, (x.teacher_hidden @ x.teacher_weight.T).detach()
    one = functools.partial(GKDTrainer.generalized_jsd_loss, student[None], teacher[None], reduction="sum")
    return (one(beta=0.0) + one(beta=1.0)) / 2 if kind == "blend" else one(beta=BETA[kind])


def autograd(x: Inputs, kind: str) -> torch.Tensor:
    log_q = (x.hidden @ x.weight.T).log_softmax(-1)
    log_p = (x.teacher_hidden @ x.teacher_weight.T).detach().log_softmax(-1)
    q, p = log_q.exp(), log_p.exp()
    if kind == "jsd":
        log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
        return 0.5 * ((p * (log_p - log_m)).sum() + (q * (log_q - log_m)).sum())
    d = log_q - log_p
    if kind == "blend":
        return 0.5 * ((q - p) * d).sum()
    return (q * d).sum() if kind == "reverse_kl" else -(p * d).sum()


@functools.cache
def liger_loss() -> Any:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    return LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5)


def liger_compiled(x: Inputs, kind: str) -> torch.Tensor:
    labels = torch.zeros(len(x.hidden), dtype=torch.long, device=x.hidden.device)
    loss: torch.Tensor = liger_loss()(x.hidden, x.weight, x.teacher_hidden, x.teacher_weight, labels)
    return loss * len(x.hidden)


PEERS: dict[str, Callable[[Inputs, str], Any]] = {
    "products": products,
    "odeval": odeval,
    "odeval_recompute": functools.partial(odeval, recompute=True),
    "trl_chunked": trl_chunked,
    "trl_gkd": trl_gkd,
    "autograd": autograd,
    "liger_compiled": liger_compiled,
}


def call(name: str, x: Inputs, kind: str) -> float | None:
    """Run one peer forward and back; its loss, None of the bare products."""
    x.hidden.grad = x.weight.grad = None
    found = PEERS[name](x, kind)
    if name == "products":
        return None
    torch.autograd.backward(found)
    return float(found.detach())


def compare(case: tuple[int, int, int], kind: str, rounds: int, names: list[str]) -> dict[str, Any]:
    x = Inputs(*case)
    losses, failed = {}, {}
    for name in names:  # the first call loads and compiles
        try:
            losses[name] = call(name, x, kind)
        except Exception as error:  # a peer that does not run here is a result too
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    running = [name for name in names if name not in failed]
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for turn in range(rounds):
        for name in running[turn % len(running) :] + running[: turn % len(running)]:
            start = time.process_time()
            call(name, x, kind)
            seconds[name].append(time.process_time() - start)

    def ratio(one: str, other: str) -> dict[str, float]:
        turns = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
        of_mins = min(seconds[one]) / min(seconds[other])
        return {"median": median(turns), "min": min(turns), "max": max(turns), "of_mins": of_mins}

    row = {
        "vocab": case[0], "tokens": case[1], "hidden": case[2], "kind": kind, "loss": losses, "failed": failed,
        "cpu_seconds": {n: {"min": min(s), "median": median(s), "max": max(s)} for n, s in seconds.items()},
        "odeval_over_products": ratio("odeval", "products"),
        "peer_over_odeval": {n: ratio(n, "odeval") for n in running if n not in ("odeval", "products")},
    }  # fmt: skip
    print(f"V {case[0]} N {case[1]} {kind}: odeval {row['odeval_over_products']['median']:.2f} of the products; "
          + ", ".join(f"{n} {r['median']:.2f}x" for n, r in row["peer_over_odeval"].items())
          + "".join(f"; {n} failed" for n in failed), flush=True)  # fmt: skip
    return row


def peak(name: str, vocab: int, tokens: int, hidden: int, kind: str) -> float:
    """MiB above what is resident before the call, gradients included, inputs not; in this process."""

    def status(key: str) -> int:
        found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])

    call(name, Inputs(64, 8, 16), kind)  # what loading and threads take is not the call's
    x = Inputs(vocab, tokens, hidden)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    before = status("VmRSS")
    call(name, x, kind)
    return (status("VmHWM") - before) / 1024


def memory(quick: bool) -> list[dict[str, Any]]:
    rows = []
    for vocab, hidden, kind, peers in MEMORY[1:] if quick else MEMORY:
        for name, sizes in peers.items():
            for tokens in sizes:
                told = ["--peak", name, str(vocab), str(tokens), str(hidden), kind]
                done = subprocess.run(
                    [sys.executable, __file__, *told], capture_output=True, text=True, check=False,
                    env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)},
                )  # fmt: skip
                if done.returncode and name == "odeval":
                    raise SystemExit(done.stderr)
                if done.returncode:  # a peer that is not installed
                    print(f"V {vocab} N {tokens} {kind} {name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
                    continue
                mib = float(json.loads(done.stdout.splitlines()[-1]))
                rows.append({
                    "peer": name, "vocab": vocab, "tokens": tokens, "hidden": hidden, "kind": kind, "peak_mib": mib
                })  # fmt: skip
                print(f"V {vocab} N {tokens} {kind} {name}: {mib:.0f} MiB", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the small vocabulary alone")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--peak", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        name, vocab, tokens, hidden, kind = options.peak
        print(json.dumps(peak(name, int(vocab), int(tokens), int(hidden), kind)))
        return
    used = memory(options.quick)
    rows = []
    for case, peers in CASES[:1] if options.quick else CASES:
        for kind in ("forward_kl", "reverse_kl", "jsd", "blend"):
            names = [n for n in peers if n != "liger_compiled" or kind == "jsd"]
            rows.append(compare(case, kind, options.rounds, names))
    packages = {}
    for package in ("torch", "trl", "liger-kernel"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = None
    told = {"rounds": options.rounds, "threads": 1, "hardware": hardware(), "packages": packages}
    made = {**provenance(), "command": " ".join(["python benchmarks/loss.py", *sys.argv[1:]])}
    path = options.out or result_path("loss")
    write_json(path, {"what": __doc__, "setting": told, "rows": rows, "memory": used, "provenance": made})
    print(path)


if __name__ == "__main__":
    main()
