from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odeval import branching as module
from odeval.branching import branching


def nucleus_by_sorting(row: list[float], mass: float) -> set[int]:
    order = sorted(range(len(row)), key=lambda i: -row[i])
    kept, total = set(), 0.0
    for i in order:
        if total >= mass and row[i] < min(row[j] for j in kept) * (1 - 1e-9):
            break
        kept.add(i)
        total += row[i]
    return kept


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 60), st.sampled_from([0.0, 0.3, 1.0, 3.0, 6.0]), st.integers(0, 10_000), st.sampled_from([1, 3, 128])
)
def test_a_nucleus_is_found_among_few_tokens_or_many(vocab: int, sharpness: float, seed: int, kept: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (sharpness * torch.randn(4, vocab, generator=generator, dtype=torch.float64) for _ in "st")
    found = module._nucleus_recall(student, teacher, kept)
    for n, (row, p) in enumerate(zip(torch.softmax(student, -1).tolist(), torch.softmax(teacher, -1), strict=True)):
        inside = nucleus_by_sorting(row, 0.95)
        assert found[n] == pytest.approx(sum(p[v].item() for v in inside), abs=1e-9)


def test_tokens_as_likely_as_the_last_all_belong() -> None:
    student = torch.zeros(1, 200, dtype=torch.float64)
    teacher = torch.randn(1, 200, dtype=torch.float64)
    for kept in (10, 128, 195, 200):
        assert module._nucleus_recall(student, teacher, kept).item() == pytest.approx(1.0)


def test_branches_against_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = 2 * torch.randn(50, 40, generator=generator)
    student = teacher + 3 * torch.randn(50, 40, generator=generator)
    found = branching(student, teacher)
    p, q = torch.softmax(teacher, -1), torch.softmax(student, -1)
    dropped = {(n, v) for n in range(50) for v in range(40) if p[n, v] >= 0.1 and q[n, v] < 0.01}
    assert set(zip(found.row.tolist(), found.token.tolist(), strict=True)) == dropped
    assert dropped
    for n in range(50):
        assert found.dropped[n] == sum(row == n for row, _ in dropped)
        favourites = [set(x[n].argsort(descending=True)[:16].tolist()) for x in (p, q)]
        assert found.top_overlap[n] == pytest.approx(len(favourites[0] & favourites[1]) / 16)
        kept = nucleus_by_sorting(q[n].tolist(), 0.95)
        assert found.nucleus_recall[n] == pytest.approx(sum(p[n, v].item() for v in kept), abs=1e-5)


def test_the_same_model_drops_nothing() -> None:
    logits = torch.randn(20, 30)
    found = branching(logits, logits)
    assert len(found.row) == 0
    assert (found.top_overlap == 1).all()
    assert (found.nucleus_recall >= 0.95 - 1e-5).all()


def test_a_vocabulary_smaller_than_the_favourites() -> None:
    found = branching(torch.zeros(2, 5), torch.zeros(2, 5))
    assert found.top_overlap.tolist() == [1.0, 1.0]
    assert found.nucleus_recall.tolist() == pytest.approx([1.0, 1.0])
