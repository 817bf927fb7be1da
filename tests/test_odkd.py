"""The trainer: gradients against closed forms, the data dial, the loop's reproducibility, and what users get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from odeval.divergence import log_prob
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.tasks import graph_paths
from odeval.testbed import checkpoint
from odeval.testbed.build import tiny_llama, tiny_tokenizer
from odeval.types import SamplingParams
from odkd.checkpoint import save
from odkd.cli import main
from odkd.config import make_config
from odkd.objectives import OBJECTIVES, objective
from odkd.rollout import Rollouts, draw_prompts, is_on_policy, pad
from odkd.train import both_logits, train

DIALS: dict[str, dict[str, float]] = {"blend": {"forward_weight": 0.3}, "jsd": {"beta": 0.3}}


def closed_form(name: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Gradient with respect to the student's logits, from the definitions, in numpy float64."""

    def reverse(m: np.ndarray) -> np.ndarray:
        ratio = np.log(q / m)
        return q * (ratio - (q * ratio).sum(-1, keepdims=True))

    match name:
        case "forward_kl":
            return q - p
        case "reverse_kl":
            return reverse(p)
        case "blend":
            return 0.3 * (q - p) + 0.7 * reverse(p)
        case "jsd":
            return 0.7 * reverse(0.3 * p + 0.7 * q)
    raise AssertionError(f"no closed form for {name}: write it here before adding the objective")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_equals_the_closed_form(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, 11, dtype=torch.float64, generator=generator) * 2
    student.requires_grad_(True)
    loss = objective(name).loss(student, teacher, **DIALS.get(name, {}))
    assert loss.shape == (5, 7)
    loss.sum().backward()
    p, q = teacher.softmax(-1).numpy(), student.detach().softmax(-1).numpy()
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), closed_form(name, p, q), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_student_that_is_the_teacher_has_loss_and_gradient_zero(name: str, dtype: torch.dtype) -> None:
    student = torch.randn(64, 50, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_(True)
    loss = objective(name).loss(student, student.detach().clone(), **DIALS.get(name, {}))
    assert 0 <= loss.min() <= loss.max() <= (1e-13 if name == "jsd" else 0)  # log m carries one rounding
    loss.sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_directions_are_the_documented_ones() -> None:
    wide = torch.tensor([0.5, 0.5, 1e-6]).log()
    narrow = torch.tensor([1.0, 1e-6, 1e-6]).log()
    lost_mode = {name: objective(name).loss(narrow, wide, **DIALS.get(name, {})).item() for name in OBJECTIVES}
    assert lost_mode["forward_kl"] > 5 > 1 > lost_mode["reverse_kl"]
    blends = [objective("blend").loss(narrow, wide, forward_weight=w).item() for w in (0.0, 1.0)]
    assert blends == [lost_mode["reverse_kl"], lost_mode["forward_kl"]]
    ends = [objective("jsd").loss(narrow, wide, beta=beta).item() for beta in (1.0, 0.0)]
    assert ends == [lost_mode["reverse_kl"], lost_mode["forward_kl"]]


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model_name_or_path": str(tmp_path / "student"),
        "teacher_model_name_or_path": str(checkpoint("graph_paths", "teacher")),
        "dataset_name": "graph_paths",
        "output_dir": str(tmp_path / "out"),
        "learning_rate": 1e-2,
        "max_steps": 12,
        "per_device_train_batch_size": 32,
        "max_completion_length": 8,
        "seed": 7,
        "device": "cpu",
        **changes,
    }


@pytest.fixture
def student(tmp_path: Path) -> Path:
    tokenizer = tiny_tokenizer(graph_paths.vocabulary())
    save(tiny_llama(len(tokenizer), 12, 1, 1, 36, seed=3), tokenizer, tmp_path / "student")
    return tmp_path / "student"


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_same_seed_same_weights_and_the_loss_falls(tmp_path: Path, student: Path) -> None:
    outs = [tmp_path / name for name in ("first", "second", "other")]
    for out, seed, steps in zip(outs, (7, 7, 8), (25, 25, 1), strict=True):
        dial = {"objective": "forward_kl", "lmbda": 0.5, "learning_rate": 3e-2, "lr_scheduler_type": "constant"}
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


def test_the_teacher_as_student_learns_nothing(tmp_path: Path) -> None:
    teacher = checkpoint("graph_paths", "teacher")
    for name in OBJECTIVES:
        out = tmp_path / name
        changes = {"objective": name, "max_steps": 1, "model_name_or_path": str(teacher), "output_dir": str(out)}
        train(make_config(settings(tmp_path, **changes)))
        assert log_of(out)[0]["loss"] <= (1e-13 if name == "jsd" else 0)


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


def test_off_policy_steps_learn_from_a_fixed_corpus(tmp_path: Path, student: Path) -> None:
    config = make_config(settings(tmp_path, lmbda=0.0, per_device_train_batch_size=6, teacher_samples_per_prompt=2))
    teacher = HfEngine(checkpoint("graph_paths", "teacher"), "cpu")
    prompts = graph_paths.prompts("train", 6)

    def texts(rollouts: Rollouts, step: int) -> set[tuple[int, ...]]:
        batch = rollouts.at(step)
        assert batch.source == "teacher"
        return {tuple(row[mask].tolist()) for row, mask in zip(batch.ids_BT, batch.mask_BT, strict=True)}

    forwards, backwards = Rollouts(teacher, teacher, prompts, config), Rollouts(teacher, teacher, prompts, config)
    seen = [texts(forwards, step) for step in range(4)]
    assert seen == [texts(backwards, step) for step in (3, 2, 1, 0)][::-1]  # when it is drawn does not matter
    assert seen[0] == seen[2] != seen[1] == seen[3]  # two copies of each prompt, by turns


def test_on_policy_rollouts_follow_the_student(tmp_path: Path, student: Path) -> None:
    config = make_config(settings(tmp_path, lmbda=1.0))
    prompts = graph_paths.prompts("train", 32)
    rollouts = Rollouts(
        HfEngine(student, "cpu"), HfEngine(checkpoint("graph_paths", "teacher"), "cpu"), prompts, config
    )
    batch = rollouts.at(0)
    assert batch.source == "student"
    assert torch.equal(batch.ids_BT, rollouts.at(0).ids_BT)
    assert batch.generated_BT.sum() > 150  # an untrained student seldom ends; the teacher's answers are short


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"objective": "reverse-kl"},
            "objective 'reverse-kl': expected one of blend, forward_kl, jsd, reverse_kl (did",
        ),
        ({"learningrate": 1}, "unknown setting 'learningrate': expected one of beta, "),
        ({"learning_rate": "fast"}, "learning_rate 'fast': Input should be a valid number"),
        ({"lmbda": 1.5}, "lmbda 1.5: Input should be less than or equal to 1"),
        ({"max_steps": 0}, "max_steps 0: Input should be greater than or equal to 1"),
        (
            {"forward_weight": 0.3},
            "forward_weight: objective reverse_kl does not use it (it has no dial); leave it out",
        ),
        ({"objective": "jsd", "forward_weight": 0.3}, "objective jsd does not use it (its dials are beta)"),
    ],
)
def test_a_wrong_setting_gets_one_line(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(OdevalError) as caught:
        make_config(settings(tmp_path, **changes), "run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_run_refuses_what_it_cannot_do(tmp_path: Path, student: Path) -> None:
    with pytest.raises(OdevalError, match=r"^dataset_name: unknown world 'graph_path': .*did you mean 'graph_paths'"):
        train(make_config(settings(tmp_path, dataset_name="graph_path")))
    with pytest.raises(OdevalError, match=r"is not empty; choose another, or delete it$"):
        train(make_config(settings(tmp_path, output_dir=str(student))))
    with pytest.raises(OdevalError, match=r"^vocabularies of .* differ at "):
        train(make_config(settings(tmp_path, teacher_model_name_or_path=str(checkpoint("countdown", "teacher")))))
    with pytest.raises(
        OdevalError, match=r"^loss is .*, gradient norm nan at step 1 .*; lower learning_rate, now 1e\+30$"
    ):
        train(make_config(settings(tmp_path, learning_rate=1e30, lmbda=0.0)))


def test_training_from_a_prompts_file(tmp_path: Path, student: Path) -> None:
    rows = [{"prompt": prompt.text, "answer": prompt.answer} for prompt in graph_paths.prompts("train", 20)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = train(make_config(settings(tmp_path, dataset_name=str(file), max_steps=1)))
    assert HfModel(out, "cpu").vocab_size == len(graph_paths.vocabulary()) + 4


def test_command_line(tmp_path: Path, student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in settings(tmp_path, max_steps=2).items()))
    assert main(["train", "--config", str(file), "--learning-rate", "3e-3", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "learning_rate: 0.003  # flag\n" in shown
    assert f"max_steps: 2  # {file}\n" in shown
    assert "lmbda: 1.0  # default\n" in shown
    assert main(["train", "--config", str(file)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    for arguments, line in [
        (["train", "--config", str(file)], "is not empty; choose another, or delete it"),
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
