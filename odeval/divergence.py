"""THE formulas: entropy, log-probability and divergences of two next-token distributions, per position.

Letters: V vocabulary, `...` any leading shape such as [B, T]. p is the teacher, q the student; all results are
in nats, float32 or better, and differentiable in both arguments.

Whatever comes in is widened to float64 before it is normalised. In float32 the rounding of log p and log q alone
puts 1e-7 into their difference, which is the whole of it once p and q are close (measured: a KL of 2e-10 wrong by 6 %,
however it is summed). In float64 the plain sum is right to 1e-15.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class TokenScores(NamedTuple):
    """What scoring stores for each generated token; every field is [N], nats."""

    teacher_logprob: torch.Tensor
    student_logprob: torch.Tensor
    teacher_entropy: torch.Tensor
    student_entropy: torch.Tensor
    forward_kl: torch.Tensor
    reverse_kl: torch.Tensor


def log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Normalise logits to log-probabilities.

        z − log Σ exp z

    Args:
        logits: [..., V], any float type; −inf marks an impossible token.

    Returns:
        [..., V] nats, float64 whatever comes in.
    """
    return torch.log_softmax(logits, dim=-1, dtype=torch.float64)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Shannon entropy of softmax(logits): −Σ p log p.

    Args:
        logits: [..., V]; −inf marks an impossible token.

    Returns:
        [...] nats, in [0, log V].

    Example:
        >>> round(float(entropy(torch.zeros(4))), 4)  # log 4
        1.3863
    """
    log_p = log_softmax(logits)
    return _like(_entropy(log_p.exp(), log_p), logits)


def log_prob(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of given tokens under softmax(logits).

    Args:
        logits: [..., V]; −inf marks an impossible token.
        token_ids: [...] int64.

    Returns:
        [...] nats, <= 0.

    Example:
        >>> round(float(log_prob(torch.tensor([0.9, 0.1]).log(), torch.tensor(1))), 4)  # log 0.1
        -2.3026
    """
    return _like(log_softmax(logits).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1), logits)


def forward_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) at each position: mass-covering.

        Σ_v p_T(v) · (log p_T(v) − log p_S(v))

    Args:
        student_logits: [..., V]; gradients flow.
        teacher_logits: [..., V] over the same vocabulary.

    Returns:
        [...] nats, >= 0; inf where the student excludes a token that the teacher allows. Not masked, not reduced.

    Example:
        >>> student, teacher = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.5, 0.5]).log()
        >>> round(float(forward_kl(student, teacher)), 4), round(float(reverse_kl(student, teacher)), 4)
        (0.5108, 0.3681)
    """
    log_p = log_softmax(teacher_logits)
    return _like(_kl(log_p.exp(), log_p, log_softmax(student_logits)), student_logits)


def reverse_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """KL(student || teacher) at each position: mode-seeking.

        Σ_v p_S(v) · (log p_S(v) − log p_T(v))

    Args:
        student_logits: [..., V]; gradients flow.
        teacher_logits: [..., V] over the same vocabulary.

    Returns:
        [...] nats, >= 0; inf where the teacher excludes a token that the student allows. Not masked, not reduced.
    """
    log_q = log_softmax(student_logits)
    return _like(_kl(log_q.exp(), log_q, log_softmax(teacher_logits)), student_logits)


def jsd(student_logits: torch.Tensor, teacher_logits: torch.Tensor, beta: float) -> torch.Tensor:
    """Generalized Jensen-Shannon divergence in the direction of GKD and TRL.

        β · KL(p_T || m) + (1 − β) · KL(p_S || m),   m = β · p_T + (1 − β) · p_S

    β 0 is forward KL and β 1 is reverse KL: the limits of JSD_β / (β(1 − β)), since the divergence itself goes to 0
    at both ends. In between the value is not rescaled.

    Args:
        student_logits: [..., V]; gradients flow.
        teacher_logits: [..., V].
        beta: In [0, 1].

    Returns:
        [...] nats, >= 0, and finite for β in (0, 1). Not masked, not reduced.

    Source:
        Agarwal et al. 2024, GKD, https://arxiv.org/abs/2306.13649, eq. 1.
    """
    if beta == 0:
        return forward_kl(student_logits, teacher_logits)
    if beta == 1:
        return reverse_kl(student_logits, teacher_logits)
    log_p, log_q = log_softmax(teacher_logits), log_softmax(student_logits)
    with torch.no_grad():  # the mixture minimises the sum, so what flows through it is 0
        # From the likelier side, log m = log p + log(1 + w·(e^(−|d|) − 1)): exactly log p where p and q are equal.
        d = (log_p - log_q).masked_fill(log_p == log_q, 0.0)
        weight_of_lower = torch.full_like(d, 1 - beta).masked_fill(d < 0, beta)
        log_m = torch.maximum(log_p, log_q) + torch.log1p(weight_of_lower * torch.expm1(-d.abs()))
    return _like(beta * _kl(log_p.exp(), log_p, log_m) + (1 - beta) * _kl(log_q.exp(), log_q, log_m), student_logits)


def score_tokens(student_logits: torch.Tensor, teacher_logits: torch.Tensor, token_ids: torch.Tensor) -> TokenScores:
    """Everything an audit stores about a position, from one normalisation of each model's logits.

    Args:
        student_logits: [N, V] at the positions that predict `token_ids`.
        teacher_logits: [N, V] over the same vocabulary.
        token_ids: [N] int64, the tokens that were generated.

    Returns:
        Six tensors [N].
    """
    log_p, log_q = log_softmax(teacher_logits), log_softmax(student_logits)
    p, q = log_p.exp(), log_q.exp()
    index = token_ids.unsqueeze(-1)
    scores = (
        log_p.gather(-1, index).squeeze(-1),
        log_q.gather(-1, index).squeeze(-1),
        _entropy(p, log_p),
        _entropy(q, log_q),
        _kl(p, log_p, log_q),
        _kl(q, log_q, log_p),
    )
    return TokenScores(*(_like(score, student_logits) for score in scores))


def _entropy(p: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    # 0 · (−inf) is 0 here. Taking 0 − x instead of −x keeps "-0.0" out of every table.
    return 0.0 - (p * log_p.masked_fill(p == 0, 0.0)).sum(-1)


def _kl(p: torch.Tensor, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    # A token that is impossible for both would give −inf − (−inf), which is NaN.
    kl = (p * (log_p - log_q).masked_fill(p == 0, 0.0)).sum(-1)
    return kl - kl.detach().clamp(max=0.0)  # under 1e-15 the sum is rounding of either sign; its gradient is not


def _like(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return float64 for float64 input, else float32."""
    return value if logits.dtype == torch.float64 else value.float()
