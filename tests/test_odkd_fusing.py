"""An update without logits is the update through logits: loss, gradient, log, in every setting that can be fused."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from odkd_runs import log_of, settings, weights_of
from tiny_models import ARCHITECTURES, VOCAB, tiny

from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.fused import loss as fused_loss
from odeval.testbed import checkpoint
from odkd import fusing
from odkd.checkpoint import checkpoints
from odkd.config import make_config
from odkd.diagnostics import Twins
from odkd.fusing import fusing_of
from odkd.ledger import Ledger
from odkd.models import Pair
from odkd.ranks import Ranks
from odkd.rollout import Batch, pad
from odkd.train import train
from odkd.update import accumulate

BASE = {"model_name_or_path": "s", "teacher_model_name_or_path": "t", "dataset_name": "d", "output_dir": "o"}
OBJECTIVES: list[dict[str, Any]] = [
    {"objective": "forward_kl"},
    {"objective": "reverse_kl"},
    {"objective": "blend", "forward_weight": 0.3},
    {"objective": "blend", "forward_weight": 0.0},
    {"objective": "entropy_gated", "gate_threshold": 1.0, "gate_weight": 0.7},
    {"objective": "entropy_gated", "gate": "soft", "gate_threshold": 1.0, "gate_width": 0.3},
    {"objective": "jsd", "beta": 0.3},
    {"objective": "jsd", "beta": 0.7, "jsd_scale": "unit"},
    {"objective": "jsd", "beta": 1.0},
    {"objective": "skew_forward_kl", "skew_alpha": 0.2},
    {"objective": "skew_reverse_kl", "skew_alpha": 0.2},
    {"objective": "blend", "loss_temperature": 2.0},
]


def pair_of(student: HfModel, teacher: HfModel) -> Pair:
    pair = Pair.__new__(Pair)
    pair.student, pair.teacher = student, teacher
    teacher.model.requires_grad_(False)
    pair.trainable = {name: p for name, p in student.model.named_parameters() if p.requires_grad}
    return pair


def tiny_pair(architecture: str = "llama", dtype: torch.dtype = torch.float32) -> Pair:
    models = [tiny(architecture, seed, sharpness=6.0) for seed in (0, 1)]
    for model in models:
        model.model.to(dtype)
    return pair_of(models[0], models[1])


def batches(source: Literal["student", "mixed"] = "student", rows: int = 9, parts: int = 1) -> list[Batch]:
    """Completions of 1 to 9 tokens, with log-probabilities near those of nobody, cut into parts of uneven size."""
    generator = torch.Generator().manual_seed(3)
    lengths = [1 + (4 * row) % 9 for row in range(rows)]
    prompts = [torch.randint(4, VOCAB, (2 + row % 3,), generator=generator).tolist() for row in range(rows)]
    completions = [torch.randint(4, VOCAB, (n,), generator=generator).tolist() for n in lengths]
    logprobs = [(-3 - torch.rand(n, generator=generator)).tolist() for n in lengths]
    cut = [0, rows] if parts == 1 else [0, rows // 4, rows // 4 + 1, rows]
    return [pad(source, prompts[a:b], completions[a:b], logprobs[a:b]) for a, b in pairwise(cut)]


def update(pair: Pair, given: list[Batch], **changes: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """Gradient and log row of one update."""
    config = make_config({**BASE, "max_steps": 1, **changes})
    for parameter in pair.trainable.values():
        parameter.grad = None
    twins = Twins(0.8, pair.student.device)
    accumulate(pair, given, config, Ranks(), twins, Ledger())
    grads = [p.grad.reshape(-1) for p in pair.trainable.values() if p.grad is not None]
    return torch.cat(grads), twins.row(Ranks())


def assert_same(
    one: tuple[torch.Tensor, dict[str, Any]], other: tuple[torch.Tensor, dict[str, Any]], relative: float = 1e-6
) -> None:
    (gradient, row), (expected, told) = one, other
    assert float((gradient - expected).norm()) <= relative * float(expected.norm())
    assert row.keys() == told.keys()
    assert row["loss"] == pytest.approx(told["loss"], rel=relative)
    bins, expected_bins = row["by_teacher_entropy"], told["by_teacher_entropy"]
    named = [(name, row[name], told[name]) for name in row.keys() - {"by_teacher_entropy"}]
    named += [(name, *both) for name in bins for both in zip(bins[name], expected_bins[name], strict=True)]
    for name, value, wanted in named:
        if value is None or wanted is None:
            assert value is wanted, name
        else:
            assert value == pytest.approx(wanted, rel=10 * relative, abs=1e-5), name


@pytest.fixture
def no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("logits were taken")

    monkeypatch.setattr(HfModel, "logits_at", never)


@pytest.mark.parametrize("dials", OBJECTIVES, ids=lambda dials: "-".join(map(str, dials.values())))
@pytest.mark.parametrize("source", ["student", "mixed"])
def test_loss_gradient_and_log_are_those_through_logits(source: Any, dials: dict[str, Any]) -> None:
    """In float64 to rounding, so that both compute one thing; in float32 to what float32 holds."""
    rounding = 1e-6 if source == "mixed" and "loss_temperature" in dials else 1e-12  # weights from float32 scores
    for dtype, relative in ((torch.float32, 1e-6), (torch.float64, rounding)):
        pair = tiny_pair(dtype=dtype)
        found, expected = (update(pair, batches(source), fused=fused, **dials) for fused in (True, False))
        assert_same(found, expected, relative if dtype == torch.float32 else 1e-7)  # the log is kept in float32
        assert float((found[0] - expected[0]).norm()) <= relative * float(expected[0].norm())
        assert float(expected[0].norm()) > 1e-3


@pytest.mark.parametrize("architecture", ["gemma2", "cohere", "granite", "gpt2", "qwen3"])
def test_capped_scaled_and_tied_heads(architecture: str) -> None:
    assert architecture in ARCHITECTURES
    pair = tiny_pair(architecture)
    found, expected = (update(pair, batches(), objective="blend", fused=fused) for fused in (True, False))
    assert_same(found, expected, 2e-6)


@pytest.mark.usefixtures("no_logits")
@pytest.mark.parametrize("source", ["student", "mixed"])
def test_the_division_of_an_update_changes_nothing(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batches of uneven size, and chunks of a few tokens; no more logits than those are ever there."""
    pair = tiny_pair()
    whole = update(pair, batches(source), objective="jsd", fused=True)
    assert_same(update(pair, batches(source, parts=3), objective="jsd", fused=True), whole, 2e-6)
    monkeypatch.setattr(fused_loss, "fitting_chunk", lambda *_: 7)
    seen: list[int] = []
    look = Twins.look

    def watch(self: Twins, student: torch.Tensor, *others: torch.Tensor) -> None:
        seen.append(len(student))
        look(self, student, *others)

    monkeypatch.setattr(Twins, "look", watch)
    assert_same(update(pair, batches(source), objective="jsd", fused=True), whole, 2e-6)
    assert max(seen) == 7
    assert sum(seen) == whole[1]["tokens"]


def test_auto_fuses_large_vocabularies_and_only_what_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()

    def fused(**changes: Any) -> bool:
        config = make_config({**BASE, "max_steps": 1, **changes})
        return fusing_of(pair.student, pair.teacher, config, config.objective) is not None

    small = pair.student.vocab_size
    assert not fused()
    assert fused(fused=True)
    monkeypatch.setattr(fusing, "PAYS_FROM", small)
    assert fused()
    assert not fused(fused=False)
    assert not fused(objective="entropy_gated", gate="quantile")
    assert not fused(objective="entropy_gated", gate_normalizer="gated")
    for name in ("tvd", "eopd", "pg_reverse_kl", "topk_reverse_kl", "adaptive_kl", "cross_entropy"):
        assert not fused(objective=name), name
    monkeypatch.setattr(fusing, "PAYS_FROM", small + 1)
    assert not fused()


def test_the_embedded_worlds_keep_their_logits() -> None:
    """Their checkpoints were trained through logits, and must come out again bit for bit."""
    for world in ("graph_paths", "countdown"):
        assert HfModel(checkpoint(world, "teacher"), "cpu").vocab_size < fusing.PAYS_FROM


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_an_adapted_head_takes_logits_and_a_frozen_one_gets_no_gradient(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    start = str(checkpoint("graph_paths", "warm_start"))
    given = settings(tmp_path, model_name_or_path=start, use_peft=True, lora_r=4, lora_dropout=0.0)
    frozen = Pair(make_config(given), "cpu")
    found, expected = (update(frozen, batches(), objective="blend", fused=fused) for fused in (True, False))
    assert_same(found, expected, 2e-6)
    assert frozen.student.model.get_output_embeddings().weight.grad is None
    adapted = Pair(make_config(given | {"lora_target_modules": ["q_proj", "lm_head"]}), "cpu")
    config = make_config({**BASE, "max_steps": 1, "fused": True})
    with pytest.raises(OdevalError, match=r"^fused: the output layer of .* is not one plain matrix \(adapters on it, "):
        fusing_of(adapted.student, adapted.teacher, config, "reverse_kl")
    at = make_config({**BASE, "max_steps": 1})
    assert fusing_of(adapted.student, adapted.teacher, at, "reverse_kl") is None
    assert math.isfinite(update(adapted, batches())[1]["loss"])


def test_bfloat16_is_near_float32_and_nearer_than_through_logits() -> None:
    """Logits that leave a product in bfloat16 are rounded; here they leave in float32."""
    pair = tiny_pair()
    exact, _ = update(pair, batches(), objective="blend")
    pair.teacher.model.bfloat16()
    wrong = {}
    for fused in (True, False):
        gradient, row = update(pair, batches(), objective="blend", bf16=True, fused=fused)
        assert gradient.dtype == torch.float32
        assert math.isfinite(row["loss"])
        wrong[fused] = float((gradient - exact).norm() / exact.norm())
    assert wrong[True] < wrong[False] < 0.1


def test_interrupted_and_taken_up_again_it_is_the_same_run(tmp_path: Path) -> None:
    own: dict[str, Any] = {"objective": "blend", "fused": True, "max_steps": 6, "save_steps": 2, "bf16": False}
    own |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}

    def stop(row: dict[str, Any], steps: int) -> None:
        if row["step"] == 4:
            raise KeyboardInterrupt

    whole = train(make_config(settings(tmp_path, **own, output_dir=str(tmp_path / "whole"))))
    config = make_config(settings(tmp_path, **own, output_dir=str(tmp_path / "cut")))
    with pytest.raises(KeyboardInterrupt):
        train(config, stop)
    assert checkpoints(tmp_path / "cut")
    cut = train(config)
    assert weights_of(cut) == weights_of(whole)
    assert log_of(cut) == log_of(whole)
    plain = train(make_config(settings(tmp_path, **own | {"fused": False}, output_dir=str(tmp_path / "plain"))))
    for row, other in zip(log_of(whole), log_of(plain), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_fused_is_refused_where_it_cannot_be() -> None:
    for changes in ({"objective": "tvd"}, {"objective": "entropy_gated", "gate": "quantile"}):
        with pytest.raises(OdevalError) as caught:
            make_config({**BASE, "max_steps": 1, "fused": True, **changes}, "run.yaml")
        assert str(caught.value) == (
            f"run.yaml: fused: {changes['objective']} as it is set here needs logits; set fused: auto, or take "
            "reverse_kl, forward_kl, blend, entropy_gated, jsd, skew_forward_kl, skew_reverse_kl"
        )
