"""Tokens per second of scoring beside two forward passes and log_softmax: one process, in turns.

    python benchmarks/scoring.py [--rounds 3]

"plain" is what one writes first: both models' logits of a padded batch, log_softmax in float32, six sums. odeval
computes in float64, describes branch points and dropped branches as well (`branch_fraction` of the tokens; language
models have about 0.2), and never holds more than a chunk of logits. "scores" is the six columns alone, from given
logits, "scores_before" the same by `divergence.score_tokens`. Random Llamas with peaked outputs; generated tokens per
CPU second, one thread. Writes results/scoring_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from hardware import hardware, result_path
from transformers import LlamaConfig, LlamaForCausalLM

from odeval.atomic import write_json
from odeval.divergence import score_tokens
from odeval.engines.hf_model import HfModel
from odeval.fused import score_logits
from odeval.provenance import provenance
from odeval.schemas import BRANCH_FLOOR
from odeval.scoring import score_sequences
from odeval.testbed.build import tiny_tokenizer

PROMPT, COMPLETION, SEQUENCES = 32, 64, 16
VOCABULARIES = (512, 8_192, 32_000)
PEAK = 20.0


def build(vocab: int, noise: float) -> HfModel:
    """A model whose outputs are as peaked as a language model's; with noise, a student of the one without."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(PEAK)
        model.lm_head.weight.add_(noise * PEAK * 0.1 * torch.randn_like(model.lm_head.weight))
    return HfModel.wrap(model, tiny_tokenizer([f"w{i}" for i in range(vocab - 4)], 1024))


@torch.no_grad()
def plain(teacher: HfModel, student: HfModel, pairs: list[Any]) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *completion] for prompt, completion in pairs])
    targets = ids[:, PROMPT:, None]
    log_p, log_q = (model.model(ids).logits[:, PROMPT - 1 : -1].log_softmax(-1) for model in (teacher, student))
    p, q = log_p.exp(), log_q.exp()
    sums = -(p * log_p).sum(-1), -(q * log_q).sum(-1), (p * (log_p - log_q)).sum(-1), (q * (log_q - log_p)).sum(-1)
    return torch.stack([log_p.gather(-1, targets)[..., 0], log_q.gather(-1, targets)[..., 0], *sums])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for vocab in VOCABULARIES:
        teacher, student = build(vocab, 0.0), build(vocab, 0.1)
        draw = np.random.default_rng(0)
        pairs = [tuple(draw.integers(4, vocab, n).tolist() for n in (PROMPT, COMPLETION)) for _ in range(SEQUENCES)]
        logits = [torch.randn(256, vocab) * 3 for _ in range(2)]
        tokens = torch.zeros(256, dtype=torch.long)
        entropy = np.concatenate([own.values[2] for own in score_sequences(teacher, student, pairs)])
        branch_fraction = float((entropy >= BRANCH_FLOOR).mean())
        whole, part = SEQUENCES * COMPLETION, len(tokens)
        calls: dict[str, tuple[int, Callable[[], object]]] = {
            "odeval": (whole, lambda t=teacher, s=student, x=pairs: score_sequences(t, s, x)),  # type: ignore[misc]
            "plain": (whole, lambda t=teacher, s=student, x=pairs: plain(t, s, x)),  # type: ignore[misc]
            "scores": (part, lambda z=logits, i=tokens: score_logits(*z, i)),  # type: ignore[misc]
            "scores_before": (part, lambda z=logits, i=tokens, v=vocab: [  # type: ignore[misc]
                score_tokens(*own) for own in zip(*(x.split(max(1, 2**16 // v)) for x in (*z, i)), strict=True)]),
        }  # fmt: skip
        found: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(options.rounds + 1):  # the first loads
            for name, (count, work) in calls.items():
                start = time.process_time()
                work()
                if turn:
                    found[name].append(count / (time.process_time() - start))
        rates = {name: {"median": median(own), "min": min(own), "max": max(own)} for name, own in found.items()}
        ratios = {
            one: median(a / b for a, b in zip(found[one], found[other], strict=True))
            for one, other in (("odeval", "plain"), ("scores", "scores_before"))
        }
        rows.append(
            {"vocab": vocab, "branch_fraction": branch_fraction, "tokens_per_cpu_second": rates, "ratio": ratios}
        )
        print(vocab, branch_fraction, {name: round(own["median"]) for name, own in rates.items()}, ratios, flush=True)
    setting = {
        "rounds": options.rounds, "threads": 1, "hardware": hardware(), "prompt": PROMPT, "completion": COMPLETION,
        "sequences": SEQUENCES,
    }  # fmt: skip
    made = {**provenance(), "command": " ".join(["python benchmarks/scoring.py", *sys.argv[1:]])}
    path = options.out or result_path("scoring")
    write_json(path, {"what": __doc__, "setting": setting, "rows": rows, "provenance": made})
    print(path)


if __name__ == "__main__":
    main()
