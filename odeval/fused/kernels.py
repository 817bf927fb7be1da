"""Which code does the elementwise half of the fused divergence: PyTorch anywhere, Triton on GPUs.

What a compiler makes of a kernel is not known before it runs: the first use on a device, of each kind of divergence,
compares both on a small case, and a kernel that fails or differs is not used.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from odeval.errors import OdevalError, unknown
from odeval.fused import rows
from odeval.fused.kind import Kind
from odeval.fused.rows import RowScores, Wanted

KERNELS = ("auto", "torch", "triton")
ScoreRows = Callable[
    [torch.Tensor, torch.Tensor, Kind, slice, torch.Tensor | None, int, Wanted | None], RowScores
]  # as `rows.score_rows`

_GPUS = ("cuda",)  # types of device; AMD's are of it too
_DISTANCES = (0.0, 1e-3, 0.1, 1.0, 30.0)  # of the small case's students from their teachers
_found: dict[tuple[object, ...], str | None] = {}  # what is wrong with Triton's kernels


def score_rows_by(kernel: str, hidden: torch.Tensor, kind: Kind, capped: bool) -> ScoreRows:
    """Choose what scores rows of logits.

    Args:
        kernel: "torch", "triton", or "auto": Triton where there is a GPU, it is installed, and it agrees with PyTorch.
        hidden: States of the student; their device and type are those of the logits.
        kind: The divergence.
        capped: Whether logits are soft-capped.

    Raises:
        OdevalError: No such kernel, or Triton was asked for and does not run here.

    Example:
        >>> score_rows_by("auto", torch.zeros(1, 2), Kind("jsd"), capped=False) is rows.score_rows  # on a CPU
        True
    """
    if kernel not in KERNELS:
        raise OdevalError(unknown("kernel", kernel, KERNELS))
    if kernel == "torch" or (kernel == "auto" and (hidden.device.type not in _GPUS or hidden.dtype == torch.float64)):
        return rows.score_rows
    wrong = _unsupported(hidden) or _difference(hidden.device, kind, capped)
    if wrong is None:
        from odeval.fused import triton_rows

        return triton_rows.score_rows
    if kernel == "triton":
        raise OdevalError(f"kernel triton: {wrong}; set kernel='torch'")
    return rows.score_rows


def _unsupported(hidden: torch.Tensor) -> str | None:
    """Say why there are no kernels for some hidden states."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed (pip install triton; it comes with PyTorch for CUDA)"
    if hidden.device.type not in _GPUS and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it runs on GPUs, and the hidden states are on {hidden.device}"
    return "its kernels are in float32, and the hidden states in float64" if hidden.dtype == torch.float64 else None


def _difference(device: torch.device, kind: Kind, capped: bool) -> str | None:
    """Say what is wrong with Triton's kernels on a device, the first time with a warning."""
    key = device, kind.name, kind.mixture() is None, capped
    if key not in _found:
        try:
            _found[key] = _compare(device, kind, capped)
        except Exception as error:  # whatever a compiler or a driver raises
            _found[key] = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        if _found[key] is not None:
            warnings.warn(
                f"fused {kind.name} on {device}: PyTorch is used, Triton's kernel is not: {_found[key]}",
                RuntimeWarning,
                stacklevel=4,
            )
    return _found[key]


@torch.no_grad()
def _compare(device: torch.device, kind: Kind, capped: bool) -> str | None:
    """Score a few rows both ways; say which result differs."""
    from odeval.fused import triton_rows

    count, vocab = len(_DISTANCES), triton_rows.BLOCK + triton_rows.BLOCK // 4 + 1
    weights = ("forward_weight", "reverse_weight")
    fixed: dict[str, Any] = {name: 0.3 for name in weights if isinstance(getattr(kind, name), torch.Tensor)}
    own = replace(kind, **fixed)
    source = torch.Generator().manual_seed(0)
    teacher, noise = (torch.randn(count, vocab, generator=source) for _ in range(2))
    student = 3 * teacher + torch.tensor(_DISTANCES)[:, None] * noise
    tokens = torch.arange(count, device=device)
    factor = torch.linspace(-1, 2, count, dtype=torch.float64, device=device)[:, None]
    wanted = Wanted(factor, 2 * float(student.abs().max()) if capped else None)
    results = []
    for score in (rows.score_rows, triton_rows.score_rows):
        logits = student.to(device, copy=True), (3 * teacher).to(device)
        found = score(*logits, own, slice(0, count), tokens, 5, wanted)
        columns = {"loss": found.loss, **found.scores._asdict(), "top masses": torch.cat(found[2:])}
        results.append({**columns, "gradient": logits[0]})
    for name, expected in results[0].items():
        off, size = (results[1][name].double() - expected.double()).abs(), expected.double().abs()
        if name == "gradient":
            size = size.amax(1, keepdim=True) + results[0]["reverse_kl"][:, None] / 100  # it is a difference from it
        least = 1e-12 if name.endswith("_kl") else 1e-6
        if not bool((off <= least + 1e-4 * size).all()):
            return f"{name} differs by {float(off.max()):.1e}"
    return None
