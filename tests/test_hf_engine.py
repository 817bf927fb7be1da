"""The embedded engine: exact draws, whatever else is in the batch, and log-probabilities that scoring confirms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_models import ARCHITECTURES, EOS, SHARING, VOCAB, WORDS, network, tiny
from transformers import GenerationConfig, LlamaForCausalLM

from odeval.divergence import log_softmax
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.testbed.build import tiny_tokenizer
from odeval.types import Completion, SamplingParams

PARAMS = SamplingParams(n=1, max_tokens=12)
PROMPTS = [[1, 5, 9], [1, 7, 7], [1, 4, 5, 6, 7, 8, 9, 10, 11], [1], [1, 30, 12], [1, *range(4, 28)]]
SEEDS = [[1000 * p + s for s in range(3 + 2 * p)] for p in range(len(PROMPTS))]
WAYS = [*((name, False) for name in ARCHITECTURES), *((name, True) for name in SHARING)]
SUM_ORDER = {"mixtral"}  # an expert sees only the rows that are routed to it, and these depend on the batch


def tokens(answers: list[list[Completion]]) -> list[list[list[int]]]:
    return [[list(completion.token_ids) for completion in own] for own in answers]


def counted(engine: HfEngine) -> list[tuple[int, int]]:
    """Record (rows, tokens) of every forward pass of an engine while it samples."""
    passes: list[tuple[int, int]] = []
    _ = engine.model.cache_bytes  # measured by two passes of its own
    forward = engine.model.forward

    def recording(input_ids: torch.Tensor, cache: Any, keep: int = 1) -> torch.Tensor:
        passes.append((input_ids.shape[0], input_ids.shape[1]))
        return forward(input_ids, cache, keep)

    engine.model.forward = recording  # type: ignore[method-assign]
    return passes


@pytest.mark.parametrize(("architecture", "share"), WAYS)
def test_same_seed_same_tokens_whatever_the_batch(architecture: str, share: bool) -> None:
    """Unequal prompt lengths, any memory, any order, any company: one seed is one completion, bit for bit."""
    model = tiny(architecture)
    answers = HfEngine(model, share=share).sample(PROMPTS, SEEDS, PARAMS)
    assert len({tuple(t) for own in tokens(answers) for t in own}) > 20, "the model says something"
    assert {c.finish_reason for own in answers for c in own} == {"stop", "length"}
    alternatives = [
        HfEngine(model, memory_bytes=memory, share=share).sample(PROMPTS, SEEDS, PARAMS) for memory in (1, 50_000)
    ]
    order = [3, 0, 5, 2, 1, 4]
    shuffled = HfEngine(model, share=share).sample([PROMPTS[p] for p in order], [SEEDS[p][::-1] for p in order], PARAMS)
    alternatives.append([shuffled[order.index(p)][::-1] for p in range(len(PROMPTS))])
    alone = [
        HfEngine(model, share=share).sample([prompt], [own], PARAMS)[0]
        for prompt, own in zip(PROMPTS, SEEDS, strict=True)
    ]
    for other in (*alternatives, alone):
        assert tokens(other) == tokens(answers)
        for own, others in zip(answers, other, strict=True):
            for left, right in zip(own, others, strict=True):
                if architecture in SUM_ORDER:
                    assert np.allclose(left.logprobs, right.logprobs, atol=1e-5)
                else:
                    assert np.array_equal(left.logprobs, right.logprobs)
                    assert np.array_equal(left.entropies, right.entropies)


@pytest.mark.parametrize(("architecture", "share"), WAYS)
def test_logprobs_and_entropies_agree_with_a_pass_over_the_whole_sequence(architecture: str, share: bool) -> None:
    model = tiny(architecture)
    answers = HfEngine(model, share=share).sample(PROMPTS, SEEDS, replace(PARAMS, max_tokens=40))
    for prompt, own in zip(PROMPTS, answers, strict=True):
        for completion in own:
            logprobs, entropies = teacher_forced(model, prompt, completion.token_ids)
            atol = 1e-4 if architecture == "mamba" else 1e-5
            np.testing.assert_allclose(completion.logprobs, logprobs, rtol=0, atol=atol)
            np.testing.assert_allclose(completion.entropies, entropies, rtol=0, atol=2 * atol)


def teacher_forced(model: HfModel, prompt: Sequence[int], completion: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of each token, and entropy of what it was drawn from at temperature 1."""
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logits = model.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
    logits = logits - logits.max(-1, keepdim=True).values
    log_probs = logits - logits.exp().sum(-1, keepdim=True).log()
    chosen = np.array([float(log_probs[t, token]) for t, token in enumerate(completion)])
    return chosen, -(log_probs.exp() * log_probs).sum(-1).numpy()


def test_the_first_token_follows_the_model() -> None:
    model = tiny("llama")
    prompt, number = [1, 5, 9], 20_000
    seeds = np.random.default_rng(0).integers(0, 2**63, number).tolist()
    answers = HfEngine(model).sample([prompt], [seeds], replace(PARAMS, max_tokens=1))[0]
    with torch.no_grad():
        share = model.model(input_ids=torch.tensor([prompt])).logits[0, -1].double().softmax(-1).numpy()
    counts = np.bincount([int(c.token_ids[0]) for c in answers], minlength=VOCAB)
    assert stats.chisquare(counts, number * share / share.sum()).pvalue > 1e-3
    assert all(c.finish_reason == ("stop" if c.token_ids[0] == EOS else "length") for c in answers)


def test_whole_sequences_follow_the_model() -> None:
    """The mean log-probability of samples is minus their entropy: here the one of three tokens, by enumeration."""
    model = tiny("qwen3")
    prompt = [1, 5]
    model.stop_ids = frozenset()
    ids = torch.tensor([[*prompt, a, b] for a in range(VOCAB) for b in range(VOCAB)])
    with torch.no_grad():
        log_probs = log_softmax(model.model(input_ids=ids).logits[:, 1:])
    first, second = ids[:, 2], ids[:, 3]
    pair = log_probs[:, 0].gather(-1, first[:, None])[:, 0] + log_probs[:, 1].gather(-1, second[:, None])[:, 0]
    third = log_probs[:, 2]
    entropy = float(-(pair.exp() * pair).sum() - (pair.exp()[:, None] * third.exp() * third).sum())
    answers = HfEngine(model).sample([prompt], [list(range(4000))], replace(PARAMS, max_tokens=3))[0]
    sums = np.array([np.sum(c.logprobs) for c in answers])
    assert abs(sums.mean() + entropy) < 4 * sums.std() / math.sqrt(len(sums))


def test_the_models_own_generation_config_does_not_matter() -> None:
    model = network("llama")
    plain = HfEngine(HfModel.wrap(model, tiny_tokenizer(WORDS, 128))).sample(PROMPTS, SEEDS, PARAMS)
    model.generation_config = GenerationConfig(
        do_sample=False, temperature=0.1, top_k=1, top_p=0.1, repetition_penalty=5.0, min_p=0.5, max_new_tokens=2,
        no_repeat_ngram_size=1, num_beams=3, eos_token_id=EOS,
    )  # fmt: skip
    own = HfEngine(HfModel.wrap(model, tiny_tokenizer(WORDS, 128))).sample(PROMPTS, SEEDS, PARAMS)
    assert tokens(own) == tokens(plain)


def test_truncation_is_ours_and_what_is_told_is_the_plain_models() -> None:
    model = tiny("llama")
    cut = HfEngine(model).sample(PROMPTS[:1], [list(range(500))], replace(PARAMS, top_k=2, temperature=1.5))[0]
    assert len({int(c.token_ids[0]) for c in cut}) == 2
    for completion in cut[:20]:
        logprobs, entropies = teacher_forced(model, PROMPTS[0], completion.token_ids)
        np.testing.assert_allclose(completion.logprobs, logprobs, rtol=0, atol=1e-5)
        np.testing.assert_allclose(completion.entropies, entropies, rtol=0, atol=2e-5)


def test_every_stop_id_ends_a_completion_and_stays_in_it() -> None:
    model = network("llama")
    model.generation_config = GenerationConfig(eos_token_id=[EOS, 6, 8])
    wrapped = HfModel.wrap(model, tiny_tokenizer(WORDS, 128))
    assert wrapped.stop_ids == {EOS, 6, 8}
    answers = HfEngine(wrapped).sample(PROMPTS, SEEDS, replace(PARAMS, max_tokens=60))
    last = {int(c.token_ids[-1]) for own in answers for c in own if c.finish_reason == "stop"}
    assert last == {EOS, 6, 8}
    for own in answers:
        for completion in own:
            inside = [int(token) for token in completion.token_ids[:-1]]
            assert not {EOS, 6, 8}.intersection(inside)
            assert len(completion.token_ids) == 60 or completion.finish_reason == "stop"
            assert "<eos>" not in completion.text


def test_max_tokens_cuts_and_says_so() -> None:
    model = tiny("llama")
    longer, shorter = (HfEngine(model).sample(PROMPTS, SEEDS, replace(PARAMS, max_tokens=m)) for m in (12, 5))
    for own, cut in zip(longer, shorter, strict=True):
        for whole, part in zip(own, cut, strict=True):
            assert list(part.token_ids) == list(whole.token_ids[:5])
            stopped = int(part.token_ids[-1]) == EOS
            assert part.finish_reason == ("stop" if stopped else "length")
            assert part.logprobs is not None
            assert len(part.token_ids) == len(part.logprobs) <= 5


def test_more_samples_extend_the_first_ones() -> None:
    model = tiny("gpt2")
    four, eight = (HfEngine(model).sample(PROMPTS, [list(range(n))] * len(PROMPTS), PARAMS) for n in (4, 8))
    assert [own[:4] for own in tokens(eight)] == tokens(four)


def test_temperature_zero_is_greedy() -> None:
    model = tiny("gemma2")
    answers = HfEngine(model).sample(PROMPTS, [[1, 2]] * len(PROMPTS), replace(PARAMS, temperature=0))
    for prompt, (one, two) in zip(PROMPTS, tokens(answers), strict=True):
        assert one == two
        ids = list(prompt)
        for token in one:
            with torch.no_grad():
                assert token == int(model.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            ids.append(token)


def test_finished_rows_leave_the_batch_and_the_prompt_is_read_once() -> None:
    engine = HfEngine(tiny("llama"))
    engine.model.stop_ids = frozenset(range(4, 16))  # a large share of tokens ends a completion
    passes = counted(engine)
    prompt = [1, *range(4, 28), *range(4, 27)]
    answers = engine.sample([prompt], [list(range(256))], replace(PARAMS, max_tokens=40))[0]
    assert passes[0] == (1, 48), "one prompt, one row"
    lengths = np.array([len(c.token_ids) for c in answers])
    rows = [count for count, _ in passes[1:]]
    assert rows == sorted(rows, reverse=True)
    assert len(rows) == lengths.max() - 1
    needed = int((lengths - 1).sum())
    assert needed <= sum(rows) <= needed / 0.75 + 16 * len(rows), "a quarter may be finished, and 15 rows fill up"
    assert sum(rows) < 0.3 * 256 * len(rows), "which is what no compaction costs"
    assert all(count % 16 == 0 for count in rows)


def test_prompts_of_one_length_are_read_together() -> None:
    engine = HfEngine(tiny("llama"))
    passes = counted(engine)
    prompts = [[1, *range(4 + p, 11 + p)] for p in range(6)]
    answers = engine.sample(prompts, [list(range(40))] * 6, replace(PARAMS, max_tokens=1))
    assert passes == [(7, 8)], "six prompts, and one row to fill up the vectors"
    assert [len(own) for own in answers] == [40] * 6


def test_memory_bounds_the_rows_of_a_batch() -> None:
    engine = HfEngine(tiny("llama"), memory_bytes=100_000)
    constant, per_token = engine.model.cache_bytes
    passes = counted(engine)
    engine.sample(PROMPTS, [list(range(100))] * len(PROMPTS), PARAMS)
    assert max(rows for rows, _ in passes) * (constant + per_token * (3 + 12)) <= 100_000
    assert 16 <= max(rows for rows, _ in passes) < 100


def test_a_model_that_ignores_its_cache_is_refused() -> None:
    """Several architectures take `past_key_values` and drop it; every step would then see one token."""

    class Forgetful(LlamaForCausalLM):
        def forward(self, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    torch.manual_seed(0)
    model = HfModel.wrap(Forgetful(ARCHITECTURES["llama"]()), tiny_tokenizer(WORDS, 128), "forgetful")
    with pytest.raises(
        OdevalError, match="forgetful: Forgetful gives other logits with a key-value cache than without"
    ):
        HfEngine(model)


def test_a_model_that_cannot_step_is_refused() -> None:
    class Static(LlamaForCausalLM):
        def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
            return super().forward(input_ids)

    model = HfModel.wrap(Static(ARCHITECTURES["llama"]()), tiny_tokenizer(WORDS, 128), "static")
    with pytest.raises(
        OdevalError, match=r"static: Static cannot be sampled token by token with this engine .*unexpected"
    ):
        HfEngine(model)


def test_logits_that_are_not_finite_end_in_one_line() -> None:
    model = tiny("llama")
    engine = HfEngine(model)
    with torch.no_grad():
        model.model.model.layers[0].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(
        OdevalError, match=r"llama: gives logits that are not finite; its weights are damaged, .* torch.float32"
    ):
        engine.sample(PROMPTS, SEEDS, PARAMS)


def test_a_prompt_that_does_not_fit_ends_in_one_line() -> None:
    with pytest.raises(OdevalError, match="llama: a prompt of 25 tokens with max_tokens 110 exceeds its 128 positions"):
        HfEngine(tiny("llama")).sample(PROMPTS, SEEDS, replace(PARAMS, max_tokens=110))


def test_no_prompts_no_completions() -> None:
    assert HfEngine(tiny("llama")).sample([], [], PARAMS) == []
    assert HfEngine(tiny("llama")).sample(PROMPTS[:2], [[], [1]], PARAMS)[0] == []
