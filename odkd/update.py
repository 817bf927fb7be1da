"""Both models over the same tokens, and the gradient of one update.

    loss = Σ over all generated tokens of the update of objective(student, teacher)  /  number of those tokens

The number counts every micro-batch and every rank, so loss and gradient do not depend on how the update is divided.
Gradients flow through the student's distributions, not through what was sampled: the prefixes are data.

Logits are never held for more tokens than a budget allows: the head runs over hidden states a chunk at a time, and each
chunk's gradient is taken before the next; for large vocabularies by `odkd.fusing`, which takes no gradient of logits.
Letters: B rows, T positions, N generated tokens, H width, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from odeval import divergence
from odeval.engines.hf_model import HfModel
from odkd.config import TrainConfig
from odkd.diagnostics import Twins
from odkd.fusing import fusing_of
from odkd.ledger import Ledger
from odkd.losses import Sampled
from odkd.models import Pair
from odkd.objectives import loss_of, objective
from odkd.ranks import Ranks
from odkd.rollout import Batch, Source

_CHUNK_LOGITS = (2**18, 2**25)  # of one model, held at once on a CPU and on a GPU
_CHUNK_TOKENS = 128  # at least: with fewer, adding up the head's gradient costs more than it saves


class Positions(NamedTuple):
    """A batch on the device, and the positions that predict a generated token.

    Attributes:
        ids: [B, T].
        mask: [B, T].
        predicting: [B, T] bool, N of them True.
        token_ids: [N] generated tokens.
        rollout_logprob: [N].
        row: [N] of the batch.
        turn: [N] place of the token in its completion plus its id: what is looked at by turns goes by it.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    predicting: torch.Tensor
    token_ids: torch.Tensor
    rollout_logprob: torch.Tensor
    row: torch.Tensor
    turn: torch.Tensor


def positions(batch: Batch, device: torch.device) -> Positions:
    """Place a batch on a device."""
    predicting_BT = batch.generated_BT.roll(-1, dims=1)  # a token is predicted by the position before it
    predicting_BT[:, -1] = False
    return Positions(
        batch.ids_BT.to(device),
        batch.mask_BT.long().to(device),
        predicting_BT.to(device),
        batch.ids_BT[batch.generated_BT].to(device),
        batch.logprob_BT[batch.generated_BT].to(device),
        batch.generated_BT.nonzero()[:, 0].to(device),
        (batch.generated_BT.cumsum(1) - 1 + batch.ids_BT)[batch.generated_BT].to(device),
    )


def both_logits(student: HfModel, teacher: HfModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run both models over a batch and keep the positions that predict a generated token.

    Returns:
        Student logits [N, V] with gradient, teacher logits [N, V] without, and the N generated tokens.
        V is the real vocabulary: padded rows of a head are cut before any softmax.
    """
    at = positions(batch, student.device)
    student_logits = student.logits_at(student.hidden(at.ids, at.mask)[at.predicting])
    with torch.no_grad():
        teacher_logits = teacher.logits_at(teacher.hidden(at.ids, at.mask)[at.predicting])
    return student_logits, teacher_logits, at.token_ids


def accumulate(
    pair: Pair, batches: Sequence[Batch], now: TrainConfig, ranks: Ranks, twins: Twins, ledger: Ledger
) -> None:
    """Leave the gradient of one update in the student's parameters.

    Args:
        pair: The models; the student's gradients are empty.
        batches: Of this rank.
        now: The configuration that holds at this step.
        ranks: All of which call this.
        twins: Filled with the update's diagnostics.
        ledger: Told what it cost.
    """
    name = objective_of(now, batches[0].source)
    device = pair.student.device
    placed = [positions(batch, device) for batch in batches]
    denominator = int(ranks.sum(torch.tensor([sum(len(at.token_ids) for at in placed)], device=device)))
    loss, dials = loss_of(name, now.dials(name)), now.dials(name)
    weighted = batches[0].source == "mixed" and not objective(name).on_policy
    surveyed = (
        dials.get("gate") == "quantile" or dials.get("gate_normalizer") == "gated" or bool(dials.get("future_weight"))
    )
    fusing = fusing_of(pair.student, pair.teacher, now, name)
    zero = [torch.zeros(len(at.token_ids), device=device) for at in placed]
    ahead, threshold, gated = (
        _survey(pair, placed, dials, now, ranks, denominator) if surveyed else (zero, dials.get("gate_threshold"), 1.0)
    )
    twins.gate = threshold
    for at, future in zip(placed, ahead, strict=True):
        with _precision(now, device):
            hidden = pair.student.hidden(at.ids, at.mask)[at.predicting]
            with torch.no_grad():
                teacher_hidden = pair.teacher.hidden(at.ids, at.mask)[at.predicting]
        if fusing is not None:
            fusing.backward(hidden, teacher_hidden, at, weighted, denominator, twins)
        chunks = [] if fusing else _chunks(len(hidden), pair.student.vocab_size, device.type)
        leaf = hidden.detach().requires_grad_(True) if len(chunks) > 1 else hidden
        for chunk in chunks:
            with _precision(now, device):
                student_logits = pair.student.logits_at(leaf[chunk])
                with torch.no_grad():
                    teacher_logits = pair.teacher.logits_at(teacher_hidden[chunk])
            known = Sampled(at.token_ids[chunk], at.rollout_logprob[chunk], future[chunk], threshold or 0.0, gated)
            own, other = (_tempered(logits, now) for logits in (student_logits, teacher_logits))
            per_token = loss(own, other, known)
            if weighted:
                log_q = divergence.log_prob(student_logits, known.token_ids).detach()
                per_token = per_token * (log_q - known.rollout_logprob).exp()
            torch.autograd.backward(per_token.sum() / denominator)
            twins.add(student_logits, teacher_logits, known[0], known[1], at.turn[chunk], per_token)
        if leaf is not hidden:
            torch.autograd.backward(hidden, leaf.grad)
        rows, width = at.ids.shape
        ledger.trained(rows, width, len(at.token_ids), 1 + surveyed)
    ranks.sum_gradients(pair.trainable.values())


def objective_of(now: TrainConfig, source: Source) -> str:
    """Name the objective of a step by who wrote its completions."""
    return now.objective if source in ("student", "mixed") else now.off_policy_objective or now.objective


def _survey(
    pair: Pair, placed: Sequence[Positions], dials: dict[str, Any], now: TrainConfig, ranks: Ranks, denominator: int
) -> tuple[list[torch.Tensor], float | None, float]:
    """What a token's loss must know of the other tokens: what comes later, and where the gate of the whole update lies.

    It costs a further pass of the teacher, and only for the settings that need it.

    Returns:
        Per batch the future terms [N], 0 without future_weight; the gate's threshold; the share of tokens beyond it, 1
        where the normaliser does not ask.
    """
    entropies, ahead = [], []
    for at in placed:
        logprob, entropy = _ask_teacher(pair.teacher, at, now)
        entropies.append(entropy)
        discount, mean = dials.get("future_weight", 0.0), dials.get("future_normalize", False)
        ahead.append(later(logprob - at.rollout_logprob, at.row, discount, mean))
    quantile, by_gated = dials.get("gate") == "quantile", dials.get("gate_normalizer") == "gated"
    every = torch.tensor(ranks.gather([float(x) for entropy in entropies for x in entropy]), dtype=torch.float64)
    threshold = float(every.quantile(dials["gate_quantile"])) if quantile else dials.get("gate_threshold")
    beyond = 1.0 if threshold is None else float((every >= threshold).sum()) / denominator
    if dials.get("gate") == "soft" and threshold is not None:
        beyond = float(torch.sigmoid((every - threshold) / dials["gate_width"]).sum()) / denominator
    return ahead, threshold, beyond if by_gated else 1.0


@torch.no_grad()
def _ask_teacher(teacher: HfModel, at: Positions, now: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    with _precision(now, at.ids.device):
        hidden = teacher.hidden(at.ids, at.mask)[at.predicting]
    logprob, entropy = [], []
    for chunk in _chunks(len(hidden), teacher.vocab_size, hidden.device.type):
        with _precision(now, at.ids.device):
            logits = _tempered(teacher.logits_at(hidden[chunk]), now)
        logprob.append(divergence.log_prob(logits, at.token_ids[chunk]))
        entropy.append(divergence.entropy(logits))
    return torch.cat(logprob), torch.cat(entropy)


def later(reward: torch.Tensor, row: torch.Tensor, discount: float, normalize: bool) -> torch.Tensor:
    """Discounted sum over the later tokens of the same completion: Σ_{j>0} γ^j r_{t+j}.

    Args:
        reward: [N], tokens of a completion in order and side by side.
        row: [N], which completion each belongs to.
        discount: γ in [0, 1].
        normalize: Divide by Σ_{j>0} γ^j, which makes it a mean.

    Returns:
        [N]; 0 at a completion's last token.

    Example:
        >>> later(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 0, 0, 1]), 0.5, False).tolist()
        [2.0, 2.0, 0.0, 0.0]
    """
    found, ahead, weight = torch.zeros_like(reward), 0.0, 0.0
    values, rows = reward.tolist(), row.tolist()
    for t in range(len(values) - 2, -1, -1):
        same = rows[t] == rows[t + 1]
        ahead = discount * (values[t + 1] + ahead) if same else 0.0
        weight = discount * (1.0 + weight) if same else 0.0
        found[t] = ahead / weight if normalize and weight else ahead
    return found


def _tempered(logits: torch.Tensor, now: TrainConfig) -> torch.Tensor:
    return logits if now.loss_temperature == 1 else logits / now.loss_temperature


def chunk_tokens(vocab_size: int, device: str) -> int:
    """Tokens whose logits are held at once."""
    return max(_CHUNK_TOKENS, _CHUNK_LOGITS[device == "cuda"] // vocab_size)


def _chunks(tokens: int, vocab_size: int, device: str) -> list[slice]:
    size = chunk_tokens(vocab_size, device)
    return [slice(start, start + size) for start in range(0, tokens, size)]


def _precision(now: TrainConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if now.bf16 else contextlib.nullcontext()
