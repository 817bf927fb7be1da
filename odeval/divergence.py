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
    return _like(entropy_of(log_p.exp(), log_p), logits)


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
        log_m = _log_mixture(log_p, log_q, beta)
    return _like(beta * _kl(log_p.exp(), log_p, log_m) + (1 - beta) * _kl(log_q.exp(), log_q, log_m), student_logits)


def skew_forward_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, alpha: float) -> torch.Tensor:
    """Skewed forward KL: KL(p || α · p + (1 − α) · q).

    Args:
        student_logits: [..., V]; gradients flow.
        teacher_logits: [..., V].
        alpha: In [0, 1); 0 is forward KL.

    Returns:
        [...] nats, in [0, −log α].

    Source:
        Ko et al. 2024, DistiLLM, https://arxiv.org/abs/2402.03898, eq. 4.
    """
    if alpha == 0:
        return forward_kl(student_logits, teacher_logits)
    log_p, log_q = log_softmax(teacher_logits), log_softmax(student_logits)
    return _like(_kl(log_p.exp(), log_p, _log_mixture(log_p, log_q, alpha)), student_logits)


def skew_reverse_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, alpha: float) -> torch.Tensor:
    """Skewed reverse KL: KL(q || (1 − α) · p + α · q); the mixture is differentiated too.

    Args:
        student_logits: [..., V]; gradients flow.
        teacher_logits: [..., V].
        alpha: In [0, 1); 0 is reverse KL.

    Returns:
        [...] nats, in [0, −log α].

    Source:
        Ko et al. 2024, DistiLLM, https://arxiv.org/abs/2402.03898, section 3.1; its code detaches the mixture.
    """
    if alpha == 0:
        return reverse_kl(student_logits, teacher_logits)
    log_p, log_q = log_softmax(teacher_logits), log_softmax(student_logits)
    return _like(_kl(log_q.exp(), log_q, _log_mixture(log_p, log_q, 1 - alpha)), student_logits)


def total_variation(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Total variation distance: ½ Σ_v |p_v − q_v|.

    Args:
        student_logits: [..., V]; gradients flow.
        teacher_logits: [..., V].

    Returns:
        [...] in [0, 1], a probability and not nats.
    """
    p, q = log_softmax(teacher_logits).exp(), log_softmax(student_logits).exp()
    return _like(0.5 * (p - q).abs().sum(-1), student_logits)


def tail_bucket(logits: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of chosen tokens, and of all others together as one more.

    A KL of two such vectors is a lower bound of the whole KL, and the gap is known: for KL(p‖q) it is P_T times the KL
    between the tails. Without the bucket the optimum is another distribution.

    Args:
        logits: [..., V].
        support: [..., K] distinct token ids, K < V.

    Returns:
        [..., K + 1] nats, float64; the last is the tail's.
    """
    log_p = log_softmax(logits)
    tail = log_p.scatter(-1, support, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([log_p.gather(-1, support), tail], dim=-1)


def topk_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, k: int, *, forward: bool) -> torch.Tensor:
    """KL over the teacher's k likeliest tokens and one bucket for the tail; see `tail_bucket`.

    Args:
        student_logits: [..., V]; gradients flow.
        teacher_logits: [..., V].
        k: At least 1; from V on, the result is the whole KL.
        forward: KL(p‖q), else KL(q‖p).

    Returns:
        [...] nats, >= 0 and at most the whole KL.
    """
    if k >= teacher_logits.shape[-1]:
        return (forward_kl if forward else reverse_kl)(student_logits, teacher_logits)
    support = teacher_logits.topk(k, dim=-1).indices
    log_p, log_q = tail_bucket(teacher_logits, support), tail_bucket(student_logits, support)
    kl = _kl(log_p.exp(), log_p, log_q) if forward else _kl(log_q.exp(), log_q, log_p)
    return _like(kl, student_logits)


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
        entropy_of(p, log_p),
        entropy_of(q, log_q),
        _kl(p, log_p, log_q),
        _kl(q, log_q, log_p),
    )
    return TokenScores(*(_like(score, student_logits) for score in scores))


def entropy_of(p: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """Entropy [...] of probabilities and their logarithms, both [..., V], in nats."""
    # 0 · (−inf) is 0 here. Taking 0 − x instead of −x keeps "-0.0" out of every table.
    return 0.0 - (p * _where_possible(p, log_p)).sum(-1)


def _kl(p: torch.Tensor, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    # A token that is impossible for both would give −inf − (−inf), which is NaN.
    kl = (p * _where_possible(p, log_p - log_q)).sum(-1)
    return kl - kl.detach().clamp(max=0.0)  # under 1e-15 the sum is rounding of either sign; its gradient is not


def _where_possible(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    # Masking costs as much as all else together, and mostly there is nothing to mask. On a GPU, to look is to wait.
    if p.device.type == "cpu" and p.numel() and p.detach().amin() > 0:
        return x
    return x.masked_fill(p == 0, 0.0)


def _log_mixture(log_p: torch.Tensor, log_q: torch.Tensor, weight: float) -> torch.Tensor:
    """log(w · p + (1 − w) · q), from the likelier side, and so exactly log p where p and q are equal."""
    d = (log_p - log_q).masked_fill(log_p.isneginf() & log_q.isneginf(), 0.0)
    above = log_p + torch.log1p((1 - weight) * torch.expm1(-d.clamp(min=0.0)))
    below = log_q + torch.log1p(weight * torch.expm1(d.clamp(max=0.0)))
    return torch.where(d > 0, above, below)


def _like(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return float64 for float64 input, else float32."""
    return value if logits.dtype == torch.float64 else value.float()
