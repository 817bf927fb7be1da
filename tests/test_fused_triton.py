"""Triton's kernels against autograd through full logits in float64: on a GPU if there is one, else interpreted."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_fused import KIND_CASES, exact_kl, naive

from odeval.divergence import score_tokens
from odeval.errors import OdevalError
from odeval.fused import Fused, Head, Kind, fused_divergence, kernels, rows
from odeval.fused.rows import Wanted

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from odeval.fused import triton_rows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
N, V, H, G = 4, 41, 7, 6
CASES = {  # weights per token are of fewer tokens here
    name: replace(
        kind,
        **{w: x[::6] for w in ("forward_weight", "reverse_weight") if isinstance(x := getattr(kind, w), torch.Tensor)},
    )
    for name, kind in KIND_CASES.items()
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rows take more than one block; what numpy says of 0 · inf in branches not taken is no news."""
    monkeypatch.setattr(triton_rows, "BLOCK", 32)
    monkeypatch.setattr(kernels, "_found", dict(kernels._found))
    with np.errstate(all="ignore"):
        yield


class Case:
    """Hidden states of two models and their heads, with rows to spare."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        shapes = (N, H), (V + 3, H), (V + 3,), (N, G), (V + 9, G)
        made = [torch.randn(shape).to(DEVICE, dtype) for shape in shapes]
        self.leaves = [leaf.requires_grad_() for leaf in made[:3]]
        self.teacher_hidden, self.teacher_weight = made[3:]

    def fused(self, kind: Kind, scale: float = 1.0, cap: float | None = None, **options: Any) -> Fused:
        hidden, weight, bias = self.leaves
        parts = self.teacher_hidden, Head(self.teacher_weight)
        head = Head(weight, bias, scale, cap)
        return fused_divergence(hidden, head, *parts, kind, vocab_size=V, kernel="triton", **options)

    def logits(self, scale: float = 1.0, cap: float | None = None, temperature: float = 1.0) -> list[torch.Tensor]:
        hidden, weight, bias = (leaf.double() for leaf in self.leaves)
        student = scale * (hidden @ weight.T + bias)
        if cap is not None:
            student = cap * torch.tanh(student / cap)
        teacher = self.teacher_hidden.double() @ self.teacher_weight.double().T
        return [z[:, :V] / temperature for z in (student, teacher)]


def from_logits(student: torch.Tensor, teacher: torch.Tensor, kind: Kind, **options: Any) -> Fused:
    identity = Head(torch.eye(student.shape[1], device=DEVICE))
    parts = student.to(DEVICE), identity, teacher.to(DEVICE), identity
    return fused_divergence(*parts, kind, kernel="triton", **options)


SLOPES = ["forward_kl", "entropy_gated", "jsd", "skew_forward_kl", "skew_reverse_kl"]  # one case of each code path


@pytest.mark.parametrize(("name", "scaled"), [(n, False) for n in CASES] + [(n, True) for n in SLOPES])
def test_value_and_gradients_equal_autograd_through_full_logits(name: str, scaled: bool) -> None:
    case, kind = Case(), CASES[name]
    weights = torch.linspace(-1, 2, N, device=DEVICE)
    dials = {"scale": 3.0, "cap": 1.5, "temperature": 0.7} if scaled else {}
    if scaled:  # weighed unequally, so scored twice
        loss = case.fused(kind, chunk_tokens=3, recompute=True, **dials).loss
    else:
        loss, weights = case.fused(kind, chunk_tokens=4).loss, torch.ones_like(weights)
    expected = naive(replace(kind, **{w: x.to(DEVICE).double() for w, x in tensors(kind)}), *case.logits(**dials))
    torch.testing.assert_close(loss.double(), expected, rtol=3e-6, atol=1e-6)
    totals = (loss * weights).sum(), (expected * weights).sum()
    for ours, theirs in zip(*(torch.autograd.grad(total, case.leaves) for total in totals), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def tensors(kind: Kind) -> list[tuple[str, torch.Tensor]]:
    weights = ((name, getattr(kind, name)) for name in ("forward_weight", "reverse_weight"))
    return [(name, weight) for name, weight in weights if isinstance(weight, torch.Tensor)]


@pytest.mark.parametrize("vocab", [1, 32, 33, 77])
@pytest.mark.parametrize("name", ["softly gated", "skew_reverse_kl"])
def test_blocks_of_any_fit_give_what_pytorch_gives(vocab: int, name: str) -> None:
    torch.manual_seed(vocab)
    student, teacher = (3 * torch.randn(3, vocab, device=DEVICE) for _ in range(2))
    factor = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64, device=DEVICE)
    results = []
    for score in (rows.score_rows, triton_rows.score_rows):
        logits = student.clone(), teacher.clone()
        tokens = torch.arange(3, device=DEVICE) % vocab
        found = score(*logits, CASES[name], slice(1, 4), tokens, 4, Wanted(factor, 40.0))
        results.append([found.loss, *found.scores, *found[2:], logits[0].double()])
    for ours, theirs in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def test_scores_are_those_an_audit_stores_and_the_top_masses() -> None:
    case, tokens = Case(), torch.arange(N, device=DEVICE)
    found = case.fused(Kind("jsd"), token_ids=tokens, top_k=4, chunk_tokens=3)
    student, teacher = (z.detach() for z in case.logits())
    for ours, theirs in zip(found.scores, score_tokens(student, teacher, tokens), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    p, q = teacher.softmax(-1), student.softmax(-1)
    favourites = p.argsort(descending=True)[:, :4]
    torch.testing.assert_close(found.teacher_top_mass.double(), p.gather(1, favourites).sum(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.student_top_mass.double(), q.gather(1, favourites).sum(1), rtol=1e-6, atol=0)
    assert all(x.isnan().all() for x in (*case.fused(Kind("jsd")).scores[:2], *case.fused(Kind("jsd"))[2:]))


@pytest.mark.parametrize("name", ["forward_kl", "entropy_gated", "jsd"])
def test_bfloat16_comes_in_and_float32_is_computed(name: str) -> None:
    case = Case(torch.bfloat16)
    loss, expected = case.fused(CASES[name]).loss, naive(CASES[name], *case.logits())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(*(torch.autograd.grad(x.sum(), case.leaves) for x in (loss, expected)), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", SLOPES)
def test_equal_models_give_exactly_zero_and_no_gradient(name: str) -> None:
    torch.manual_seed(1)
    logits = 4 * torch.randn(3, V)
    student = logits.to(DEVICE).requires_grad_()
    found = from_logits(student, logits, CASES[name], token_ids=torch.arange(3, device=DEVICE))
    assert found.loss.eq(0).all()
    assert not torch.signbit(found.scores.forward_kl + found.scores.reverse_kl).any()
    assert torch.equal(found.scores.teacher_logprob, found.scores.student_logprob)
    assert torch.autograd.grad(found.loss.sum(), student)[0].eq(0).all()


@pytest.mark.parametrize("size", [2, 60])
@pytest.mark.parametrize("offset", [0.0, 37.0])
@pytest.mark.parametrize("step", [1.0, 5e-5, 1e-5])
def test_a_kl_of_1e_11_is_right_to_1e_5_and_none_is_negative(size: int, offset: float, step: float) -> None:
    random = np.random.default_rng(3)  # with log-sum-exps that float32 makes wrong by more than most
    teacher = (random.normal(size=(3, size)) * 8).astype(np.float32)
    student = (teacher + step * random.normal(size=(3, size)) + offset).astype(np.float32)
    found = from_logits(torch.from_numpy(student), torch.from_numpy(teacher), Kind("jsd", beta=0.4))
    for n in range(3):
        p, q = teacher[n].astype(float), student[n].astype(float)
        m = np.logaddexp(math.log(0.4) + p - np.logaddexp.reduce(p), math.log(0.6) + q - np.logaddexp.reduce(q))
        p, q, m = p.tolist(), q.tolist(), m.tolist()
        for ours, exact, limit in (
            (found.scores.forward_kl, exact_kl(p, q), 1e-11),
            (found.scores.reverse_kl, exact_kl(q, p), 1e-11),
            (found.loss, 0.4 * exact_kl(p, m) + 0.6 * exact_kl(q, m), 1e-8),  # m is rounded to float64
        ):
            assert float(ours[n]) >= 0
            if exact > limit:
                assert float(ours[n]) == pytest.approx(exact, rel=1e-5, abs=0)


def test_a_gradient_survives_where_the_divergence_is_at_the_edge_of_float32() -> None:
    torch.manual_seed(2)
    teacher = torch.randn(N, 30)
    student = (teacher + 1e-5 * torch.randn(N, 30)).to(DEVICE).requires_grad_()
    expected = student.detach().double().softmax(-1) - teacher.to(DEVICE).double().softmax(-1)  # to first order, all
    for kind in (Kind("forward_kl"), Kind("reverse_kl"), Kind("jsd", jsd_scale="unit")):
        (gradient,) = torch.autograd.grad(from_logits(student, teacher, kind).loss.sum(), student)
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-11)


def test_distributions_far_apart_overflow_nowhere() -> None:
    student = torch.tensor([[0.0, -1000.0], [0.0, -1000.0], [3e3, 0.0]]).to(DEVICE).requires_grad_()
    teacher = torch.tensor([[-1000.0, 0.0], [0.0, -1000.0], [0.0, 3e3]])
    for name in SLOPES:
        found = from_logits(student, teacher, Kind(name))
        assert torch.autograd.grad(found.loss.sum(), student)[0].isfinite().all()
        assert found.scores.forward_kl.tolist() == pytest.approx([1000, 0, 3000])
        assert found.scores.reverse_kl.tolist() == pytest.approx([1000, 0, 3000])
        bounded = {"jsd": math.log(2), "skew_forward_kl": -math.log(0.1), "skew_reverse_kl": -math.log(0.1)}
        if name in bounded:
            assert found.loss.tolist() == pytest.approx([bounded[name], 0, bounded[name]])


def test_impossible_tokens_count_as_in_the_audit_and_nan_stays() -> None:
    torch.manual_seed(3)
    student, teacher = (3 * torch.randn(5, V) for _ in range(2))
    student[0, 5], teacher[0, 5], teacher[1, 1], student[2, 2], student[3, 0] = (-math.inf,) * 4 + (math.nan,)
    tokens = torch.arange(5)
    parts = (z.to(DEVICE) for z in (student, teacher))
    found = triton_rows.score_rows(*parts, Kind("jsd"), slice(0, 5), tokens.to(DEVICE))
    expected = score_tokens(student.double(), teacher.double(), tokens)
    for ours, theirs in zip(found.scores, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert found.loss.isfinite().tolist() == [True, True, True, False, True]


def test_a_kernel_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_found", {})
    monkeypatch.setattr(kernels, "_GPUS", (DEVICE.type,))
    case = Case()
    arguments = case.leaves[0], Kind("forward_kl"), False
    assert kernels.score_rows_by("auto", *arguments) is triton_rows.score_rows
    monkeypatch.setattr(kernels, "_found", {})
    monkeypatch.setattr(triton_rows, "_sum_up", WrongSums())
    says = rf"fused forward_kl on {DEVICE}.*: PyTorch is used, Triton's kernel is not: loss differs by \d"
    with pytest.warns(RuntimeWarning, match=says):
        assert kernels.score_rows_by("auto", *arguments) is rows.score_rows
    assert kernels.score_rows_by("auto", *arguments) is rows.score_rows, "and is not said again"
    with pytest.raises(OdevalError, match=r"kernel triton: loss differs by .*; set kernel='torch'"):
        case.fused(Kind("forward_kl"))


class WrongSums:
    """The kernel, and a thousandth more of every sum."""

    kernel = triton_rows._sum_up

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            self.kernel[grid](*arguments, **options)
            arguments[3].mul_(1.001)

        return launch


@pytest.mark.skipif(DEVICE.type == "cuda", reason="there is a GPU, so the kernels run on it")
def test_a_kernel_that_does_not_run_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_found", {})
    with pytest.warns(RuntimeWarning, match=r"fused jsd on cuda: PyTorch is used, Triton's kernel is not: \w+: .*CUDA"):
        assert kernels._difference(torch.device("cuda"), Kind("jsd"), capped=False)


def test_triton_asked_for_where_it_does_not_run_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    case, wide = Case(), Case(torch.float64)
    with pytest.raises(OdevalError, match=r"unknown kernel 'trition': .*did you mean 'triton'"):
        kernels.score_rows_by("trition", case.leaves[0], Kind("jsd"), False)
    with pytest.raises(OdevalError, match="kernel triton: its kernels are in float32, and the hidden states in"):
        wide.fused(Kind("jsd"))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(OdevalError, match="kernel triton: it runs on GPUs, and the hidden states are on cpu; set"):
        kernels.score_rows_by("triton", torch.zeros(1, 2), Kind("jsd"), False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(OdevalError, match=r"kernel triton: triton is not installed \(pip install triton; "):
        case.fused(Kind("jsd"))


COMPILE = """
import sys
import odeval.fused
assert "triton" not in sys.modules, "only what is asked for is loaded"
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from odeval.fused import triton_rows

kinds = dict.fromkeys(("totals", "found"), "*fp64") | dict.fromkeys(("rows", "vocab"), "i32")
kinds |= dict.fromkeys(("share", "rest", "bound"), "fp32")
variants = [(triton_rows._normalise, {})]
variants += [(triton_rows._sum_up, {"MIXED": mixed}) for mixed in (False, True)]
for slope in ("none", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"):
    variants.append((triton_rows._write_gradient, {"SLOPE": slope, "CAPPED": slope != "jsd"}))
for kernel, constants in variants:
    constants["BLOCK"] = triton_rows.BLOCK
    signature = {n: "constexpr" if n in constants else kinds.get(n, "*fp32") for n in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs={(kernel.arg_names.index(n),): x for n, x in constants.items()})
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8}).asm["cubin"]
print("compiled", len(variants))
"""


def test_every_kernel_compiles_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "compiled 8\n"
