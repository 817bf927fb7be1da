"""Tiny models in genuine Hugging Face format: a word-level tokenizer and a small Llama. Needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from odeval.tasks.worlds import SPECIALS


def tiny_tokenizer(vocabulary: Sequence[str], max_length: int = 64) -> Any:
    """Build a tokenizer with one token per word, split at white space.

    Args:
        vocabulary: The words; their ids follow those of `SPECIALS`.
        max_length: What the model's positions allow.

    Returns:
        A PreTrainedTokenizerFast that puts <bos> before every text and appends nothing. Decoding joins the
        words with single spaces.

    Example:
        >>> tokenizer = tiny_tokenizer(["a", "b"])
        >>> tokenizer("b a ?")["input_ids"], tokenizer.decode([5, 4, 2], skip_special_tokens=True)
        ([1, 5, 4, 3], 'b a')
    """
    pad, bos, eos, unk = SPECIALS
    ids = {word: index for index, word in enumerate([*SPECIALS, *vocabulary])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=unk))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, ids[bos])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,  # would glue "a ." and change what the grader reads
    )


def tiny_llama(
    vocab_size: int, width: int, layers: int, heads: int, ffn: int, *, seed: int, positions: int = 64
) -> Any:
    """Build a Llama with random weights that depend on the seed alone.

    Args:
        vocab_size: With the special tokens.
        width: Hidden size; width / heads must be even, or rotary positions have no pairs to turn.
        layers: Transformer blocks.
        heads: Attention heads.
        ffn: Width of the gated feed-forward layer.
        seed: Of the weights. The global random state is left as it was.
        positions: Longest prompt and completion together.

    Returns:
        A LlamaForCausalLM in float32, input and output embeddings tied.
    """
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        pad_token_id=SPECIALS.index("<pad>"),
        bos_token_id=SPECIALS.index("<bos>"),
        eos_token_id=SPECIALS.index("<eos>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    # Samples as odeval samples; without it transformers would cut the tail at 50 tokens.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )
    return model
