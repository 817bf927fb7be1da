"""Loss, gradient and diagnostics of a batch straight from hidden states, by `odeval.fused`, where that can be.

Through logits every divergence of an objective takes its softmaxes under autograd, and the diagnostics one more. Here
one pass forms all of it, and a chunk of logits is written over with its own gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from odeval.divergence import TokenScores
from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.fused import Head, Kind, fused_divergence
from odkd.diagnostics import Twins
from odkd.glance import glance
from odkd.objectives import kind_of
from odkd.settings import TrainConfig

if TYPE_CHECKING:
    from odkd.update import Positions

PAYS_FROM = 512  # tokens of vocabulary: from there, and 128 tokens on, a CPU takes 0.4 to 0.8 of the time


@dataclass(frozen=True, slots=True)
class Fusing:
    """How an update is formed without logits.

    Attributes:
        kind: The objective.
        student: Its output matrix.
        teacher: Its output matrix.
        vocab_size: Rows of both that are real tokens.
        temperature: Of the loss; diagnostics are of the models as they are.
        half: Multiply in bfloat16.
    """

    kind: Kind
    student: Head
    teacher: Head
    vocab_size: int
    temperature: float
    half: bool

    def backward(
        self,
        hidden: torch.Tensor,
        teacher_hidden: torch.Tensor,
        at: Positions,
        weighted: bool,
        denominator: int,
        twins: Twins,
    ) -> None:
        """Leave the gradient of a batch in the student's parameters.

        Args:
            hidden: [N, H] of the student, with its graph.
            teacher_hidden: [N, H'].
            at: The positions.
            weighted: Weigh tokens by q(y) over the probability they were sampled with.
            denominator: Tokens of the update.
            twins: Told of the tokens.
        """
        student, untempered = self.student, list[TokenScores]()
        if self.half:
            hidden, student = hidden.bfloat16(), replace(student, weight=student.weight.bfloat16())

        def look(here: slice, own: torch.Tensor, other: torch.Tensor) -> None:
            ids = at.token_ids[here]
            if self.temperature != 1:
                own, other = own * self.temperature, other * self.temperature
                untempered.append(glance(own, other, ids))
            twins.look(own, other, at.turn[here])

        found = fused_divergence(
            hidden, student, teacher_hidden, self.teacher, self.kind, token_ids=at.token_ids,
            vocab_size=self.vocab_size, temperature=self.temperature, recompute=weighted, look=look,
        )  # fmt: skip
        scores, per_token = found.scores, found.loss
        if untempered:
            scores = TokenScores(*(torch.cat(column) for column in zip(*untempered, strict=True)))
        if weighted:
            per_token = per_token * (scores.student_logprob - at.rollout_logprob).exp()
        torch.autograd.backward(per_token.sum() / denominator)
        twins.add_scores(scores, at.rollout_logprob, per_token)


def fusing_of(student: HfModel, teacher: HfModel, now: TrainConfig, name: str) -> Fusing | None:
    """Tell how an objective is formed without logits; None where it takes logits.

    Args:
        student: Trained.
        teacher: Of the same vocabulary.
        now: The configuration that holds.
        name: Of the objective.

    Raises:
        OdevalError: `fused: true`, but a model's logits are no single matrix times its hidden states.
    """
    kind = kind_of(name, now.dials(name))
    if kind is None or now.fused is False or (now.fused == "auto" and student.vocab_size < PAYS_FROM):
        return None
    own, other = student.head(), teacher.head()
    for model, head in ((student, own), (teacher, other)):
        if head is None and now.fused is True:
            raise OdevalError(
                f"fused: the output layer of {model.name} is not one plain matrix (adapters on it, or an architecture "
                "of its own); set fused: auto"
            )
    if own is None or other is None:
        return None
    return Fusing(kind, own, other, student.vocab_size, now.loss_temperature, now.bf16)
