"""The loop: reproducible, aligned with what was sampled, and clear about what it cannot do."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odkd_runs import log_of, settings, weights_of

from odeval.divergence import log_prob
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.tasks import graph_paths
from odeval.testbed import checkpoint
from odeval.types import SamplingParams
from odkd.cli import main
from odkd.config import make_config
from odkd.rollout import Rollouts, draw_prompts, is_on_policy, pad
from odkd.train import train
from odkd.update import both_logits


def test_same_seed_same_weights_and_the_loss_falls(tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("first", "second", "other")]
    for out, seed, steps in zip(outs, (7, 7, 8), (25, 25, 1), strict=True):
        dial = {
            "objective": "forward_kl",
            "lmbda": 0.5,
            "seq_kd": True,
            "learning_rate": 3e-2,
            "lr_scheduler_type": "constant",
        }
        train(make_config(settings(tmp_path, **dial, seed=seed, max_steps=steps, output_dir=str(out))))
    assert (outs[0] / "model.safetensors").read_bytes() == (outs[1] / "model.safetensors").read_bytes()
    log = log_of(outs[0])
    assert log == log_of(outs[1])
    assert log[0]["loss"] != log_of(outs[2])[0]["loss"]
    losses = [row["loss"] for row in log]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert {row["source"] for row in log} == {"student", "teacher"}
    for row in log:
        assert row["loss"] == pytest.approx(row["forward_kl"], rel=1e-5)
        assert min(row["reverse_kl"], row["student_entropy"], row["teacher_entropy"], row["tokens"]) > 0
    written = json.loads((outs[0] / "training.json").read_text())
    assert written["config"]["seed"] == 7
    assert written["spent"]["tokens"] == sum(row["tokens"] for row in log)
    assert 0 < written["spent"]["on_policy_fraction"] < 1


def test_training_sees_the_distribution_that_was_sampled() -> None:
    """A shift by one token between rollout and loss would show here."""
    model = HfModel(checkpoint("graph_paths", "warm_start"), "cpu")
    engine = HfEngine(model)
    prompts = [engine.encode(prompt) for prompt in graph_paths.prompts("train", 40)]
    drawn = engine.sample(prompts, [[i] for i in range(40)], SamplingParams(n=1, max_tokens=5))
    batch = pad("student", prompts, [[int(token) for token in row[0].token_ids] for row in drawn])
    logits, _, targets = both_logits(model, model, batch)
    sampled = np.concatenate([np.asarray(row[0].logprobs) for row in drawn])
    np.testing.assert_allclose(log_prob(logits, targets).detach().numpy(), sampled, atol=1e-5)
    assert targets.tolist() == [int(token) for row in drawn for token in row[0].token_ids]


def test_padding_changes_nothing_and_an_end_token_that_pads_stays() -> None:
    model = HfModel(checkpoint("graph_paths", "warm_start"), "cpu")
    prompts, completions = [[1, 5, 9, 4], [1, 5, 200, 4]], [[40, 2], [60, 80, 100, 120, 2]]
    together = both_logits(model, model, pad("student", prompts, completions))[0]
    alone = [both_logits(model, model, pad("student", [p], [c]))[0] for p, c in zip(prompts, completions, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    ends = pad("student", [[1]], [[0, 0]])  # id 0 pads, and here ends too
    assert ends.generated_BT.tolist() == [[False, True, True]]


def test_the_coin_is_seeded_by_the_step() -> None:
    tosses = [is_on_policy(0.5, 0, step) for step in range(2000)]
    assert tosses == [is_on_policy(0.5, 0, step) for step in range(2000)]
    assert abs(np.mean(tosses) - 0.5) < 0.05
    assert tosses != [is_on_policy(0.5, 1, step) for step in range(2000)]
    assert all(is_on_policy(1.0, 0, step) for step in range(100))
    assert not any(is_on_policy(0.0, 0, step) for step in range(100))


def test_every_epoch_asks_every_prompt_once() -> None:
    asked = [pair for step in range(14) for pair in draw_prompts(10, 7, seed=3, step=step)]
    assert [epoch for _, epoch in asked] == [place // 10 for place in range(98)]
    for epoch in range(9):
        assert sorted(i for i, e in asked if e == epoch) == list(range(10))


def test_off_policy_steps_learn_from_a_fixed_corpus(tmp_path: Path) -> None:
    config = make_config(
        settings(tmp_path, lmbda=0.0, seq_kd=True, per_device_train_batch_size=6, teacher_samples_per_prompt=2)
    )
    teacher = HfEngine(checkpoint("graph_paths", "teacher"), "cpu")
    prompts = graph_paths.prompts("train", 6)

    def texts(rollouts: Rollouts, step: int) -> set[tuple[int, ...]]:
        (batch,) = rollouts.at(step)
        assert batch.source == "teacher"
        return {tuple(row[mask].tolist()) for row, mask in zip(batch.ids_BT, batch.mask_BT, strict=True)}

    forwards, backwards = Rollouts(teacher, teacher, prompts, config), Rollouts(teacher, teacher, prompts, config)
    seen = [texts(forwards, step) for step in range(4)]
    assert seen == [texts(backwards, step) for step in (3, 2, 1, 0)][::-1]  # when it is drawn does not matter
    assert seen[0] == seen[2] != seen[1] == seen[3]  # two copies of each prompt, by turns


def test_on_policy_rollouts_follow_the_student(tmp_path: Path) -> None:
    config = make_config(settings(tmp_path, lmbda=1.0))
    prompts = graph_paths.prompts("train", 32)
    rollouts = Rollouts(
        HfEngine(tmp_path / "student", "cpu"), HfEngine(checkpoint("graph_paths", "teacher"), "cpu"), prompts, config
    )
    (batch,) = rollouts.at(0)
    assert batch.source == "student"
    assert torch.equal(batch.ids_BT, rollouts.at(0)[0].ids_BT)
    assert batch.generated_BT.sum() > 150  # an untrained student seldom ends; the teacher's answers are short


def test_the_run_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(OdevalError, match=r"^dataset_name: unknown world 'graph_path': .*did you mean 'graph_paths'"):
        train(make_config(settings(tmp_path, dataset_name="graph_path")))
    with pytest.raises(OdevalError, match=r"is not empty; choose another, or delete it$"):
        train(make_config(settings(tmp_path, output_dir=str(tmp_path / "student"))))
    with pytest.raises(OdevalError, match=r"^vocabularies of .* differ at "):
        train(make_config(settings(tmp_path, teacher_model_name_or_path=str(checkpoint("countdown", "teacher")))))
    same = str(checkpoint("graph_paths", "teacher"))
    with pytest.raises(OdevalError, match=r"hold the same weights: there is nothing to learn; name another teacher"):
        train(make_config(settings(tmp_path, model_name_or_path=same)))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    """One enormous step at step 3, after a checkpoint at step 2: the student of step 2 is what remains."""
    steps = {"lmbda": 0.0, "seq_kd": True, "save_steps": 2, "warmup_steps": 0, "max_grad_norm": 0, "max_steps": 2}
    whole = train(
        make_config(settings(tmp_path, **steps, lr_scheduler_type="constant", output_dir=str(tmp_path / "ok")))
    )
    config = make_config(settings(tmp_path, **{**steps, "max_steps": 6}, lr_scheduler_type="constant"))

    def explode(row: dict[str, Any], total: int) -> None:
        if row["step"] == 2:
            raise KeyboardInterrupt  # stopped by hand after the checkpoint

    with pytest.raises(KeyboardInterrupt):
        train(config, explode)
    saved = tmp_path / "out" / "checkpoint-000002"
    state = torch.load(saved / "state.pt", weights_only=True)
    for moments in state["optimizer"]["state"].values():
        moments["exp_avg"] *= math.inf  # the next step is infinite
    torch.save(state, saved / "state.pt")
    with pytest.raises(OdevalError) as caught:
        train(config)
    assert re.fullmatch(
        r"loss is nan, gradient norm nan at step 3 \(teacher completions to \w+, \w+, \w+ …\); .*out holds the student "
        r"of step 2, the last that is known to be good; lower learning_rate, now 0.01, and choose another output_dir",
        str(caught.value),
    )
    assert weights_of(tmp_path / "out") == weights_of(whole)
    assert not (tmp_path / "out" / "training.json").exists()
    with pytest.raises(
        OdevalError, match=r"gradient norm nan at step 1 .*; no checkpoint was written yet, so the start"
    ):
        train(
            make_config(settings(tmp_path, lmbda=0.0, seq_kd=True, learning_rate=1e30, output_dir=str(tmp_path / "x")))
        )


def test_training_from_a_prompts_file(tmp_path: Path) -> None:
    rows = [{"prompt": prompt.text, "answer": prompt.answer} for prompt in graph_paths.prompts("train", 20)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = train(make_config(settings(tmp_path, dataset_name=str(file), max_steps=1)))
    assert HfModel(out, "cpu").vocab_size == len(graph_paths.vocabulary()) + 4


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in settings(tmp_path, max_steps=2).items()))
    assert main(["train", "--config", str(file), "--learning-rate", "3e-3", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "learning_rate: 0.003  # flag\n" in shown
    assert f"max_steps: 2  # {file}\n" in shown
    assert "lmbda: 1.0  # default\n" in shown
    assert main(["train", "--config", str(file)]) == 0
    first = capsys.readouterr()
    assert first.out == f"{tmp_path / 'out'}\n"
    assert re.fullmatch(r"step 2/2  student  loss \d.*\n", first.err)
    before = weights_of(tmp_path / "out")
    assert main(["train", "--config", str(file)]) == 0  # it is done: nothing is done again
    assert capsys.readouterr().out == first.out
    assert weights_of(tmp_path / "out") == before
    for arguments, line in [
        (
            ["train", "--config", str(file), "--seed", "9"],
            "out: is of another configuration (seed was 7, now 9); choose",
        ),
        (["train", "--config", str(tmp_path / "none.yaml")], "none.yaml: no such file"),
        (["train", "--objective", "blend"], "flags: model_name_or_path is missing: Folder of the student"),
        (["train", "--lr", "1"], "Unknown option: --lr"),
    ]:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert line in captured.err
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [", "is no YAML"),
        ("- 1", "expected lines like `objective: reverse_kl`, found list"),
        ("", "found NoneType"),
    ],
)
def test_a_broken_file_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, line: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
