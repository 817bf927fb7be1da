"""The programs of the packages whose losses and gradients are asked for.

A case is β, the type, and one row of logits of student and teacher, "-inf" for an impossible token. A fused loss takes
hidden states and an output matrix: the logits themselves and the identity give it exactly these logits, and the
impossible tokens go in as a bias.
"""

from __future__ import annotations

_ASKED = """
import os, warnings
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
def row(values, kind): return torch.tensor([[float(x) for x in values]], dtype=getattr(torch, kind))
def fused(loss, beta, kind, student, teacher):
    s, t = row(student, kind), row(teacher, kind)
    bias = torch.where(s.isinf(), s, 0.0)[0] if s.isinf().any() else None
    s, t = (x.masked_fill(x.isinf(), 0.0) for x in (s, t))
    s.requires_grad_()
    return s, loss(s, torch.eye(s.shape[1], dtype=s.dtype), bias, t, beta)
def answers(via, asked, kinds):
    def loss(*case): return float(asked(*case)[1].sum().detach())
    def gradient(*case):
        logits, found = asked(*case)
        found.sum().backward()
        return logits.grad[0].tolist()
    return [(f"{name}, {part}, {kind}", via, {"loss": loss, "gradient": gradient}[part])
            for name in ("forward KL", "reverse KL", "JSD") for part in ("loss", "gradient") for kind in kinds]
ALL = ["float64", "float32", "float64, near", "float32, near", "float64, peaked", "float32, peaked", "float32, −inf"]
"""
TRL = (
    _ASKED
    + """
from trl.experimental.gkd import GKDTrainer
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
def gkd(beta, kind, student, teacher):
    s, t = row(student, kind).requires_grad_(), row(teacher, kind)
    return s, GKDTrainer.generalized_jsd_loss(s[None], t[None], beta=beta, reduction="sum")
def chunked(*case):
    loss = lambda s, head, bias, t, beta: ChunkedDivergenceFunction.apply(s, head, bias, t, head, bias, beta)[0]
    return fused(loss, *case)
FLOAT32 = [kind for kind in ALL if kind not in ("float64, near", "float64, peaked")]  # it computes in no other
ANSWERS = [
    *answers("GKDTrainer.generalized_jsd_loss", gkd, ALL),
    *answers("ChunkedDivergenceFunction", chunked, FLOAT32),
]
"""
)
LIGER = (
    _ASKED
    + """
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
def liger(told, case):
    def loss(s, head, bias, t, beta):
        return LigerFusedLinearJSDLoss(beta=beta, compiled=False, **told)(
            s, head, t, head, torch.zeros(1, dtype=torch.long), bias, bias)
    return fused(loss, *case)
soft = dict(weight_hard_loss=0.0, weight_soft_loss=1.0)
def triton(*case):
    from liger_kernel.transformers import LigerJSD
    beta, kind, student, teacher = case
    s = row(student, kind).requires_grad_()
    return s, LigerJSD(beta=beta)(s.log_softmax(-1), row(teacher, kind).log_softmax(-1))
ANSWERS = [
    *answers("LigerFusedLinearJSDLoss", lambda *case: liger(soft, case), ALL),
    *(one for one in answers("LigerFusedLinearJSDLoss, default weights", lambda *case: liger({}, case), ["float64"])
      if one[0].startswith("JSD")),
    *(one for one in answers("LigerJSD", triton, ["float32"]) if one[0].startswith("JSD")),
]
"""
)
