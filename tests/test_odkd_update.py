"""One update: loss and gradient do not depend on how it is divided, padded or ordered; precision; adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odkd_runs import log_of, settings, weights_of

from odeval.engines.hf_model import HfModel
from odeval.tasks import graph_paths
from odeval.testbed import checkpoint
from odkd import update
from odkd.config import make_config
from odkd.diagnostics import Twins
from odkd.ledger import Ledger
from odkd.models import Pair
from odkd.ranks import Ranks
from odkd.rollout import Batch, Rollouts, pad
from odkd.train import train
from odkd.update import accumulate, both_logits, later

START = str(checkpoint("graph_paths", "warm_start"))


def sampled_batch(tmp_path: Path, pair: Pair, **changes: Any) -> Batch:
    from odeval.engines.hf import HfEngine

    config = make_config(settings(tmp_path, per_device_train_batch_size=12, **changes))
    prompts = graph_paths.prompts("train", 12)
    return Rollouts(HfEngine(pair.student), HfEngine(pair.teacher), prompts, config).at(0)[0]


def rows_of_batch(batch: Batch, chosen: list[int], left: bool = False) -> Batch:
    """Some rows of a batch, trimmed and padded anew, on the left if wanted."""
    prompts, completions, logprobs = [], [], []
    for row in chosen:
        generated, mask = batch.generated_BT[row], batch.mask_BT[row]
        prompts.append(batch.ids_BT[row][mask & ~generated].tolist())
        completions.append(batch.ids_BT[row][generated].tolist())
        logprobs.append(batch.logprob_BT[row][generated].tolist())
    made = pad(batch.source, prompts, completions, logprobs)
    if not left:
        return made
    shift = [int((~row).sum()) for row in made.mask_BT]
    moved = {
        name: torch.stack([row.roll(s) for row, s in zip(getattr(made, name), shift, strict=True)])
        for name in ("ids_BT", "mask_BT", "generated_BT", "logprob_BT")
    }
    return Batch(source=made.source, **moved)


def gradient(pair: Pair, batches: list[Batch], **changes: Any) -> tuple[float, torch.Tensor, dict[str, Any]]:
    given = {"model_name_or_path": "s", "teacher_model_name_or_path": "t", "dataset_name": "d", "output_dir": "o"}
    config = make_config({**given, "max_steps": 1, **changes})
    for parameter in pair.trainable.values():
        parameter.grad = None
    twins = Twins(0.8, pair.student.device)
    accumulate(pair, batches, config, Ranks(), twins, Ledger())
    row = twins.row(Ranks())
    flat = torch.cat([p.grad.reshape(-1) for p in pair.trainable.values() if p.grad is not None])
    return row["loss"], flat, row


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    return Pair(make_config(settings(folder, model_name_or_path=START)), "cpu")


OBJECTIVES: list[dict[str, Any]] = [
    {"objective": "reverse_kl"},
    {"objective": "entropy_gated", "gate": "quantile", "gate_quantile": 0.7, "gate_normalizer": "gated"},
    {"objective": "entropy_gated", "gate": "soft", "gate_normalizer": "gated"},
    {"objective": "eopd", "gate_normalizer": "gated", "gate_threshold": 0.4},
    {"objective": "pg_reverse_kl", "future_weight": 0.9, "future_normalize": True, "single_step": "exact"},
]


@pytest.mark.parametrize("dials", OBJECTIVES, ids=lambda dials: "-".join(map(str, dials.values())))
def test_the_division_of_an_update_changes_nothing(tmp_path: Path, pair: Pair, dials: dict[str, Any]) -> None:
    """Uneven micro-batches, another order, padding on the left: a mean of means would show, or a gate per batch."""
    batch = sampled_batch(tmp_path, pair)
    loss, whole, row = gradient(pair, [batch], **dials)
    order = [5, 0, 11, 3, 8, 1, 9, 2, 10, 4, 7, 6]
    for batches in (
        [rows_of_batch(batch, order)],
        [rows_of_batch(batch, order[:7]), rows_of_batch(batch, order[7:8]), rows_of_batch(batch, order[8:])],
        [rows_of_batch(batch, list(range(12)), left=True)],
    ):
        other, divided, told = gradient(pair, batches, **dials)
        assert other == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(divided, whole, rtol=1e-4, atol=2e-6 * float(whole.abs().max()))
        for name in ("retention", "reverse_kl", "top_overlap", "rollout_kl"):
            assert told[name] == pytest.approx(row[name], rel=1e-4, abs=1e-9), name


def test_chunks_of_tokens_change_nothing(tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = sampled_batch(tmp_path, pair)
    loss, whole, _ = gradient(pair, [batch])
    monkeypatch.setattr(update, "chunk_tokens", lambda vocab_size, device: 7)
    other, chunked, _ = gradient(pair, [batch])
    assert other == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-6 * float(whole.abs().max()))


def test_the_gradient_is_that_of_the_plain_mean(tmp_path: Path, pair: Pair) -> None:
    """Against autograd through whole logits, which share no code with the chunked pass."""
    batch = sampled_batch(tmp_path, pair)
    student, teacher, _ = both_logits(pair.student, pair.teacher, batch)
    log_q, log_p = student.double().log_softmax(-1), teacher.double().log_softmax(-1)
    loss = (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    expected = torch.autograd.grad(loss, list(pair.trainable.values()))
    found, flat, _ = gradient(pair, [batch])
    assert found == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(flat, torch.cat([one.reshape(-1) for one in expected]), rtol=1e-4, atol=1e-7)


def test_loss_temperature_divides_both_models_logits(tmp_path: Path, pair: Pair) -> None:
    batch = sampled_batch(tmp_path, pair)
    student, teacher, _ = both_logits(pair.student, pair.teacher, batch)
    log_q, log_p = (logits.detach().double().div(2).log_softmax(-1) for logits in (student, teacher))
    loss, _, row = gradient(pair, [batch], loss_temperature=2.0)
    assert loss == pytest.approx(float((log_q.exp() * (log_q - log_p)).sum(-1).mean()), rel=1e-6)
    assert row["reverse_kl"] != pytest.approx(loss, rel=0.1)  # diagnostics are of the models as they are


def test_diagnostics_equal_their_definitions(tmp_path: Path, pair: Pair) -> None:
    batch = sampled_batch(tmp_path, pair)
    _, _, row = gradient(pair, [batch], objective="entropy_gated", gate_threshold=0.5)
    student, teacher, tokens = both_logits(pair.student, pair.teacher, batch)
    q, p = (logits.detach().double().softmax(-1).numpy() for logits in (student, teacher))
    own, other = (-(x * np.log(x)).sum(-1) for x in (q, p))
    forward = (p * np.log(p / q)).sum(-1)
    assert row["tokens"] == len(tokens)
    assert row["forward_kl"] == pytest.approx(forward.mean(), rel=1e-5)
    assert row["student_entropy"] == pytest.approx(own.mean(), rel=1e-5)
    assert row["student_high_entropy"] == pytest.approx((own >= 0.8).mean())
    assert row["retention"] == pytest.approx((own[other >= 0.8] >= 0.8).mean())
    assert row["gate_fraction"] == pytest.approx((other >= 0.5).mean())
    gap = np.log(q[np.arange(len(q)), tokens.numpy()]) - batch.logprob_BT[batch.generated_BT].numpy()
    assert row["rollout_largest_gap"] == pytest.approx(np.abs(gap).max(), abs=1e-6)
    assert row["rollout_largest_gap"] < 1e-4  # what is trained is what was sampled
    assert row["effective_samples"] == pytest.approx(np.exp(gap).sum() ** 2 / (np.exp(gap) ** 2).sum() / len(gap))
    place = torch.cat([torch.arange(int(own.sum())) for own in batch.generated_BT]).numpy()
    tokens = tokens.numpy()
    looked_at = (place + tokens) % 16 == 0
    q, p = q[looked_at], p[looked_at]
    top_q, top_p = (np.argsort(-x, axis=-1)[:, :16] for x in (q, p))
    assert row["top_overlap"] == pytest.approx(
        np.mean([len(set(a) & set(b)) / 16 for a, b in zip(top_q, top_p, strict=True)])
    )
    assert row["student_mass_on_teacher_top"] == pytest.approx(
        np.take_along_axis(q, top_p, -1).sum(-1).mean(), rel=1e-5
    )
    assert row["teacher_mass_on_student_top"] == pytest.approx(
        np.take_along_axis(p, top_q, -1).sum(-1).mean(), rel=1e-5
    )
    assert row["teacher_tail_mass"] == pytest.approx(1 - np.take_along_axis(p, top_p, -1).sum(-1).mean(), abs=1e-6)
    table = row["by_teacher_entropy"]
    where = np.digitize(other, table["edges"])
    for number in range(5):
        assert table["share"][number] == pytest.approx((where == number).mean())
        if (where == number).any():
            assert table["forward_kl"][number] == pytest.approx(forward[where == number].mean(), rel=1e-4)
        else:
            assert table["forward_kl"][number] is None


def test_what_comes_later_stays_inside_its_completion() -> None:
    reward, row = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), [0, 0, 0, 1, 1, 2]
    for discount, normalize in ((1.0, False), (0.9, False), (0.9, True)):
        expected = []
        for t in range(6):
            after = [j for j in range(t + 1, 6) if row[j] == row[t]]
            weight = [discount ** (j - t) for j in after]
            total = sum(w * reward[j] for w, j in zip(weight, after, strict=True))
            expected.append(total / sum(weight) if normalize and after else total)
        found = later(torch.tensor(reward), torch.tensor(row), discount, normalize)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_recomputed_activations_give_the_same_weights_and_dropout_is_seeded_by_the_step(tmp_path: Path) -> None:
    outs = {}
    for name, changes in {
        "plain": {},
        "checkpointed": {"gradient_checkpointing": True},
        "accumulated": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
    }.items():
        given = {"max_steps": 3, "model_name_or_path": START, "output_dir": str(tmp_path / name), **changes}
        outs[name] = train(make_config(settings(tmp_path, **given)))
    assert weights_of(outs["plain"]) == weights_of(outs["checkpointed"])
    a, b = (HfModel(outs[name], "cpu").model.state_dict() for name in ("plain", "accumulated"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    assert log_of(outs["plain"])[2]["loss"] == pytest.approx(log_of(outs["accumulated"])[2]["loss"], rel=1e-4)


def test_bfloat16_follows_float32(tmp_path: Path) -> None:
    logs = {}
    for bf16 in (False, True):
        given = {"max_steps": 4, "bf16": bf16, "model_name_or_path": START, "learning_rate": 1e-3}
        out = train(make_config(settings(tmp_path, **given, output_dir=str(tmp_path / str(bf16)))))
        logs[bf16] = log_of(out)
        assert HfModel(out, "cpu").model.dtype == torch.float32
    assert logs[True][0]["loss"] != logs[False][0]["loss"]
    assert logs[True][0]["loss"] == pytest.approx(logs[False][0]["loss"], rel=0.1)
    assert logs[True][0]["rollout_kl"] < 0.01


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers
def test_adapters_learn_and_the_merged_model_is_the_one_that_was_trained(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    given = {"use_peft": True, "lora_r": 4, "max_steps": 8, "model_name_or_path": START, "lora_dropout": 0.1}
    out = train(make_config(settings(tmp_path, **given, lr_scheduler_type="constant", learning_rate=3e-2)))
    ids = torch.tensor([[1, 5, 9, 4, 40, 41]])
    merged, base = HfModel(out, "cpu").model, HfModel(START, "cpu").model
    adapted = peft.PeftModel.from_pretrained(HfModel(START, "cpu").model, out / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-4)
        assert (merged(ids).logits - base(ids).logits).abs().max() > 0.05
    again = train(
        make_config(
            settings(
                tmp_path, **given, lr_scheduler_type="constant", learning_rate=3e-2, output_dir=str(tmp_path / "2")
            )
        )
    )
    assert weights_of(out) == weights_of(again)
