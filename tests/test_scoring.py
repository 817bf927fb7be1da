"""Token scores against one sequence at a time in float64, in pieces of any size, and only as often as needed."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import ARCHITECTURES, EOS, VOCAB, WORDS, network, tiny

from odeval import scoring
from odeval.atomic import write_json
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.errors import CannotJudge, OdevalError
from odeval.schemas import SAMPLES, TOKEN_COLUMNS, TOKENS
from odeval.scoring import score, score_sequences
from odeval.store import RunFolder, part_provenance, write_table
from odeval.testbed.build import tiny_tokenizer
from odeval.types import TRAJECTORIES, SamplingParams

Pair = tuple[Sequence[int], Sequence[int]]
RANDOM = np.random.default_rng(0)
PAIRS: list[Pair] = [
    ([1, *RANDOM.integers(4, VOCAB, size=p).tolist()], RANDOM.integers(2, VOCAB, size=t).tolist())
    for p, t in ((2, 5), (0, 1), (9, 3), (2, 12), (4, 7), (20, 2), (2, 5), (1, 30))
]


def naive(teacher: HfModel, student: HfModel, pair: Pair) -> np.ndarray:
    """Both models in float64, one sequence, the sums written out. Shares no code with odeval.divergence."""
    prompt, completion = pair
    probs = []
    for model in (teacher, student):
        with torch.no_grad():
            wide = copy.deepcopy(model.model).double()
            logits = wide(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0]
        logits = logits[:, : model.vocab_size].numpy()
        probs.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    rows = []
    for t, token in enumerate(completion):
        p, q = (own[len(prompt) - 1 + t] for own in probs)
        rows.append(
            [
                np.log(p[token]),
                np.log(q[token]),
                -(p * np.log(p)).sum(),
                -(q * np.log(q)).sum(),
                (p * np.log(p / q)).sum(),
                (q * np.log(q / p)).sum(),
            ]
        )
    return np.array(rows).T


def check(found: np.ndarray | scoring.Scores, expected: np.ndarray | scoring.Scores) -> None:
    found, expected = (x.values[:6] if isinstance(x, scoring.Scores) else x for x in (found, expected))
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(found[:4], expected[:4], rtol=5.5e-4, atol=2e-5)  # half precision
    np.testing.assert_allclose(found[4:], expected[4:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES.keys() - {"mixtral"}))  # its experts know no float64
def test_scores_equal_a_naive_pass_over_each_sequence(architecture: str) -> None:
    teacher, student = tiny(architecture, seed=1), tiny(architecture, seed=2)
    for pair, found in zip(PAIRS, score_sequences(teacher, student, PAIRS), strict=True):
        check(found, naive(teacher, student, pair))


@pytest.mark.parametrize(
    "sizes",
    [
        {"_BATCH_TOKENS": 1},
        {"_CHUNK_BYTES": 1, "_MIN_CHUNK": 1},
        {"_CHUNK_BYTES": 1, "_MIN_CHUNK": 7},
        {"_TILE": {"cpu": 1}},
        {"_TILE": {"cpu": 5 * VOCAB}},
    ],
)
def test_sizes_of_batches_chunks_and_tiles_do_not_matter(
    sizes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = tiny(seed=1), tiny(seed=2)
    whole = score_sequences(teacher, student, PAIRS)
    for name, value in sizes.items():
        monkeypatch.setattr(scoring, name, value)
    for one, other in zip(whole, score_sequences(teacher, student, PAIRS), strict=True):
        check(other, one)


@pytest.mark.parametrize("plain", [True, False])
def test_only_one_chunk_of_logits_is_ever_held(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_CHUNK_BYTES", 4 * VOCAB * 10)
    monkeypatch.setattr(scoring, "_MIN_CHUNK", 10)
    teacher, student = tiny(seed=1), tiny(seed=2)
    teacher.plain_head = student.plain_head = plain
    alive: list[weakref.ref[torch.Tensor]] = []
    rows: list[int] = []
    positions: list[int] = []
    logits_at, hidden = HfModel.logits_at, HfModel.hidden

    def watched(self: HfModel, hidden_NH: torch.Tensor) -> torch.Tensor:
        alive[:] = [ref for ref in alive if ref() is not None]
        assert len(alive) <= 1, "the other model's logits of the same chunk"
        logits = logits_at(self, hidden_NH)
        rows.append(len(logits))
        alive.append(weakref.ref(logits))
        return logits

    def counted(self: HfModel, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        positions.append(input_ids.numel())
        return hidden(self, input_ids, mask)

    monkeypatch.setattr(HfModel, "logits_at", watched)
    monkeypatch.setattr(HfModel, "hidden", counted)
    found = score_sequences(teacher, student, PAIRS)
    assert sum(rows) == 2 * sum(len(completion) for _, completion in PAIRS)
    assert max(rows) == 10
    if not plain:  # then hidden() returns logits: no more of them than a chunk, or one sequence
        longest = max(len(prompt) + len(completion) for prompt, completion in PAIRS)
        assert max(positions) <= max(10, longest)
    check(found[3], naive(teacher, student, PAIRS[3]))


def test_spare_rows_of_a_head_are_cut_before_the_softmax() -> None:
    teacher, student = tiny(seed=1), tiny(seed=2)
    wide = copy.deepcopy(student.model)
    wide.resize_token_embeddings(VOCAB + 64)
    with torch.no_grad():
        wide.lm_head.weight[VOCAB:] = 10.0  # as large as it gets: most of the mass, were it not cut
    padded = HfModel.wrap(wide, tiny_tokenizer(WORDS, 128))
    for one, other in zip(
        score_sequences(teacher, student, PAIRS), score_sequences(teacher, padded, PAIRS), strict=True
    ):
        check(other, one)


def test_a_model_scored_against_itself_differs_nowhere_and_repeats_what_sampling_said() -> None:
    """An off-by-one between logits and tokens would break all three."""
    model = tiny(seed=1)
    prompts = [list(prompt) for prompt, _ in PAIRS]
    answers = HfEngine(model).sample(prompts, [[1, 2, 3]] * len(prompts), SamplingParams(n=1, max_tokens=20))
    pairs = [(prompt, c.token_ids.tolist()) for prompt, own in zip(prompts, answers, strict=True) for c in own]  # type: ignore[attr-defined]
    completions = [c for own in answers for c in own]
    for completion, found in zip(completions, score_sequences(model, model, pairs), strict=True):
        assert not found.values[4:6].any(), "both divergences are exactly 0"
        assert np.array_equal(found.values[[0, 2]], found.values[[1, 3]])
        assert not len(found.token), "a model drops none of its own branches"
        np.testing.assert_allclose(found.values[0], completion.logprobs, rtol=5.5e-4, atol=1e-5)


# Run folders


def write_samples(run: RunFolder, parts: list[list[Pair]], nulls: str = "") -> RunFolder:
    for number, pairs in enumerate(parts):
        rows = {
            "prompt_id": [f"p{number}-{i}" for i in range(len(pairs))],
            "sample_id": [0] * len(pairs),
            "seed": [0] * len(pairs),
            "prompt_token_ids": [list(prompt) for prompt, _ in pairs],
            "token_ids": [list(tokens) for _, tokens in pairs],
            "logprobs": [None] * len(pairs),
            "completion": [""] * len(pairs),
            "finish_reason": ["stop"] * len(pairs),
            "entropies": [None] * len(pairs),
        }
        if nulls:
            rows[nulls] = [None] * len(pairs)
        table = pa.table([pa.array(rows[field.name], field.type) for field in SAMPLES], schema=SAMPLES)
        write_table(run.samples / f"part-{number:05d}-00000.parquet", table, {})
    return run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    teacher = write_samples(RunFolder(tmp_path / "teacher"), [PAIRS[:3], [PAIRS[3], PAIRS[3]]])
    return teacher, write_samples(RunFolder(tmp_path / "student"), [[([1, 5], []), *PAIRS[4:], ([1, 5], [])]])


def test_scores_stand_beside_their_samples(runs: tuple[RunFolder, RunFolder]) -> None:
    teacher, student = tiny(seed=1), tiny(seed=2)
    told: list[tuple[int, int]] = []
    score(teacher, student, *runs, advance=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    for trajectory, source in zip(TRAJECTORIES, runs, strict=True):
        assert not runs[1].stale_tokens(trajectory, source)
        for path in source.part_paths(source.samples):
            samples = pq.read_table(path)
            scored = pq.read_table(runs[1].tokens(trajectory) / path.name, partitioning=None)
            assert scored.schema.remove_metadata() == TOKENS
            assert scored["prompt_id"].equals(samples["prompt_id"])
            for n, tokens in enumerate(samples["token_ids"].to_pylist()):
                found = np.array([scored[name][n].as_py() for name in TOKEN_COLUMNS], dtype=np.float32)
                if tokens:
                    check(found, naive(teacher, student, (samples["prompt_token_ids"][n].as_py(), tokens)))
                else:
                    assert found.shape == (6, 0), "an empty completion has no tokens to score"


def test_a_run_of_empty_completions_can_be_scored(tmp_path: Path) -> None:
    run = write_samples(RunFolder(tmp_path / "run"), [[([1, 5], [])] * 2])
    score(tiny(seed=1), tiny(seed=2), run, run)
    assert pq.read_table(run.tokens("student"), partitioning=None)["forward_kl"].to_pylist() == [[], []]


def test_only_what_changed_is_scored_again(
    runs: tuple[RunFolder, RunFolder], teacher_folder: Path, student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    score_part = scoring._score_part
    monkeypatch.setattr(scoring, "_score_part", lambda *a: scored.append(a[2].name) or score_part(*a))
    teacher, student = HfModel(teacher_folder), HfModel(student_folder)
    score(teacher, student, *runs)
    before = {path: path.read_bytes() for path in (runs[1].path / "tokens").rglob("*.parquet")}
    assert len(scored) == len(before) == 3
    score(teacher, student, *runs)
    assert len(scored) == 3, "nothing changed, nothing is done"

    write_samples(runs[0], [PAIRS[:3], [PAIRS[5]]])
    assert "part-00001-00000.parquet was scored from other samples" in runs[1].stale_tokens("teacher", runs[0])
    score(teacher, student, *runs)
    assert scored[3:] == ["part-00001-00000.parquet"]

    (runs[0].samples / "part-00001-00000.parquet").unlink()
    assert "2 of 1 parts" in runs[1].stale_tokens("teacher", runs[0])
    score(teacher, student, *runs)
    assert len(scored) == 4
    assert runs[1].stale_tokens("teacher", runs[0]) == ""

    score(student, teacher, *runs)
    assert len(scored) == 6, "other models, all parts"
    score(teacher, student, *runs)
    for path in (runs[1].path / "tokens").rglob("*.parquet"):
        assert path.read_bytes() == before[path], "same samples and models, same bytes"


def test_what_cannot_be_scored_gets_one_line(tmp_path: Path, runs: tuple[RunFolder, RunFolder]) -> None:
    teacher, student = tiny(seed=1), tiny(seed=2)
    other = HfModel.wrap(network(), tiny_tokenizer([*WORDS[:-1], "other"], 128), "other")
    with pytest.raises(
        OdevalError, match=rf"vocabularies of llama / other differ at 1 ids, first {VOCAB - 1} \('w27' / 'ot"
    ):
        score(teacher, other, *runs)
    with pytest.raises(
        CannotJudge, match=r"nothing: nothing to score \(samples/ is empty\); run `odeval sample` first"
    ):
        score(teacher, student, RunFolder(tmp_path / "nothing"), runs[1])
    for column, text in (("prompt_token_ids", "the token ids of their prompts"), ("token_ids", "without token ids")):
        bare = write_samples(RunFolder(tmp_path / column), [PAIRS[:2]], nulls=column)
        with pytest.raises(
            CannotJudge, match=rf"part-00000-00000.parquet: has completions .*{text}, and cannot be scored"
        ):
            score(teacher, student, bare, runs[1])
    foreign = write_samples(RunFolder(tmp_path / "foreign"), [[([1, 999], [EOS])]])
    with pytest.raises(CannotJudge, match=rf"holds token id 999, but llama knows only {VOCAB}; score with the models"):
        score(teacher, student, foreign, runs[1])


def test_a_run_of_another_model_is_refused(
    runs: tuple[RunFolder, RunFolder], teacher_folder: Path, student_folder: Path
) -> None:
    teacher, student = HfModel(teacher_folder), HfModel(student_folder)
    for run, model in zip(runs, (teacher, student), strict=True):
        write_json(run.path / "run.json", {"model": asdict(model.ref())})
    score(teacher, student, *runs)
    with pytest.raises(
        OdevalError, match=r"teacher: was sampled from .*teacher, whose files differ from those of .*student now"
    ):
        score(student, student, *runs)
    with pytest.raises(
        OdevalError, match=r"student: was sampled from .*student, whose files differ .*; score with the model"
    ):
        score(teacher, teacher, *runs)


def test_damaged_parts_get_one_line(runs: tuple[RunFolder, RunFolder]) -> None:
    teacher, student = tiny(seed=1), tiny(seed=2)
    score(teacher, student, *runs)
    part = runs[1].tokens("teacher") / "part-00000-00000.parquet"
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(
        OdevalError, match=r"trajectory=teacher/part-00000-00000.parquet: damaged \(.*\); delete it and rer"
    ):
        score(teacher, student, *runs)
    part.unlink()
    score(teacher, student, *runs)
    assert part_provenance(part)["student"] == ""
    source = runs[0].samples / "part-00000-00000.parquet"
    source.write_bytes(source.read_bytes()[:200])
    with pytest.raises(
        OdevalError, match=r"samples/part-00000-00000.parquet: damaged \(.*\); delete it and rerun the stage"
    ):
        score(teacher, student, *runs)
