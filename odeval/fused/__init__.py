"""Divergences straight from hidden states, in chunks of tokens: the logits of all tokens are never held."""

from odeval.fused.head import Head
from odeval.fused.kind import Kind
from odeval.fused.loss import Fused, fused_divergence
from odeval.fused.rows import score_logits

__all__ = ["Fused", "Head", "Kind", "fused_divergence", "score_logits"]
