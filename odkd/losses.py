"""What the objectives add to the divergences: mixtures, gates, and losses at the sampled token.

Each maps logits [N, V] of both models at the same prefixes to [N] per-token losses, neither masked nor reduced. The
divergences themselves live in `odeval.divergence`, so what is trained and what is measured cannot differ. p is the
teacher, q the student, y the sampled token; `sg` marks what no gradient flows through.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from odeval import divergence

Gate = Literal["absolute", "quantile", "soft"]


class Sampled(NamedTuple):
    """What is known of the N tokens beside both models' logits.

    Attributes:
        token_ids: [N] int64, y.
        rollout_logprob: [N] nats under whatever sampled y; NaN where nobody recorded it.
        future: [N] nats, Σ over the later tokens of the completion of what `pg_reverse_kl` credits them with; 0 where
            the objective does not look ahead.
        threshold: Of the gate in nats, where it depends on the whole update; NaN where it does not.
        gated_fraction: Share of the update's tokens beyond the gate, for the normaliser "gated"; 1 for "valid".
    """

    token_ids: torch.Tensor
    rollout_logprob: torch.Tensor
    future: torch.Tensor
    threshold: float = float("nan")
    gated_fraction: float = 1.0


def blend(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, forward_weight: float) -> torch.Tensor:
    """Linear mixture of both KL divergences: w · KL(p‖q) + (1 − w) · KL(q‖p).

    Unlike a generalized JSD it keeps pulling at a mode the student has lost: there the gradient is −w · p_v.

    Args:
        student_logits: [..., V]; gradients flow.
        teacher_logits: [..., V].
        forward_weight: w in [0, 1]: 0 is reverse KL, 1 is forward KL.

    Returns:
        [...] nats, >= 0.
    """
    forward = divergence.forward_kl(student_logits, teacher_logits)
    reverse = divergence.reverse_kl(student_logits, teacher_logits)
    return forward_weight * forward + (1 - forward_weight) * reverse


def jsd(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, beta: float, jsd_scale: Literal["raw", "unit"]
) -> torch.Tensor:
    """Generalized JSD; with scale "unit" divided by β(1 − β), which makes it continuous with both KLs at the ends."""
    loss = divergence.jsd(student_logits, teacher_logits, beta)
    return loss / (beta * (1 - beta)) if jsd_scale == "unit" and 0 < beta < 1 else loss


def adaptive_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, head_mass: float) -> torch.Tensor:
    """Weigh both KLs by where the models differ: on the teacher's likeliest tokens, or on the rest.

        s_h / (s_h + s_t) · KL(p‖q) + s_t / (s_h + s_t) · KL(q‖p),   s = sg Σ |p − q| over head and tail

    The head is the shortest run of the teacher's likeliest tokens whose mass reaches `head_mass`.

    Source:
        Wu et al. 2024, AKL, https://arxiv.org/abs/2404.02657, section 4.
    """
    with torch.no_grad():
        p, q = (divergence.log_softmax(logits).exp() for logits in (teacher_logits, student_logits))
        ordered, order = p.sort(dim=-1, descending=True, stable=True)
        head = ordered.cumsum(-1) - ordered < head_mass
        gap = (p - q).abs().gather(-1, order)
        total = gap.sum(-1)
        share = torch.where(total > 0, (gap * head).sum(-1) / total, 0.5).to(student_logits.dtype)
    forward = divergence.forward_kl(student_logits, teacher_logits)
    return share * forward + (1 - share) * divergence.reverse_kl(student_logits, teacher_logits)


def gate_of(
    teacher_logits: torch.Tensor, sampled: Sampled, gate: Gate, gate_threshold: float, gate_width: float = 0.1
) -> torch.Tensor:
    """How far the gate is open at each position, [N] in [0, 1]; it depends on the teacher alone.

    absolute  1[H(p) >= gate_threshold]
    quantile  1[H(p) >= quantile of H(p) over the update's tokens]
    soft      σ((H(p) − gate_threshold) / gate_width)
    """
    with torch.no_grad():
        entropy = divergence.entropy(teacher_logits)
        if gate == "soft":
            return torch.sigmoid((entropy - gate_threshold) / gate_width)
        return (entropy >= (sampled.threshold if gate == "quantile" else gate_threshold)).to(entropy.dtype)


def entropy_gated(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    sampled: Sampled,
    *,
    gate: Gate,
    gate_threshold: float,
    gate_width: float,
    gate_weight: float,
) -> torch.Tensor:
    """Exact reverse KL everywhere, and exact forward KL where the teacher is undecided.

        KL(q‖p) + gate_weight · g(H(p)) · KL(p‖q) / s

    s is 1 with `gate_normalizer: valid`, so that both terms are means over all tokens; with "gated" it is the share of
    tokens beyond the gate, so that the second term is a mean over those.

    Source:
        Ours, after EOPD: full vocabulary and exact in both directions.
    """
    scale = gate_weight / max(sampled.gated_fraction, 1e-9)
    opened = gate_of(teacher_logits, sampled, gate, gate_threshold, gate_width)
    forward = divergence.forward_kl(student_logits, teacher_logits)
    return divergence.reverse_kl(student_logits, teacher_logits) + scale * opened * forward


def eopd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    sampled: Sampled,
    *,
    gate_threshold: float,
    gate_weight: float,
    loss_top_k: int,
    epsilon: float | None,
) -> torch.Tensor:
    """EOPD as published: the clipped policy-gradient term everywhere, and a top-K forward KL at high entropy.

        −min(r A, clip(r, 1 ± ε) A) + gate_weight · 1[H(p) >= gate_threshold] · Σ_topK p̃ log(p̃ / q) / s

    p̃ is the teacher renormalised over its K likeliest tokens, q the student over the whole vocabulary: as published,
    and so the second term's optimum is p̃ rather than p. Additive, with an absolute threshold; s as in `entropy_gated`.

    Source:
        arXiv 2603.07079; gate and normaliser after its public fork.
    """
    first = pg_reverse_kl(student_logits, teacher_logits, sampled, epsilon=epsilon, single_step="sampled")
    top = teacher_logits.topk(min(loss_top_k, teacher_logits.shape[-1]), dim=-1)
    log_kept = divergence.log_softmax(top.values)  # renormalised over the K tokens
    log_q = divergence.log_softmax(student_logits).gather(-1, top.indices)
    second = (log_kept.exp() * (log_kept - log_q)).sum(-1).to(first.dtype)
    opened = gate_of(teacher_logits, sampled, "absolute", gate_threshold)
    return first + gate_weight / max(sampled.gated_fraction, 1e-9) * opened * second


def pg_reverse_kl(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    sampled: Sampled,
    *,
    epsilon: float | None,
    single_step: Literal["sampled", "baseline", "exact"],
) -> torch.Tensor:
    """Policy gradient of the reverse KL from the sampled token alone.

        −r · (A + F),   A = sg[log p(y) − log q_old(y)],  r = q(y) / q_old(y),  F = future

    Its expectation over y ~ q_old has the gradient of KL(q‖p), while its value is not the divergence.

    Args:
        student_logits: [N, V]; gradients flow.
        teacher_logits: [N, V].
        sampled: Tokens, log-probabilities of whatever sampled them, and what they are credited with later on.
        epsilon: Clip r to 1 ± epsilon as PPO does; None does not clip.
        single_step: "sampled" is A as above; "baseline" adds sg KL(q‖p), its negative mean, which takes variance away
            and leaves the gradient; "exact" puts KL(q‖p) itself, times sg r, in A's place, and samples only the future.

    Source:
        Thinking Machines 2025, On-Policy Distillation; "baseline" is vOPD's control variate (arXiv 2605.07865);
        "exact" with a future is MiniLLM (arXiv 2306.08543, eq. 5).
    """
    log_q = divergence.log_prob(student_logits, sampled.token_ids)
    old = torch.where(sampled.rollout_logprob.isnan(), log_q.detach(), sampled.rollout_logprob.to(log_q.dtype))
    future = sampled.future.to(log_q.dtype)
    if single_step == "exact":
        advantage, exact = future, divergence.reverse_kl(student_logits, teacher_logits)
    else:
        advantage, exact = (
            divergence.log_prob(teacher_logits, sampled.token_ids) - old + future,
            torch.zeros_like(log_q),
        )
        if single_step == "baseline":
            advantage = advantage + divergence.reverse_kl(student_logits, teacher_logits)
    advantage = advantage.detach()
    ratio = (log_q - old).exp()
    gain = ratio * advantage
    if epsilon is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)
    return exact * ratio.detach() - gain


def sampled_reverse_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, sampled: Sampled) -> torch.Tensor:
    """The k2 estimator as a loss, ½ log²(q(y)/p(y)): over y ~ q its gradient is that of reverse KL."""
    gap = _gap(student_logits, teacher_logits, sampled)
    return 0.5 * gap * gap


def sampled_forward_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, sampled: Sampled) -> torch.Tensor:
    """The k3 estimator as a loss, p/q − 1 − log(p/q): over y ~ q its gradient is that of FORWARD KL.

    Its value estimates the reverse KL, and many trainers offer it under that name.
    """
    gap = _gap(student_logits, teacher_logits, sampled)
    return torch.expm1(-gap) + gap


def _gap(student_logits: torch.Tensor, teacher_logits: torch.Tensor, sampled: Sampled) -> torch.Tensor:
    """Log q(y) − log p(y)."""
    log_p, log_q = (divergence.log_prob(logits, sampled.token_ids) for logits in (teacher_logits, student_logits))
    return log_q - log_p


def cross_entropy(student_logits: torch.Tensor, teacher_logits: torch.Tensor, sampled: Sampled) -> torch.Tensor:
    """−log q(y): with completions of the teacher it is forward KL between sequences, but for a constant."""
    return -divergence.log_prob(student_logits, sampled.token_ids)
