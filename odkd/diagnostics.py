"""What every step tells about both models at the same prefixes, from the logits that the loss was taken from.

No further forward pass. What each token tells is kept until the end of the update and added up there, once, so that
what is logged is a mean over the tokens of the update whatever its division. Letters: N tokens, V vocabulary; nats.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from odeval.divergence import TokenScores
from odkd.glance import glance
from odkd.ranks import Ranks

TOP = 16  # tokens of each model whose masses and overlap are told
Array = np.ndarray[Any, np.dtype[np.float64]]
BINS = (0.1, 0.4, 0.8, 1.6)  # nats, edges of the bins of teacher entropy; the outer ones are open
_EDGES = np.array(BINS)
_MEANS = (
    "forward_kl", "reverse_kl", "student_entropy", "teacher_entropy", "student_high_entropy", "teacher_high_entropy",
    "both_high_entropy",
)  # fmt: skip
_TOPS = ("compared", "student_mass_on_teacher_top", "teacher_mass_on_student_top", "top_overlap", "teacher_tail_mass")
_MISMATCH = ("known", "log_ratio", "k3", "weight", "weight_squared")
_BINNED = ("tokens", "forward_kl", "reverse_kl", "student_entropy")
_EVERY = 16  # tokens, of which about one is sorted at a step; others at the next; a power of two


class Twins:
    """What one update saw.

    Args:
        threshold: Nats from which a position counts as high-entropy.
        device: Where the logits are.
        step: Of the run.

    Attributes:
        gate: Threshold of the objective's gate in nats; None where it has none.
    """

    def __init__(self, threshold: float, device: torch.device, step: int = 0) -> None:
        self.threshold, self.step, self.device = threshold, step, device
        self.gate: float | None = None
        self._seen: list[torch.Tensor] = []  # [8, N]: scores, then rollout_logprob, loss
        self._tops: list[torch.Tensor] = []  # [4, n], as in _TOPS

    @torch.no_grad()
    def add(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        token_ids: torch.Tensor,
        rollout_logprob: torch.Tensor,
        turn: torch.Tensor,
        per_token: torch.Tensor,
    ) -> None:
        """Add some tokens.

        Args:
            student_logits: [N, V].
            teacher_logits: [N, V].
            token_ids: [N], what was generated there.
            rollout_logprob: [N] of those under whatever sampled them; NaN where unknown.
            turn: [N] int64, alike however the update is divided; 1 of 16 values has its turn at a step.
            per_token: [N], the loss.
        """

        def look(own: slice, probabilities: torch.Tensor) -> None:
            self._compare(probabilities[self._compared(turn[own])])

        scores = glance(student_logits, teacher_logits, token_ids, look)
        self.add_scores(scores, rollout_logprob, per_token)

    @torch.no_grad()
    def look(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor, turn: torch.Tensor) -> None:
        """Compare both models' likeliest tokens, while there are logits; with `add_scores` it is `add`."""
        rows = self._compared(turn)
        self._compare(torch.stack((student_logits[rows], teacher_logits[rows]), dim=1).float().softmax(-1))

    def _compared(self, turn: torch.Tensor) -> torch.Tensor:
        """Sorting is dear, so a sixteenth of the tokens by turns, whatever the lengths of completions."""
        return ((turn & (_EVERY - 1)) == self.step % _EVERY).nonzero().squeeze(-1)

    def _compare(self, probabilities: torch.Tensor) -> None:
        """Masses and overlap of both models' likeliest tokens, from [n, 2, V] of student and teacher."""
        k = min(TOP, probabilities.shape[-1])
        is_top = (probabilities >= _kth(probabilities, k)).float()
        mass = torch.bmm(probabilities, is_top.mT)  # rows: of student, of teacher; columns: on the top of either
        overlap = (is_top[:, 0] * is_top[:, 1]).sum(-1) / k
        self._tops.append(torch.stack((mass[:, 0, 1], mass[:, 1, 0], overlap.clamp_(max=1), 1 - mass[:, 1, 1])))

    def add_scores(self, scores: TokenScores, rollout_logprob: torch.Tensor, per_token: torch.Tensor) -> None:
        """Add what is known of the tokens beside that; all [N], in the order of `look`."""
        self._seen.append(torch.stack((*scores, rollout_logprob, per_token.detach())))

    def _sums(self) -> tuple[Array, float]:
        """Sums over this rank's tokens, in the order in which `row` takes them; the largest mismatch.

        On the processor, once: so many small sums each cost more to launch than to take.
        """
        seen = torch.cat(self._seen, -1).cpu().numpy().astype(np.float64)
        _, student_logprob, entropy, student_entropy, forward, reverse, rollout_logprob, loss = seen
        sums = seen.sum(-1)
        gated = 0 if self.gate is None else np.count_nonzero(entropy >= self.gate)
        high = seen[3:1:-1] >= self.threshold  # of student, of teacher
        where = _EDGES.searchsorted(entropy, "right")
        bins = [np.bincount(where, values, len(BINS) + 1) for values in (None, forward, reverse, student_entropy)]
        mismatch, largest = _mismatch(student_logprob, rollout_logprob)
        tops = torch.cat(self._tops, 1).cpu().numpy()
        parts = (
            [len(loss), sums[7], gated, *sums[[4, 5, 3, 2]], *high.sum(-1), (high[0] & high[1]).sum(), tops.shape[1]],
            *(tops.sum(-1, dtype=np.float64), mismatch, *bins),
        )
        return np.concatenate(parts), largest

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
        with np.errstate(all="ignore"):
            sums, largest_here = self._sums()
        flat = ranks.sum(torch.from_numpy(sums).to(self.device)).tolist()
        largest = ranks.max(largest_here)
        ends = np.cumsum([3, len(_MEANS), len(_TOPS), len(_MISMATCH)]).tolist()
        (n, loss, gated), means, tops, mismatch, bins = (flat[a:b] for a, b in pairwise([0, *ends, None]))
        found: dict[str, Any] = {"tokens": int(n), "loss": loss / n}
        found |= {name: value / n for name, value in zip(_MEANS, means, strict=True)}
        compared = tops[0]
        found |= {name: v / compared if compared else None for name, v in zip(_TOPS[1:], tops[1:], strict=True)}
        found["gate_fraction"] = None if self.gate is None else gated / n
        found["retention"] = means[6] / means[5] if means[5] else None
        known, gap, k3, weight, squared = mismatch
        found["rollout_kl"] = k3 / known if known else None
        found["rollout_log_ratio"] = gap / known if known else None
        found["rollout_largest_gap"] = largest if known else None
        found["effective_samples"] = weight**2 / squared / known if known else None
        table = np.reshape(bins, (len(_BINNED), -1)).T.tolist()
        found["by_teacher_entropy"] = {
            "edges": list(BINS),
            "share": [row[0] / n for row in table],
            **{name: [row[i] / row[0] if row[0] else None for row in table] for i, name in enumerate(_BINNED) if i},
        }
        return found


def _kth(values: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th largest of [..., V], as [..., 1]. On a CPU by numpy, which takes a fifth of the time of torch."""
    if values.is_cuda:
        return values.topk(k).values[..., -1:]
    place = values.shape[-1] - k
    return torch.from_numpy(np.partition(values.numpy(), place, axis=-1)[..., place, None])


def _mismatch(logprob: Array, rollout_logprob: Array) -> tuple[Array, float]:
    known = ~np.isnan(rollout_logprob)
    gap = np.where(known, logprob - rollout_logprob, 0.0)
    grown = np.expm1(gap)
    weight = (grown + 1) * known
    return np.stack((known, gap, grown - gap, weight, weight**2)).sum(-1), float(np.abs(gap).max())
