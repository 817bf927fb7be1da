"""The data dial: who writes what a step learns from, and what is known of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odkd_runs import log_of, settings

from odeval.divergence import log_softmax
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.tasks import graph_paths
from odeval.testbed import checkpoint
from odeval.types import SamplingParams
from odkd.config import make_config
from odkd.corpus import read_corpus
from odkd.ledger import Ledger
from odkd.mixed import MixedModel
from odkd.ranks import Ranks
from odkd.rollout import Rollouts
from odkd.train import train

TEACHER, START = checkpoint("graph_paths", "teacher"), checkpoint("graph_paths", "warm_start")


def rollouts(tmp_path: Path, ranks: Ranks | None = None, ledger: Ledger | None = None, **changes: Any) -> Rollouts:
    config = make_config(settings(tmp_path, **changes))
    engines = [HfEngine(folder, "cpu") for folder in (START, TEACHER)]
    return Rollouts(engines[0], engines[1], graph_paths.prompts("train", 60), config, ranks, ledger)


def test_several_completions_of_a_prompt_differ(tmp_path: Path) -> None:
    (batch,) = rollouts(tmp_path, num_generations=4, per_device_train_batch_size=16).at(0)
    assert len(set(batch.names)) == 4
    assert all(len({batch.names[row] for row in range(p * 4, p * 4 + 4)}) == 1 for p in range(4))
    texts = {tuple(row[mask].tolist()) for row, mask in zip(batch.ids_BT, batch.mask_BT, strict=True)}
    assert len(texts) > 8


def test_ranks_and_micro_batches_share_one_update(tmp_path: Path) -> None:
    """Two ranks of 8, two micro-batches of 8, one batch of 16: the same completions to the same prompts."""
    (whole,) = rollouts(tmp_path, per_device_train_batch_size=16).at(3)
    pieces = rollouts(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=2).at(3)
    halves = [rollouts(tmp_path, Ranks(rank, 2), per_device_train_batch_size=8).at(3)[0] for rank in (0, 1)]
    rows = [row[mask].tolist() for row, mask in zip(whole.ids_BT, whole.mask_BT, strict=True)]
    for parts in (pieces, halves):
        assert [
            row[mask].tolist() for part in parts for row, mask in zip(part.ids_BT, part.mask_BT, strict=True)
        ] == rows


def test_a_corpus_is_learnt_from_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    prompts = graph_paths.prompts("train", 10)
    lines = [json.dumps({"prompt": p.text, "completion": graph_paths.solutions(p)[0]}) for p in prompts]
    file.write_text("\n".join(lines) + "\n")
    (batch,) = rollouts(tmp_path, lmbda=0.0, corpus=str(file), per_device_train_batch_size=10).at(0)
    tokenizer = HfModel(START, "cpu").tokenizer
    found = {
        (
            tokenizer.decode(ids[mask & ~own], skip_special_tokens=True),
            tokenizer.decode(ids[own], skip_special_tokens=True),
        )
        for ids, mask, own in zip(batch.ids_BT, batch.mask_BT, batch.generated_BT, strict=True)
    }
    assert found == {(p.text, graph_paths.solutions(p)[0]) for p in prompts}
    assert batch.source == "corpus"
    assert (batch.ids_BT.gather(1, batch.mask_BT.sum(1, keepdim=True) - 1) == tokenizer.eos_token_id).all()
    out = train(make_config(settings(tmp_path, lmbda=0.0, corpus=str(file), max_steps=2, objective="cross_entropy")))
    assert [row["source"] for row in log_of(out)] == ["corpus"] * 2
    assert log_of(out)[0]["rollout_kl"] is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "corpus FILE:1: is no JSON (Expecting property name"),
        ('{"prompt": "a"}', "corpus FILE:1: expected an object with prompt and completion, both text"),
        ('\n{"completion": "a"}', "corpus FILE:2: expected either prompt (text) or messages (a list of turns)"),
        ("\n", "corpus FILE: holds no line; write {prompt, completion} lines, or use seq_kd: true"),
    ],
)
def test_a_broken_corpus_gets_one_line(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text(text)
    with pytest.raises(OdevalError) as caught:
        read_corpus(file, HfModel(START, "cpu"), 8)
    assert str(caught.value).startswith(line.replace("FILE", str(file)))
    with pytest.raises(OdevalError, match=r"^corpus .*none: cannot be read \(No such file"):
        read_corpus(tmp_path / "none", HfModel(START, "cpu"), 8)


def test_a_mixture_is_sampled_as_stated_and_its_weights_undo_it() -> None:
    """First tokens: their shares are those of α p + (1 − α) q, and weighted by q / mixture those of q."""
    student, teacher = HfModel(START, "cpu"), HfModel(TEACHER, "cpu")
    engine = HfEngine(MixedModel(student, teacher, 0.3))
    prompt = engine.encode(graph_paths.prompts("train", 1)[0])
    count = 4000
    drawn = engine.sample([prompt], [list(range(count))], SamplingParams(n=1, max_tokens=1))[0]
    tokens = np.array([int(one.token_ids[0]) for one in drawn])
    with torch.no_grad():
        q, p = (
            log_softmax(model.model(torch.tensor([prompt])).logits[0, -1, : model.vocab_size]).exp().numpy()
            for model in (student, teacher)
        )
    mixed = 0.3 * p + 0.7 * q
    logprobs = np.array([float(one.logprobs[0]) for one in drawn if one.logprobs is not None])
    np.testing.assert_allclose(logprobs, np.log(mixed[tokens]), atol=1e-5)
    shares = np.bincount(tokens, minlength=len(q)) / count
    assert np.abs(shares - mixed).max() < 4 * np.sqrt(0.25 / count)
    weighted = np.bincount(tokens, weights=q[tokens] / mixed[tokens], minlength=len(q)) / count
    assert np.abs(weighted - q).max() < 4 * np.sqrt(0.25 / count)
    assert np.abs(shares - q).max() > np.abs(weighted - q).max()


def test_mixed_rollouts_carry_weights_into_the_loss(tmp_path: Path) -> None:
    out = train(make_config(settings(tmp_path, model_name_or_path=str(START), teacher_mixed_alpha=0.5, max_steps=1)))
    row = log_of(out)[0]
    assert row["source"] == "mixed"
    assert 0.1 < row["effective_samples"] < 0.99
    assert row["loss"] != pytest.approx(row["reverse_kl"], rel=0.01)
    account = json.loads((out / "training.json").read_text())["ledger"]
    assert account["tokens_sampled"] == {"mixed": row["tokens"], "all": row["tokens"]}


def test_no_room_is_told_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(OdevalError) as caught:
        rollouts(tmp_path, max_completion_length=100)
    assert str(caught.value).startswith(
        "max_completion_length 100: with a prompt of 4 tokens it exceeds the 64 positions of "
    ) or str(caught.value).startswith("max_completion_length 100: with a prompt of 4 tokens it exceeds the ")
    assert "lower it to " in str(caught.value)
