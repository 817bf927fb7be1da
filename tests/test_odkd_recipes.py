"""Every recipe runs by name from the command line, and does what its paper says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from odkd_runs import log_of

from odeval.divergence import jsd, skew_forward_kl
from odeval.engines.hf_model import HfModel
from odeval.tasks import graph_paths
from odeval.testbed import exact
from odeval.types import Prompt
from odkd.cli import main
from odkd.config import make_config, recipe, recipes
from odkd.models import Pair
from odkd.train import train
from odkd.update import both_logits

TEACHER, START = "embedded:graph_paths/teacher", "embedded:graph_paths/warm_start"
SHORT = {
    "model_name_or_path": START, "teacher_model_name_or_path": TEACHER, "dataset_name": "graph_paths",
    "max_steps": 4, "max_completion_length": 8, "per_device_train_batch_size": 32, "learning_rate": 1e-3, "seed": 0,
    "device": "cpu",
}  # fmt: skip

# source of each step, objective of each step
SAYS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "reverse_kl": (["student"] * 4, ["reverse_kl"] * 4),
    "forward_kl": (["student"] * 4, ["forward_kl"] * 4),
    "blend": (["student"] * 4, ["blend"] * 4),
    "entropy_gated": (["student"] * 4, ["entropy_gated"] * 4),
    "supervised_kd": (["teacher"] * 4, ["forward_kl"] * 4),
    "seqkd": (["teacher"] * 4, ["cross_entropy"] * 4),
    "gkd": (["teacher", "student", "teacher", "teacher"], ["jsd"] * 4),
    "minillm": (["mixed"] * 4, ["pg_reverse_kl"] * 4),
    "thinking_machines": (["student"] * 4, ["pg_reverse_kl"] * 4),
    "qwen3": (["teacher"] * 2 + ["student"] * 2, ["cross_entropy"] * 2 + ["reverse_kl"] * 2),
    "eopd": (["student"] * 4, ["eopd"] * 4),
    "distillm": (["teacher", "student", "teacher", "teacher"], ["skew_forward_kl"] * 4),
    "distillm2": (
        ["teacher", "student", "teacher", "teacher"],
        ["skew_forward_kl", "skew_reverse_kl", "skew_forward_kl", "skew_forward_kl"],
    ),
    "recover": (["student"] * 4, ["reverse_kl"] * 4),
}


def run(tmp_path: Path, name: str, **changes: Any) -> Path:
    given = {**SHORT, "output_dir": str(tmp_path / name), **changes}
    flags = [text for key, value in given.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    assert main(["train", "--recipe", name, *flags]) == 0
    return tmp_path / name


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_runs_by_name_and_learns_from_whom_it_says(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(tmp_path, name)
    assert capsys.readouterr().out == f"{out}\n"
    log = log_of(out)
    sources, objectives = SAYS[name]
    assert [row["source"] for row in log] == list(sources)
    assert [row["objective"] for row in log] == list(objectives)
    config = json.loads((out / "training.json").read_text())["config"]
    for key, value in recipe(name).items():
        if key != "phases":
            assert config[key] == value, key
    for row in log:
        exact_loss = {"reverse_kl": "reverse_kl", "forward_kl": "forward_kl"}.get(row["objective"])
        if exact_loss:
            assert row["loss"] == pytest.approx(row[exact_loss], rel=1e-6)


def test_the_first_loss_is_the_paper_s(tmp_path: Path) -> None:
    """The loss of a recipe's first step, from whole logits of the models it starts from."""
    from odeval.engines.hf import HfEngine
    from odkd.rollout import Rollouts

    for name in ("gkd", "seqkd", "distillm", "distillm2", "blend", "supervised_kd"):
        config = make_config({**SHORT, "recipe": name, "output_dir": str(tmp_path / name)})
        pair = Pair(config, "cpu")
        engines = [HfEngine(model) for model in (pair.student, pair.teacher)]
        (batch,) = Rollouts(engines[0], engines[1], graph_paths.prompts("train", None), config).at(0)
        with torch.no_grad():
            s, t, y = both_logits(pair.student, pair.teacher, batch)
        log_q, log_p = s.double().log_softmax(-1), t.double().log_softmax(-1)
        forward, reverse = (log_p.exp() * (log_p - log_q)).sum(-1), (log_q.exp() * (log_q - log_p)).sum(-1)
        expected = {
            "gkd": jsd(s, t, 0.5),
            "seqkd": -log_q.gather(-1, y[:, None]),
            "distillm": skew_forward_kl(s, t, 0.1),
            "distillm2": skew_forward_kl(s, t, 0.1),  # the first step is the teacher's
            "blend": 0.3 * forward + 0.7 * reverse,
            "supervised_kd": forward,
        }[name]
        assert log_of(train(config))[0]["loss"] == pytest.approx(float(expected.mean()), rel=1e-4)


def test_thinking_machines_asks_each_prompt_four_times(tmp_path: Path) -> None:
    out = run(tmp_path, "thinking_machines", max_steps=1)
    account = json.loads((out / "training.json").read_text())["ledger"]
    assert account["completions"] == 32
    config = make_config({**SHORT, "recipe": "thinking_machines", "output_dir": "x"})
    assert config.num_generations == 4
    assert config.dials()["future_weight"] == 0.0


def test_eopd_gates_at_the_teacher_s_entropy_and_divides_by_all_tokens(tmp_path: Path) -> None:
    row = log_of(run(tmp_path, "eopd", max_steps=1))[0]
    assert row["gate_fraction"] == pytest.approx(row["teacher_high_entropy"])
    assert 0 < row["gate_fraction"] < 1


def test_directions_show_in_what_is_learnt(tmp_path: Path) -> None:
    """From one start forward KL keeps more of the teacher's branch points than reverse KL, and blend lies between."""
    prompts = graph_paths.prompts("heldout", 100)
    teacher = HfModel(TEACHER, "cpu")
    truth = exact.enumerate_solutions(teacher.model, teacher.tokenizer, prompts, graph_paths.solutions)
    kept = {}
    for name in ("reverse_kl", "blend", "forward_kl"):
        out = run(tmp_path, name, max_steps=30, learning_rate=1e-2)
        model = HfModel(out, "cpu")
        own = exact.enumerate_solutions(model.model, model.tokenizer, prompts, graph_paths.solutions)
        kept[name] = exact.retention(truth, own)
    assert kept["reverse_kl"] + 0.05 < kept["blend"] < kept["forward_kl"]


def test_recover_brings_back_what_fine_tuning_forgot(tmp_path: Path) -> None:
    """Fine-tuned on one half of a world a model forgets the other; its original, as teacher, brings that back."""
    every = graph_paths.prompts("train", None)
    old = [prompt for prompt in every if (prompt.text or "")[0] in "ab"]
    new = [prompt for prompt in every if (prompt.text or "")[0] in "ef"]
    lines = [
        json.dumps({"prompt": p.text, "completion": p.answer}) for p in new
    ]  # the new domain: name the goal, no path
    (tmp_path / "new.jsonl").write_text("\n".join(lines) + "\n")
    rows = [json.dumps({"prompt": p.text, "answer": p.answer}) for p in old]
    (tmp_path / "old.jsonl").write_text("\n".join(rows) + "\n")
    given = {**SHORT, "model_name_or_path": TEACHER, "teacher_model_name_or_path": START, "learning_rate": 3e-3}
    tuned = train(
        make_config(
            {
                **given,
                "objective": "cross_entropy",
                "lmbda": 0.0,
                "corpus": str(tmp_path / "new.jsonl"),
                "max_steps": 40,
                "output_dir": str(tmp_path / "tuned"),
            }
        )
    )
    back = run(
        tmp_path,
        "recover",
        model_name_or_path=tuned,
        dataset_name=tmp_path / "old.jsonl",
        max_steps=60,
        learning_rate=3e-3,
    )
    held = graph_paths.prompts("heldout", None)
    sets = {
        "old": [p for p in held if (p.text or "")[0] in "ab"][:40],
        "new": [p for p in held if (p.text or "")[0] in "ef"][:40],
    }
    truth = {"old": graph_paths.solutions, "new": lambda prompt: [prompt.answer]}
    audit = {
        (model, name): _pass_at_1(folder, sets[name], truth[name])
        for model, folder in (("original", TEACHER), ("tuned", tuned), ("recovered", back))
        for name in sets
    }
    assert audit["tuned", "new"] > 0.9 > 0.1 > audit["original", "new"]
    assert audit["original", "old"] > 0.8
    assert audit["tuned", "old"] < 0.3
    assert audit["recovered", "old"] > 0.6
    assert audit["recovered", "new"] > audit["original", "new"]


def _pass_at_1(folder: Path | str, prompts: list[Prompt], truth: Any) -> float:
    model = HfModel(folder, "cpu")
    own = exact.enumerate_solutions(model.model, model.tokenizer, prompts, truth)
    return float(exact.pass_at_k(own, [1]).mean())
