"""What the diagnostics compute from logits, against the definitions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from odeval.divergence import score_tokens
from odkd import glance as module
from odkd.glance import glance


@pytest.mark.parametrize("tile", [2**16, 100])
@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_glance_is_the_six_definitions(monkeypatch: pytest.MonkeyPatch, tile: int, offset: float) -> None:
    monkeypatch.setattr(module, "_TILE", (tile, tile))
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 37, 29, generator=generator)
    student = student + offset
    tokens = torch.randint(29, (37,), generator=generator)
    q, p = (np.exp(z.double().numpy()) / np.exp(z.double().numpy()).sum(-1, keepdims=True) for z in (student, teacher))
    rows = np.arange(37)
    expected = (
        np.log(p[rows, tokens]), np.log(q[rows, tokens]), -(p * np.log(p)).sum(-1), -(q * np.log(q)).sum(-1),
        (p * np.log(p / q)).sum(-1), (q * np.log(q / p)).sum(-1),
    )  # fmt: skip
    for found, wanted in zip(glance(student, teacher, tokens), expected, strict=True):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_impossible_tokens_and_equal_models() -> None:
    none = float("-inf")
    student = torch.tensor([[0.0, 1.0, none], [0.0, 1.0, none], [0.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    teacher = torch.tensor([[0.5, 1.0, none], [0.5, 1.0, 0.0], [0.5, none, 2.0], [1.0, 1.0, 0.0]])
    tokens = torch.tensor([0, 1, 2, 0])
    found, expected = torch.stack(glance(student, teacher, tokens)), torch.stack(score_tokens(student, teacher, tokens))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found[4, 1] == found[5, 2] == float("inf")
    assert found[4, 3] == found[5, 3] == 0


def test_half_precision_is_widened_before_it_is_summed() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (3 * torch.randn(2, 5, 29, generator=generator)).bfloat16()
    tokens = torch.tensor([0, 1, 2, 3, 4])
    for found, wanted in zip(
        glance(student, teacher, tokens), score_tokens(student.double(), teacher.double(), tokens), strict=True
    ):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
