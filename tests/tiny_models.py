"""Models of several architectures, small enough to build in a test. Letters as words: w0, w1 …"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig

from odeval.engines.hf_model import HfModel
from odeval.tasks.worlds import SPECIALS
from odeval.testbed import WORLDS
from odeval.testbed.build import tiny_llama, tiny_tokenizer

WORDS = [f"w{i}" for i in range(28)]
VOCAB = len(SPECIALS) + len(WORDS)
EOS = SPECIALS.index("<eos>")
_SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": EOS,
}  # fmt: skip
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
_MAMBA = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "eos_token_id": EOS}
_LOCAL = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}  # shorter than any completion


def _config(name: str, **own: Any) -> Callable[[], PretrainedConfig]:
    return lambda: getattr(transformers, name)(**{**_SHAPE, **own})


# What differs: rotary and learned positions, query norms, local attention, capped or scaled logits, states instead
# of keys and values, and experts.
ARCHITECTURES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": _config("LlamaConfig"),
    "qwen3": _config("Qwen3Config"),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=VOCAB, bos_token_id=1, eos_token_id=EOS, **_GPT2),
    "gemma2": _config("Gemma2Config", final_logit_softcapping=2.0, attn_logit_softcapping=3.0, **_LOCAL),
    "cohere": _config("CohereConfig", logit_scale=0.5),
    "granite": _config("GraniteConfig", logits_scaling=2.0),
    "lfm2": _config("Lfm2Config", layer_types=["conv", "full_attention"]),
    "mamba": lambda: transformers.MambaConfig(**_MAMBA),
    "mixtral": _config("MixtralConfig", num_local_experts=4, num_experts_per_tok=2),
}
# Those whose attention is a softmax over all earlier tokens in every layer.
SHARING = ("llama", "qwen3", "gpt2", "cohere", "granite", "mixtral")


def tiny(architecture: str = "llama", seed: int = 0, sharpness: float = 12.0) -> HfModel:
    """Build a model whose weights depend on the seed alone.

    Args:
        architecture: A key of ARCHITECTURES.
        seed: Of the weights.
        sharpness: Multiplies every weight matrix; more makes the distributions more peaked.
    """
    return HfModel.wrap(network(architecture, seed, sharpness), tiny_tokenizer(WORDS, 128), architecture)


def network(architecture: str = "llama", seed: int = 0, sharpness: float = 12.0) -> Any:
    """As `tiny`, without the tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(ARCHITECTURES[architecture](), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "norm" not in name:
                parameter.mul_(sharpness)
    return model.eval()


def save_tiny(folder: Path, seed: int) -> Path:
    """Write a Llama over the graph_paths vocabulary as a model folder."""
    vocabulary = WORLDS["graph_paths"].vocabulary()
    model = tiny_llama(len(SPECIALS) + len(vocabulary), width=16, layers=1, heads=2, ffn=16, seed=seed)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # else every token is as likely as any other
    model.save_pretrained(folder)
    tiny_tokenizer(vocabulary).save_pretrained(folder)
    return folder


def save_lively(folder: Path, tied: bool = False) -> Path:
    """Write a Llama over the graph_paths vocabulary that never knows what comes next; its head perhaps the embeddings.

    Its heads are 32 wide, the least that vLLM takes on a CPU.
    """
    words = WORLDS["graph_paths"].vocabulary()
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": EOS}
    config = transformers.LlamaConfig(
        vocab_size=len(SPECIALS) + len(words), max_position_embeddings=128, tie_word_embeddings=tied, **shape, **ends
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.LlamaForCausalLM(config).float()
        torch.nn.init.normal_(model.lm_head.weight, std=0.25)
    model.save_pretrained(folder)
    tiny_tokenizer(words, 128).save_pretrained(folder)
    return folder
