"""Tokens per second of the embedded engine beside `generate(num_return_sequences=n)`: one process, one model, in turns.

    python benchmarks/sampling.py             # about 3 minutes on one core
    python benchmarks/sampling.py --rounds 1 --prompt-lengths 8

Both draw n completions of one prompt from the untruncated model, or n / 16 of each of 16 prompts that differ in length,
which `generate` pads on the left. "to the limit" lets every completion run to max_tokens; "with ends" gives 1 of 16
tokens the power to end one, so lengths differ, as they do in an evaluation, and are 16 on average. Only tokens up to
and with the first end count. The ratio is of CPU time, which a busy neighbour disturbs less than wall time, and of
calls in the same round; its median counts. Model and engine are made before. Writes
results/sampling_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from hardware import hardware, result_path
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from odeval.atomic import write_json
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.provenance import provenance
from odeval.testbed.build import tiny_tokenizer
from odeval.types import SamplingParams

VOCAB = 512
MIXED = range(8, 40, 2)  # prompt lengths
STOPS = {"to the limit": [], "with ends": list(range(0, VOCAB, 16))}


def build() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=1024, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def engine_of(model: Any, stops: list[int]) -> HfEngine:
    wrapped = HfModel.wrap(model, tiny_tokenizer([f"w{i}" for i in range(VOCAB - 4)], 1024))
    wrapped.stop_ids = frozenset(stops)
    return HfEngine(wrapped)


def ours(engine: HfEngine, prompts: list[list[int]], n: int, max_tokens: int, seed: int) -> int:
    each = n // len(prompts)
    seeds = [[seed * n + p * each + s for s in range(each)] for p in range(len(prompts))]
    answers = engine.sample(prompts, seeds, SamplingParams(n=1, max_tokens=max_tokens))
    return sum(len(completion.token_ids) for own in answers for completion in own)


def plain(engine: HfEngine, prompts: list[list[int]], n: int, max_tokens: int, seed: int) -> int:
    model, stops = engine.model.model, sorted(engine.model.stop_ids)
    torch.manual_seed(seed)
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_p=1.0, top_k=0, num_return_sequences=n // len(prompts),
        max_new_tokens=max_tokens, pad_token_id=0, eos_token_id=stops or None,
    )  # fmt: skip
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    drawn = model.generate(ids, attention_mask=mask, generation_config=config)[:, longest:]
    ends = torch.isin(drawn, torch.tensor(stops or [-1]))
    first = torch.where(ends.any(1), ends.int().argmax(1) + 1, drawn.shape[1])
    return int(first.sum())


def timed(function: Callable[..., int], *arguments: Any) -> tuple[float, float]:
    """Return tokens per second of CPU time, and of wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = function(*arguments)
    return tokens / (time.process_time() - cpu), tokens / (time.perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=64, help="completions of a prompt")
    parser.add_argument("--prompt-lengths", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="of each, in turns; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build()
    rows = []
    print(f"{'prompt':>8} {'completions':13} {'odeval':>9} {'generate':>9} {'ratio':>6}   tokens per CPU second")
    for case, stops in STOPS.items():
        engine = engine_of(model, stops)
        for length in (*options.prompt_lengths, f"{MIXED[0]} to {MIXED[-1]}"):
            lengths = [length] if isinstance(length, int) else MIXED
            prompts = [[1, *(4 + i % (VOCAB - 4) for i in range(own - 1))] for own in lengths]
            found: dict[str, list[tuple[float, float]]] = {"odeval": [], "generate": []}
            for function in (ours, plain):  # the first call of each loads code
                function(engine, prompts, 2 * len(prompts), 2, 0)
            for seed in range(options.rounds):
                for name, function in (("odeval", ours), ("generate", plain)):
                    found[name].append(timed(function, engine, prompts, options.n, options.max_tokens, seed))
            cpu = {name: statistics.median(rate for rate, _ in runs) for name, runs in found.items()}
            wall = {name: statistics.median(rate for _, rate in runs) for name, runs in found.items()}
            ratios = [a / b for (a, _), (b, _) in zip(found["odeval"], found["generate"], strict=True)]
            rows.append(
                {
                    "prompts": len(prompts),
                    "prompt_tokens": length,
                    "completions": case,
                    "per_cpu_second": cpu,
                    "per_second": wall,
                    "ratio": statistics.median(ratios),
                    "ratios": ratios,
                }
            )
            print(
                f"{length:>8} {case:13} {cpu['odeval']:9.0f} {cpu['generate']:9.0f} {statistics.median(ratios):6.2f}",
                flush=True,
            )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    path = result_path("sampling")
    write_json(
        path,
        {
            "what": "tokens per second of CPU and wall time; medians over rounds",
            "model": f"Llama of {parameters} parameters, float32, random weights",
            "setting": {**vars(options), "hardware": hardware()},
            "rows": rows,
            "provenance": {**provenance(), "command": " ".join(["python benchmarks/sampling.py", *sys.argv[1:]])},
        },
    )
    print(path)


if __name__ == "__main__":
    main()
