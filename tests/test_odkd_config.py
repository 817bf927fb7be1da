"""Settings: ours, TRL's, recipes' and phases'; whatever could not mean what it says is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from odeval.errors import OdevalError
from odkd.cli import main
from odkd.config import make_config, notes, recipe, recipes
from odkd.settings import TrainConfig
from odkd.train import schedule
from odkd.trl_names import ALIASES, HARMLESS, ONLY

BASE = {
    "model_name_or_path": "s",
    "teacher_model_name_or_path": "t",
    "dataset_name": "d",
    "output_dir": "o",
    "max_steps": 10,
}

# As in TRL's documentation and its example scripts: DistillationConfig and ModelConfig in one file.
TRL_FILE = """
model_name_or_path: models/student
teacher_model_name_or_path: models/teacher
dataset_name: prompts.jsonl
output_dir: out
beta: 1.0
temperature: 0.9
max_completion_length: 512
learning_rate: 1.0e-6
lr_scheduler_type: cosine
warmup_ratio: 0.1
num_train_epochs: 1
per_device_train_batch_size: 4
gradient_accumulation_steps: 8
gradient_checkpointing: true
bf16: true
optim: adamw_torch_fused
use_peft: true
lora_r: 64
lora_alpha: 128
lora_target_modules: all-linear
logging_steps: 10
log_completions: true
save_strategy: steps
eval_strategy: "no"
use_vllm: true
vllm_mode: colocate
report_to: none
push_to_hub: false
attn_implementation: sdpa
"""


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"use_vllm": True, "teacher_mixed_alpha": 0.2}, "use_vllm: vLLM cannot sample from a mixture; set teacher"),
        ({"vllm_gpu_memory_utilization": 0.5}, "vllm_gpu_memory_utilization: without use_vllm nothing reads it"),
        ({"objective": "reverse-kl"}, "objective 'reverse-kl': expected one of adaptive_kl, blend, "),
        ({"learningrate": 1}, "unknown setting 'learningrate': expected one of adam_beta1, "),
        ({"learning_rate": "fast"}, "learning_rate 'fast': Input should be a valid number"),
        ({"lmbda": 1.5}, "lmbda 1.5: Input should be less than or equal to 1"),
        ({"max_steps": 0}, "max_steps 0: must be >= 1: updates; or give num_train_epochs"),
        ({"max_steps": -1}, "max_steps is missing: updates; or give num_train_epochs"),
        (
            {"forward_weight": 0.3},
            "forward_weight: objective reverse_kl does not use it (it has no dial); leave it out",
        ),
        ({"objective": "jsd", "forward_weight": 0.3}, "objective jsd does not use it (its dials are beta, jsd_scale)"),
        (
            {"lmbda": 0.5},
            "lmbda 0.5: the other steps need completions to learn from; set seq_kd: true (the teacher writes",
        ),
        (
            {"lmbda": 0.5, "seq_kd": True, "corpus": "c"},
            "seq_kd and corpus: both say where off-policy completions come",
        ),
        ({"seq_kd": True}, "seq_kd: with lmbda 1 every step learns from the student; lower lmbda, or leave it out"),
        ({"corpus": "c.jsonl"}, "corpus: with lmbda 1 every step learns from the student"),
        (
            {"objective": "pg_reverse_kl", "lmbda": 0.5, "seq_kd": True},
            "lmbda 0.5: objective pg_reverse_kl learns from tokens that the student sampled; set lmbda: 1, or",
        ),
        (
            {"off_policy_objective": "eopd", "lmbda": 0.5, "seq_kd": True},
            "off_policy_objective eopd: learns from tokens that the student sampled",
        ),
        (
            {"teacher_mixed_alpha": 0.2, "temperature": 0.7},
            "its importance weights are known for temperature 1, top_p 1",
        ),
        ({"num_generations": 3}, "num_generations 3: must divide the 8 completions of an update"),
        ({"rules": "gate.yaml"}, "rules: there are no probes without eval_steps; set it, or leave rules out"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end: without eval_steps no model is known to be best"),
        ({"recipe": "gdk"}, "unknown recipe 'gdk': expected one of blend, "),
        ({"optim": "lion_8bit"}, "optim 'lion_8bit': odkd has only adamw_torch or adamw_torch_fused; leave it out"),
        ({"min_p": 0.1}, "min_p 0.1: odkd has only None or 0"),
        ({"max_new_tokens": 8, "max_completion_length": 8}, "max_new_tokens and max_completion_length are one setting"),
        ({"phases": [{"steps": 3}]}, "phases: the last one lasts to the end of the run; leave out its steps"),
        ({"phases": [{"stepss": 3}, {}]}, "phases[0]: unknown setting 'stepss': expected one of "),
        ({"phases": [{"steps": 2.5}, {}]}, "phases[0]: steps 2.5: expected a number of steps, or a share below 1"),
        ({"phases": [{"steps": 2, "lmbda": 0}, {}]}, "phases[0]: lmbda 0.0: the other steps need completions"),
        ({"phases": [{"steps": 2, "lmbda": 7}, {}]}, "phases[0]: lmbda 7: Input should be less than or equal to 1"),
        ({"phases": [{"steps": 2}, {}], "beta": 0.1, "objective": "blend"}, "beta: no phase's objective uses it"),
    ],
)
def test_a_wrong_setting_gets_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(OdevalError) as caught:
        make_config({**BASE, **changes}, "run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trl_file_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trl.yaml").write_text(TRL_FILE)
    assert main(["train", "--config", str(tmp_path / "trl.yaml"), "--print-config"]) == 0
    shown = capsys.readouterr()
    idle = "optim, logging_steps, log_completions, save_strategy, eval_strategy, vllm_mode, push_to_hub, "
    assert shown.err.splitlines() == [
        f"note: {idle}attn_implementation: accepted, without effect here",
        "note: beta 1.0 without an objective: taken as TRL means it, objective jsd, which is reverse KL",
        "note: temperature 0.9: here of the rollouts alone; TRL's DistillationTrainer also divides the logits of the "
        "loss by it, which is loss_temperature",
    ]
    for line in (
        "beta: 1.0  # ",
        "warmup_steps: 0.1",
        "gradient_accumulation_steps: 8  # ",
        "lora_r: 64  # ",
        "bf16: true  # ",
    ):
        assert line in shown.out
    assert "lmbda: 1.0  # default\n" in shown.out
    assert "use_vllm: true" in shown.out


def test_every_name_has_one_meaning() -> None:
    ours = set(TrainConfig.model_fields)
    assert not ours & (HARMLESS | set(ONLY))
    assert not HARMLESS & set(ONLY)
    assert set(ALIASES.values()) <= ours | set(ONLY)


@pytest.mark.filterwarnings("ignore:You are importing from .trl.experimental")
def test_every_setting_of_the_installed_trl_is_known() -> None:
    """Read from the packages themselves, where they are there."""
    import dataclasses

    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl to check its settings' names")
    from transformers import TrainingArguments

    known = set(TrainConfig.model_fields) | HARMLESS | set(ONLY) | set(ALIASES) | {"use_cpu"}
    from trl.experimental.gkd import GKDConfig

    for kind in (TrainingArguments, trl.DistillationConfig, trl.ModelConfig, GKDConfig):
        assert {entry.name for entry in dataclasses.fields(kind)} <= known, kind


def test_phases_change_what_they_name_and_nothing_else() -> None:
    first = {"steps": 0.3, "objective": "cross_entropy", "lmbda": 0.0, "seq_kd": True}
    config = make_config({**BASE, "objective": "blend", "forward_weight": 0.2, "phases": [first, {"temperature": 0.9}]})
    assert [config.at(step).objective for step in range(10)] == ["cross_entropy"] * 3 + ["blend"] * 7
    assert (config.at(2).lmbda, config.at(3).lmbda, config.at(3).temperature) == (0.0, 1.0, 0.9)
    assert config.at(3).dials() == {"forward_weight": 0.2}
    assert config.at(0).seed == config.seed
    counted = make_config({**BASE, "phases": [{"steps": 4, "lmbda": 0.0, "seq_kd": True}, {}]})
    assert [counted.at(step).lmbda for step in (3, 4)] == [0.0, 1.0]


def test_a_recipe_fills_in_what_is_not_given() -> None:
    assert make_config({**BASE, "recipe": "gkd"}).dials() == {"beta": 0.5, "jsd_scale": "raw"}
    assert make_config({**BASE, "recipe": "gkd", "beta": 0.1}).beta == 0.1
    other = make_config({**BASE, "recipe": "gkd", "objective": "forward_kl"})
    assert (other.objective, other.lmbda, other.beta) == ("forward_kl", 0.5, None)
    for name in recipes():
        about = recipe(name, about=True)
        assert about["about"], name
        assert about["source"], name
        make_config({**BASE, "recipe": name})


def test_doubts_are_told() -> None:
    assert notes(make_config(BASE)) == ()
    assert notes(make_config({**BASE, "top_p": 0.95})) == (
        "top_p 0.95: rollouts never hold the tail of the student, so nothing is learnt about it",
    )
    assert (
        "takes its tokens for samples at temperature 1"
        in notes(make_config({**BASE, "objective": "pg_reverse_kl", "temperature": 0.8}))[0]
    )


def test_schedules() -> None:
    config = make_config({**BASE, "warmup_steps": 0.2, "lr_scheduler_type": "cosine"})
    shares = [schedule(config, step) for step in range(10)]
    assert shares[:3] == [0.5, 1.0, 1.0]
    assert shares[6] == pytest.approx(0.5)
    assert shares[1:] == sorted(shares[1:], reverse=True)
    assert schedule(make_config({**BASE, "lr_scheduler_type": "constant_with_warmup"}), 9) == 1.0


def test_listings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["objectives", "blend"]) == 0
    text = capsys.readouterr().out
    for line in (
        "  direction between the two: forward_weight 0 is reverse KL, 1 is forward KL\n",
        "  dials     forward_weight: 0.5\n",
        "  fused     formed without logits, from a vocabulary of 512 tokens\n",
        "  NeMo-RL   kl_type: mixed, mixed_kl_weight = forward_weight\n",
    ):
        assert line in text
    assert main(["objectives", "--json"]) == 0
    assert set(yaml.safe_load(capsys.readouterr().out)) >= {"eopd", "tvd", "pg_reverse_kl", "topk_reverse_kl"}
    assert main(["objectives", "blendd"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown objective 'blendd': expected one of "
        + ", ".join(sorted(_names()))
        + " (did you mean 'blend'?)\n"
    )
    assert main(["recipes"]) == 0
    assert "gkd\n  Generalized JSD, half of the steps" in capsys.readouterr().out


def _names() -> list[str]:
    from odkd.objectives import OBJECTIVES

    return list(OBJECTIVES)
