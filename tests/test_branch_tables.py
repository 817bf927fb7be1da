"""Branch columns, dropped branches and pieces, as scoring writes them, against a pass over each sequence in float64."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_scoring import PAIRS, write_samples
from tiny_models import VOCAB, tiny
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from odeval.engines.hf_model import HfModel
from odeval.pieces import joined, pieces_of
from odeval.schemas import BRANCH_COLUMNS, BRANCH_FLOOR, DROPPED
from odeval.scoring import score, score_sequences
from odeval.store import RunFolder

FIELDS = ("position", "token_id", "teacher_prob", "student_prob", "teacher_entropy", "student_entropy")


def distributions(model: HfModel, prompt: list[int], completion: list[int]) -> np.ndarray:
    with torch.no_grad():
        wide = copy.deepcopy(model.model).double()
        logits = wide(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    values = np.exp(logits[:, : model.vocab_size].numpy())
    return values / values.sum(1, keepdims=True)


def naive(p: np.ndarray, q: np.ndarray) -> tuple[float, float, list[int]]:
    """Teacher mass in the student's nucleus, shared favourites, dropped tokens of one position; written from words."""
    ranked = [sorted(range(VOCAB), key=lambda v: -x[v]) for x in (p, q)]
    nucleus, mass = [], 0.0
    while mass < 0.95:
        nucleus.append(ranked[1][len(nucleus)])
        mass += q[nucleus[-1]]
    return (
        sum(p[v] for v in nucleus),
        len(set(ranked[0][:16]) & set(ranked[1][:16])) / 16,
        [v for v in range(VOCAB) if p[v] >= 0.1 and q[v] < 0.01],
    )


def entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())


def test_branches_equal_a_naive_pass_over_each_sequence() -> None:
    teacher, student = tiny(seed=1), tiny(seed=2, sharpness=14)
    looked_at = listed = 0
    for pair, found in zip(PAIRS, score_sequences(teacher, student, PAIRS), strict=True):
        rows = zip(*(distributions(model, *map(list, pair)) for model in (teacher, student)), strict=True)  # type: ignore[arg-type]
        expected = []
        for t, (p, q) in enumerate(rows):
            columns = found.values[6:, t]
            if entropy(p) < BRANCH_FLOOR:
                assert np.isnan(columns).all()
                continue
            recall, shared, dropped = naive(p, q)
            looked_at += 1
            np.testing.assert_allclose(columns, [recall, shared, len(dropped)], rtol=6e-4, atol=1e-5)
            expected += [(t, v, p[v], q[v]) for v in dropped]
        listed += len(expected)
        own = sorted(zip(*(column.tolist() for column in found[1:]), strict=True))
        assert [row[:2] for row in own] == [row[:2] for row in sorted(expected)]
        np.testing.assert_allclose([r[2:] for r in own], [r[2:] for r in sorted(expected)], rtol=1e-4, atol=1e-6)
    assert looked_at > 20
    assert listed > 5


@pytest.fixture
def scored(tmp_path: Path) -> tuple[HfModel, HfModel, RunFolder, RunFolder]:
    teacher, student = tiny(seed=1), tiny(seed=2, sharpness=14)
    runs = [RunFolder(tmp_path / name) for name in ("teacher", "student")]
    write_samples(runs[0], [PAIRS[:3], [PAIRS[3], PAIRS[3]]])
    write_samples(runs[1], [PAIRS[4:]])
    score(teacher, student, runs[0], runs[1])
    return teacher, student, runs[0], runs[1]


def test_dropped_branches_stand_beside_the_tokens(scored: tuple[HfModel, HfModel, RunFolder, RunFolder]) -> None:
    teacher, student, _, run = scored
    tokens = pq.read_table(run.tokens("teacher") / "part-00001-00000.parquet", partitioning=None)
    dropped = pq.read_table(run.dropped("teacher") / "part-00001-00000.parquet", partitioning=None)
    assert dropped.schema.remove_metadata() == DROPPED
    own = score_sequences(teacher, student, [PAIRS[3]])[0]
    assert len(own.token) > 0
    rows = dropped.to_pylist()
    assert [row["prompt_id"] for row in rows] == ["p1-0"] * len(own.token) + ["p1-1"] * len(own.token)
    for row, at, token in zip(rows, [*own.position] * 2, [*own.token] * 2, strict=True):
        assert (row["position"], row["token_id"]) == (at, token)
        assert row["teacher_entropy"] == tokens["teacher_entropy"][0][int(at)].as_py()
        assert row["student_entropy"] == tokens["student_entropy"][0][int(at)].as_py()
    counted = np.array([tokens["dropped"][0].as_py()])
    assert np.nansum(counted) == len(own.token)
    assert set(BRANCH_COLUMNS) <= set(tokens.column_names)


def test_a_lost_or_foreign_table_of_dropped_branches_is_made_again(
    scored: tuple[HfModel, HfModel, RunFolder, RunFolder],
) -> None:
    teacher, student, source, run = scored
    files = sorted([*(run.path / "dropped").rglob("*.parquet"), *(run.path / "tokens").rglob("*.parquet")])
    before = {path: path.read_bytes() for path in [*files, run.piece_table]}
    part = run.dropped("teacher") / "part-00000-00000.parquet"
    part.unlink()
    assert "1 of 2 parts" in run.stale_tokens("teacher", source)
    score(teacher, student, source, run)
    assert {path: path.read_bytes() for path in before} == before
    write_samples(source, [[PAIRS[7]], [PAIRS[3], PAIRS[3]]])
    assert "part-00000-00000.parquet was scored from other samples" in run.stale_tokens("teacher", source)
    (run.dropped("teacher") / "part-00009-00000.parquet").write_bytes(part.read_bytes())
    score(teacher, student, source, run)
    assert run.stale_tokens("teacher", source) == ""
    assert part.read_bytes() != before[part]
    for path in (run.dropped(t) for t in ("teacher", "student")):
        assert not any(file.exists() for file in path.glob("part-00009*"))


def test_pieces_are_those_met_and_join_to_the_text(scored: tuple[HfModel, HfModel, RunFolder, RunFolder]) -> None:
    teacher, _, source, run = scored
    pieces = run.pieces()
    met = {int(i) for _, tokens in PAIRS for i in tokens}
    for trajectory in ("teacher", "student"):
        for table in run.iterate(run.dropped(trajectory)):
            met |= set(table["token_id"].to_pylist())
    assert set(pieces) == met
    ids = [int(i) for i in PAIRS[7][1]]
    assert joined(pieces[i] for i in ids).strip() == teacher.tokenizer.decode(ids)
    assert RunFolder(source.path).pieces() == {}


def test_bytes_of_a_character_are_put_together_again() -> None:
    text = "naïve 漢字 🦜 a b  c"
    model = Tokenizer(BPE())
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model.train_from_iterator(
        ["a b c abc"], BpeTrainer(vocab_size=270, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) > len(text), "characters are cut into bytes"
    pieces = [piece.decode("utf-8", "surrogateescape") for piece in pieces_of(tokenizer, ids)]
    assert joined(pieces) == text
    assert joined(pieces[:3]) == "na\ufffd", "half a character"
    assert pieces_of(tokenizer, []) == []


def test_a_decoder_that_drops_the_first_space_does_not_lose_it() -> None:
    model = Tokenizer(BPE(vocab={"▁": 0, "a": 1, "▁a": 2, "<0xC3>": 3, "<0xBC>": 4}, merges=[("▁", "a")]))
    model.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model)
    assert pieces_of(tokenizer, [2, 1, 3, 4]) == [b" a", b"a", b"\xc3", b"\xbc"]


def test_a_table_without_branch_columns_can_still_be_read(
    scored: tuple[HfModel, HfModel, RunFolder, RunFolder],
) -> None:
    from odeval.metrics.tokens import blocks

    *_, run = scored
    for path in run.part_paths(run.tokens("teacher")):
        table = pq.read_table(path, partitioning=None).drop_columns(list(BRANCH_COLUMNS))
        pq.write_table(table, path)
    block = next(blocks(run, "teacher"))
    assert len(block.dropped) == len(block.forward_kl)
    assert np.isnan(block.dropped).all()
    assert isinstance(table, pa.Table)
