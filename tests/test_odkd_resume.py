"""Killed at any point, the same call ends with the same files; two processes take the steps of one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from odkd_runs import log_of, settings, weights_of

from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.testbed import checkpoint
from odkd.checkpoint import checkpoints, write_checkpoint
from odkd.config import make_config
from odkd.train import train

START = str(checkpoint("graph_paths", "warm_start"))
RUN = "import sys; from odkd.cli import main; sys.exit(main(sys.argv[1:]))"
# Everything that a checkpoint must hold: teacher completions, a schedule, accumulation, momentum, probes.
EVERYTHING: dict[str, Any] = {
    "model_name_or_path": START,
    "objective": "entropy_gated",
    "gate": "quantile",
    "lmbda": 0.6,
    "seq_kd": True,
    "teacher_samples_per_prompt": 2,
    "num_generations": 2,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "max_steps": 10,
    "save_steps": 3,
    "eval_steps": 5,
    "probe_prompts": 4,
    "probe_samples": 4,
}


def stopped_after(step: int) -> Any:
    def watch(row: dict[str, Any], steps: int) -> None:
        if row["step"] == step:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("last", [1, 7])
def test_interrupted_and_taken_up_again_it_is_the_same_run(tmp_path: Path, last: int) -> None:
    whole = train(make_config(settings(tmp_path, **EVERYTHING, output_dir=str(tmp_path / "whole"))))
    config = make_config(settings(tmp_path, **EVERYTHING))
    with pytest.raises(KeyboardInterrupt):
        train(config, stopped_after(last))
    out = train(config)
    assert weights_of(out) == weights_of(whole)
    for name in ("log.jsonl", "probes.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    accounts = [json.loads((folder / "training.json").read_text()) for folder in (out, whole)]
    for account in accounts:
        for timing in ("seconds", "peak_memory_bytes"):
            del account["ledger"][timing]
    assert accounts[0]["ledger"] == accounts[1]["ledger"]
    assert accounts[0]["probes"] == accounts[1]["probes"]


def test_twice_as_many_steps_are_half_as_many_and_as_many_again(tmp_path: Path) -> None:
    given = {"lr_scheduler_type": "constant", "save_steps": 2, "model_name_or_path": START}
    whole = train(make_config(settings(tmp_path, **given, max_steps=8, output_dir=str(tmp_path / "whole"))))
    out = train(make_config(settings(tmp_path, **given, max_steps=4)))
    assert train(make_config(settings(tmp_path, **given, max_steps=8))) == out
    assert weights_of(out) == weights_of(whole)
    assert log_of(out) == log_of(whole)
    with pytest.raises(
        OdevalError, match=r"out: is of another configuration \(max_steps was 8, now 6\); choose another"
    ):
        train(make_config(settings(tmp_path, **given, max_steps=6)))


@pytest.mark.slow
def test_a_killed_process_leaves_a_run_that_ends_the_same(tmp_path: Path) -> None:
    """SIGKILL at whatever it was doing: in the middle of a step, a checkpoint, a line of the log."""
    given = settings(tmp_path, model_name_or_path=START, lmbda=0.5, seq_kd=True, max_steps=20, save_steps=2)
    whole = train(make_config({**given, "output_dir": str(tmp_path / "whole")}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    command = [sys.executable, "-c", RUN, "train", "--config", str(tmp_path / "run.yaml")]
    log, killed = tmp_path / "out" / "log.jsonl", 0
    for lines in (5, 12):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= lines):
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed == 2
    assert checkpoints(tmp_path / "out")
    out = train(make_config(given))
    assert weights_of(out) == weights_of(whole)
    assert log.read_bytes() == (whole / "log.jsonl").read_bytes()


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    config = make_config(settings(tmp_path, max_steps=3, save_steps=1))
    with pytest.raises(KeyboardInterrupt):
        train(config, stopped_after(1))
    with pytest.raises(
        OdevalError, match=r"out: is of another configuration \(learning_rate was 0.01, now 0.02\); choose"
    ):
        train(make_config(settings(tmp_path, max_steps=3, save_steps=1, learning_rate=0.02)))
    (saved,) = checkpoints(tmp_path / "out")
    (saved / "state.pt").write_bytes((saved / "state.pt").read_bytes()[:1000])
    with pytest.raises(OdevalError, match=r"checkpoint-000001: damaged \(.*\); delete it$"):
        train(config)


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    config = make_config(settings(tmp_path))
    (tmp_path / "out" / "checkpoint-000009").mkdir(parents=True)  # no settings.json: it was never moved into place
    left = tmp_path / "out" / ".checkpoint-99999999.tmp"
    left.mkdir()
    assert checkpoints(tmp_path / "out") == []
    write_checkpoint(tmp_path / "out", 3, {"a": torch.zeros(1)}, config)
    write_checkpoint(tmp_path / "out", 4, {"a": torch.zeros(1)}, config)
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-000004"]
    assert not left.exists()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """gloo on a CPU: the same weights as one process that accumulates, bit for bit; one log, one account."""
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'odeval[train]'")
    given = {
        "model_name_or_path": START, "objective": "entropy_gated", "gate": "quantile", "gate_normalizer": "gated",
        "lmbda": 0.5, "seq_kd": True, "max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2,
    }  # fmt: skip
    one = train(make_config(settings(tmp_path, **given, gradient_accumulation_steps=2)))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(tmp_path, **given, output_dir=str(tmp_path / "two"))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, "train", "--config", str(tmp_path / "run.yaml")],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    a, b = (HfModel(folder, "cpu").model.state_dict() for folder in (one, tmp_path / "two"))
    for name in a:
        assert torch.equal(a[name], b[name]), name
    for row, other in zip(log_of(one), log_of(tmp_path / "two"), strict=True):
        assert other["tokens"] == row["tokens"]
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-12)
        assert other["retention"] == row["retention"]
        assert other["gate_fraction"] == row["gate_fraction"]
    ledgers = [json.loads((folder / "training.json").read_text())["ledger"] for folder in (one, tmp_path / "two")]
    for name in ("tokens_sampled", "tokens_trained", "completions", "updates", "flops"):
        assert ledgers[1][name] == ledgers[0][name]
