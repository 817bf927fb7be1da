"""The account of a run against counting by hand, and against torch's own count of operations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from odkd_runs import log_of, settings
from torch.utils.flop_counter import FlopCounterMode

from odeval.testbed import checkpoint
from odeval.testbed.build import tiny_llama
from odkd.cli import main
from odkd.config import make_config
from odkd.ledger import Ledger, Shape, shape_of
from odkd.ranks import Ranks
from odkd.train import train

START = str(checkpoint("graph_paths", "warm_start"))


def test_flops_of_a_pass_are_those_torch_counts() -> None:
    """A model wide enough that element-wise work does not matter; both count matrix products alone."""
    model = tiny_llama(500, 96, 3, 4, 256, seed=0)
    model.set_attn_implementation("eager")  # of the fused one torch counts nothing on a CPU
    ids = torch.zeros(4, 40, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        loss = model(ids).logits.sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    counted = shape_of(model).forward(4 * 40, 4 * 40**2, 4 * 40)
    assert counted == pytest.approx(forward.get_total_flops(), rel=0.01)
    assert 2 * counted == pytest.approx(backward.get_total_flops(), rel=0.06)


def test_an_audit_is_the_sum_of_its_rows() -> None:
    """Token by token: each multiplies every weight twice, and looks back at itself and what is before it."""
    body, head, attention = 1000, 50, 7
    prompts, samples, asked, drawn = 3, 4, 5, 6
    own = {"sampling": 0.0, "scoring": 0.0}
    for _ in range(prompts):
        own["sampling"] += sum(2 * body + 4 * attention * (t + 0.5) for t in range(asked))
        for _ in range(samples):
            own["sampling"] += sum(2 * body + 4 * attention * (t + 0.5) for t in range(asked, asked + drawn - 1))
            own["sampling"] += 2 * head * drawn
            own["scoring"] += (asked + drawn) * (2 * body + 4 * attention * (asked + drawn)) + 2 * head * drawn
    shape = Shape(body, head, attention)
    assert shape.sampling(prompts, samples, asked, drawn) == own["sampling"]
    assert shape.scoring(prompts, samples, asked, drawn) == own["scoring"]


def test_the_package_runs_as_a_module() -> None:
    """What `accelerate launch -m odkd` needs."""
    done = subprocess.run([sys.executable, "-m", "odkd", "objectives", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown objective 'nonsense'")


def test_counts_by_hand() -> None:
    ledger = Ledger()
    ledger._shapes = {"student": Shape(10, 5, 2), "teacher": Shape(20, 5, 2)}
    ledger.sampled("student", [3, 3], [2, 1])
    ledger.trained(rows=2, width=5, predicted=3, passes_of_teacher=2)
    table = ledger.table(Ranks())
    assert table["tokens_sampled"] == {"student": 3, "all": 3}
    assert table["tokens_scored_by_teacher"] == 20
    rollout = 2 * 10 * (4 + 3) + 2 * 2 * (16 + 9) + 2 * 5 * 3
    student, teacher = (2 * body * 10 + 4 * 2 * 50 + 2 * 5 * 3 for body in (10, 20))
    flops = {"rollout": rollout, "teacher": 2 * teacher, "student_forward": student, "student_backward": 2 * student}
    assert table["flops"] == {**flops, "all": sum(flops.values())}


def test_the_account_of_a_run_adds_up(tmp_path: Path) -> None:
    given = {"model_name_or_path": START, "lmbda": 0.5, "seq_kd": True, "max_steps": 8}
    out = train(make_config(settings(tmp_path, **given)))
    account, log = json.loads((out / "training.json").read_text())["ledger"], log_of(out)
    own = sum(row["tokens"] for row in log if row["source"] == "student")
    assert account["tokens_sampled"]["student"] == own
    assert (
        account["tokens_sampled"]["teacher"] == sum(row["tokens"] for row in log) - own
    )  # one epoch: none asked twice
    assert account["tokens_trained"] == sum(row["tokens"] for row in log)
    assert account["updates"] == 8
    assert (
        account["on_policy_fraction"] == log[-1]["on_policy_fraction"] == sum(r["source"] == "student" for r in log) / 8
    )
    assert account["completions"] == 8 * 32
    assert 0 <= account["cut_fraction"] < 1
    assert set(account["seconds"]) == {"rollout", "update", "all"}
    assert account["peak_memory_bytes"] > 2**26


def test_estimate_measures_what_the_run_will_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = settings(tmp_path, model_name_or_path=START, max_steps=5, lr_scheduler_type="constant")
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["estimate", "--steps", "4", "--json", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "out").exists()
    ledger = json.loads((train(make_config(given)) / "training.json").read_text())["ledger"]
    assert found["per_step"]["flops"] == ledger["flops"]["all"] / 5  # the same five steps
    assert found["per_step"]["tokens_sampled"] == ledger["tokens_sampled"]["all"] / 5
    assert found["seconds"] == pytest.approx(5 * found["seconds_per_step"])
    weights = sum(p.numel() for p in tiny_weights(START))
    assert found["memory_bytes"]["adam"] == 2 * found["memory_bytes"]["gradients"] == 8 * weights
    assert main(["estimate", "--steps", "1", *flags]) == 0
    text = capsys.readouterr().out
    assert text.startswith("memory    ")
    assert "tokens sampled" in text
    assert main(["estimate", "--steps", "0", *flags]) == 2
    assert capsys.readouterr().err == "error: steps 0: at least 1 update must be timed\n"


def tiny_weights(folder: str) -> list[torch.nn.Parameter]:
    from odeval.engines.hf_model import HfModel

    return list(HfModel(folder, "cpu").model.parameters())
