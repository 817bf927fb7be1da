"""What every step tells about both models at the same prefixes, from the logits that the loss was taken from.

No further forward pass. Sums over tokens are added up over chunks, batches and ranks, so that what is logged is a mean
over the tokens of the update whatever its division. Letters: N tokens, V vocabulary; nats.
"""

from __future__ import annotations

from typing import Any

import torch

from odeval.divergence import TokenScores, score_tokens
from odkd.ranks import Ranks

TOP = 16  # tokens of each model whose masses and overlap are told
BINS = (0.1, 0.4, 0.8, 1.6)  # nats, edges of the bins of teacher entropy; the outer ones are open
_MEANS = (
    "forward_kl", "reverse_kl", "student_entropy", "teacher_entropy", "student_high_entropy", "teacher_high_entropy",
    "both_high_entropy",
)  # fmt: skip
_TOPS = ("compared", "student_mass_on_teacher_top", "teacher_mass_on_student_top", "top_overlap", "teacher_tail_mass")
_MISMATCH = ("known", "log_ratio", "k3", "weight", "weight_squared")
_BINNED = ("tokens", "forward_kl", "reverse_kl", "student_entropy")
_EVERY = 8  # positions of a completion, of which one is sorted at a step; the next at the next
_TILE = (2**17, 2**24)  # logits that are looked at together, on a CPU and on a GPU: what stays in a cache is faster


class Twins:
    """Sums of one update.

    Args:
        threshold: Nats from which a position counts as high-entropy.
        device: Where the logits are.
        step: Of the run.

    Attributes:
        gate: Threshold of the objective's gate in nats; None where it has none.
    """

    def __init__(self, threshold: float, device: torch.device, step: int = 0) -> None:
        self.threshold, self.step = threshold, step
        self.gate: float | None = None
        self.tokens = torch.zeros((), dtype=torch.float64, device=device)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.gated = torch.zeros((), dtype=torch.float64, device=device)
        self.means = torch.zeros(len(_MEANS), dtype=torch.float64, device=device)
        self.tops = torch.zeros(len(_TOPS), dtype=torch.float64, device=device)
        self.mismatch = torch.zeros(len(_MISMATCH), dtype=torch.float64, device=device)
        self.largest = torch.zeros((), dtype=torch.float64, device=device)
        self.bins = torch.zeros(len(BINS) + 1, len(_BINNED), dtype=torch.float64, device=device)
        self._edges = torch.tensor(BINS, device=device)

    @torch.no_grad()
    def add(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        token_ids: torch.Tensor,
        rollout_logprob: torch.Tensor,
        place: torch.Tensor,
        per_token: torch.Tensor,
    ) -> None:
        """Add some tokens.

        Args:
            student_logits: [N, V].
            teacher_logits: [N, V].
            token_ids: [N], what was generated there.
            rollout_logprob: [N] of those under whatever sampled them; NaN where unknown.
            place: [N], of the token in its completion, from 0.
            per_token: [N], the loss.
        """
        self.tokens += len(token_ids)
        self.loss += per_token.detach().double().sum()
        size = max(1, _TILE[student_logits.device.type == "cuda"] // student_logits.shape[-1])
        for start in range(0, len(token_ids), size):
            own = slice(start, start + size)
            student, teacher = student_logits[own].float(), teacher_logits[own].float()
            scores = score_tokens(student, teacher, token_ids[own], torch.float32)
            self._add_scores(scores)
            self._compare_rollout(scores.student_logprob, rollout_logprob[own])
            chosen = place[own] % _EVERY == self.step % _EVERY
            self._compare_tops(student, teacher, token_ids[own], scores, chosen)

    def _add_scores(self, scores: TokenScores) -> None:
        high = [entropy >= self.threshold for entropy in (scores.student_entropy, scores.teacher_entropy)]
        columns = (
            scores.forward_kl, scores.reverse_kl, scores.student_entropy, scores.teacher_entropy, high[0], high[1],
            high[0] & high[1],
        )  # fmt: skip
        self.means += torch.stack([column.double() for column in columns]).sum(-1)
        if self.gate is not None:
            self.gated += (scores.teacher_entropy >= self.gate).sum()
        own = torch.bucketize(scores.teacher_entropy, self._edges, right=True)
        values = (torch.ones_like(scores.forward_kl), scores.forward_kl, scores.reverse_kl, scores.student_entropy)
        self.bins.index_add_(0, own, torch.stack(values, dim=-1).double())

    def _compare_tops(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        tokens: torch.Tensor,
        scores: TokenScores,
        chosen: torch.Tensor,
    ) -> None:
        """Masses and overlap of both models' likeliest tokens; sorting is dear, so an eighth of positions by turns."""
        if not chosen.any():
            return
        index, student, teacher = tokens[chosen, None], student[chosen], teacher[chosen]
        student_norm = student.gather(-1, index) - scores.student_logprob[chosen, None]  # log Σ exp z
        teacher_norm = teacher.gather(-1, index) - scores.teacher_logprob[chosen, None]
        k = min(TOP, student.shape[-1])
        student_top, teacher_top = student.topk(k), teacher.topk(k)
        on_teacher = (student.gather(-1, teacher_top.indices) - student_norm).exp().sum(-1)
        on_student = (teacher.gather(-1, student_top.indices) - teacher_norm).exp().sum(-1)
        # A token of the teacher's top K is among the student's where its logit reaches the student's K-th.
        shared = (student.gather(-1, teacher_top.indices) >= student_top.values[:, -1:]).float().mean(-1)
        tail = 1 - (teacher_top.values - teacher_norm).exp().sum(-1)
        columns = (torch.ones_like(tail), on_teacher, on_student, shared, tail)
        self.tops += torch.stack(columns).double().sum(-1)

    def _compare_rollout(self, logprob: torch.Tensor, rollout_logprob: torch.Tensor) -> None:
        known = ~rollout_logprob.isnan()
        gap = torch.where(known, logprob - rollout_logprob, 0.0).double()
        weight = torch.where(known, gap.exp(), 0.0)
        columns = (known.double(), gap, torch.where(known, torch.expm1(gap) - gap, 0.0), weight, weight**2)
        self.mismatch += torch.stack(columns).sum(-1)
        self.largest = torch.maximum(self.largest, gap.abs().max())

    def row(self, ranks: Ranks) -> dict[str, Any]:
        """The update in numbers; None where a thing is not known.

        Args:
            ranks: All of which call this.

        Returns:
            Means over the tokens of all ranks. `retention` is the share of the teacher's high-entropy positions where
            the student is high-entropy too. `rollout_kl` estimates how far the sampler's distribution is from the one
            that is trained (k3, from its samples) and `effective_samples` the share of tokens that importance weights
            leave. `by_teacher_entropy` has one entry a bin.
        """
        parts = (self.tokens, self.loss, self.gated, self.means, self.tops, self.mismatch, self.bins)
        flat = torch.cat([x.reshape(-1) for x in parts])
        flat = ranks.sum(flat).cpu()
        largest = ranks.max(float(self.largest))
        sizes = [1, 1, 1, len(_MEANS), len(_TOPS), len(_MISMATCH), self.bins.numel()]
        tokens, loss, gated, means, tops, mismatch, bins = torch.split(flat, sizes)
        n = float(tokens)
        found: dict[str, Any] = {"tokens": int(n), "loss": float(loss) / n}
        found |= {name: float(value) / n for name, value in zip(_MEANS, means, strict=True)}
        compared = float(tops[0])
        found |= {name: float(v) / compared if compared else None for name, v in zip(_TOPS[1:], tops[1:], strict=True)}
        found["gate_fraction"] = None if self.gate is None else float(gated) / n
        both, teacher = float(means[6]), float(means[5])
        found["retention"] = both / teacher if teacher else None
        known, gap, k3, weight, squared = (float(value) for value in mismatch)
        found["rollout_kl"] = k3 / known if known else None
        found["rollout_log_ratio"] = gap / known if known else None
        found["rollout_largest_gap"] = largest if known else None
        found["effective_samples"] = weight**2 / squared / known if known else None
        table = bins.view(len(BINS) + 1, len(_BINNED)).tolist()
        found["by_teacher_entropy"] = {
            "edges": list(BINS),
            "share": [row[0] / n for row in table],
            **{name: [row[i] / row[0] if row[0] else None for row in table] for i, name in enumerate(_BINNED) if i},
        }
        return found
