"""Any OpenAI-compatible server: vLLM, SGLang, llama.cpp, a hosted API. Several at once, if they serve one model.

What it can tell depends on the server. Token ids and log-probabilities are asked for; without ids, metrics are those
of texts and answers, and nothing can be scored. The server's own seeding decides whether a seed repeats its tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from odeval.engines.base import Asked, EngineOptions
from odeval.engines.http import Malformed, Poster, Refused
from odeval.engines.openai_api import PATHS, RUNGS, body, read, read_prompt_logprobs, scoring_body, top_logprobs
from odeval.errors import OdevalError
from odeval.types import Completion, ModelRef, Prompt, SamplingParams, content_hash

_PROBE = SamplingParams(n=1, max_tokens=1)
_COLD = SamplingParams(n=1, max_tokens=2, temperature=0.5)  # of another length: so that equal answers are one answer
_UNKNOWN_FIELD = {400, 422}
_REMEMBERED = 2**16  # answers
_RAW = 0.02  # nats that replicas or numeric noise may move a log-probability by


class ServerEngine:
    """Samples completions over HTTP, one request each; nothing is lost, and nothing counted twice.

    Opening it costs two requests of one token: which fields the server knows, and whether its log-probabilities are
    those of the model itself. Those that follow the temperature are kept at temperature 1 without truncation alone.

    Args:
        options: model, base_urls, endpoint, concurrency, timeout, retries, key_variable.
        backoff: Seconds before the first repetition of a request.

    Raises:
        OdevalError: The address is wrong, or the server refuses the model, the key or every form of request.
        CannotJudge: No server answers.
    """

    def __init__(self, options: EngineOptions, backoff: float = 0.5) -> None:
        self.model, self.endpoint = options.model, options.endpoint
        self.vocab_size = options.vocab_size
        self._poster = Poster(options, backoff)
        self._numbers = _Numbers()
        self._rung, first = self._find_rung()
        completion = read(first, self.endpoint, _PROBE.max_tokens)
        self.gives_token_ids = completion.token_ids is not None
        self.gives_logprobs = completion.logprobs is not None
        self.logprobs_are_raw = self.gives_logprobs and self._raw(first)

    @property
    def max_length(self) -> int | None:
        """Not known; the server refuses what does not fit."""
        return None

    @property
    def parallel(self) -> int:
        """Requests in flight."""
        return self._poster.concurrency

    def ref(self) -> ModelRef:
        """Name the model as the server does. Nobody can hash weights that lie elsewhere."""
        return ModelRef(path=f"server:{self.model}")

    def describe(self) -> dict[str, Any]:
        """Name the servers and what they tell. Addresses hold no secrets; the key is not here."""
        return {
            "name": "server",
            "base_urls": list(self._poster.base_urls),
            "endpoint": self.endpoint,
            "request": RUNGS[self._rung],
            "token_ids": self.gives_token_ids,
            "logprobs": self.gives_logprobs,
            "logprobs_are_raw": self.logprobs_are_raw,
        }

    def limits(self) -> str:
        """What cannot be told of completions from this server, in one line; empty if everything can."""
        lacks = [
            name
            for name, given in (("token ids", self.gives_token_ids), ("log-probabilities", self.gives_logprobs))
            if not given
        ]
        effect = "metrics of texts and answers only" if not self.gives_token_ids else "repeats are not tested"
        return f"server:{self.model} gives no {' and no '.join(lacks)}: {effect}" if lacks else ""

    def encode(self, prompt: Prompt) -> Asked:
        """Return the text, or for chat the messages; a text becomes one turn of the user's.

        Raises:
            OdevalError: The prompt has messages, and the endpoint is not chat.
        """
        if self.endpoint == "chat":
            return prompt.messages or ({"role": "user", "content": prompt.text or ""},)
        if prompt.messages is not None:
            raise OdevalError(f"prompt {prompt.prompt_id}: has messages; ask for them with --endpoint chat")
        return prompt.text or ""

    def sample(
        self, prompts: Sequence[Asked], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> list[list[Completion]]:
        """Draw completions, one request each.

        Args:
            prompts: P results of `encode`, or lists of token ids for the endpoint completions.
            seeds: For each prompt the seeds of its completions.
            params: temperature, top_p, top_k and max_tokens; n and seed are not read here.

        Returns:
            P lists, one Completion per seed, in the order of the seeds.

        Raises:
            OdevalError: A server refuses a request, or cannot cut at top_k.
            CannotJudge: A request has no usable answer after all its tries.
        """
        if params.top_k and self._rung > 0:
            raise OdevalError(f"server:{self.model} knows no top_k; leave --top-k at 0")
        pairs = [(p, seed) for p, own in enumerate(seeds) for seed in own]
        bodies = [self._body(prompts[p], seed, params) for p, seed in pairs]
        plain = (params.temperature, params.top_p, params.top_k) == (1.0, 1.0, 0)
        scored = self.gives_logprobs and (plain or self.logprobs_are_raw)

        def reader(answer: Any, _: int) -> Completion:
            completion = self._kept(read(answer, self.endpoint, params.max_tokens), scored)
            if self._numbers.is_copy(answer):
                raise Malformed(f"the same answer ({answer['id'][:40]}) came to two requests")
            return completion

        found = iter(self._poster.post_all(PATHS[self.endpoint], bodies, [p for p, _ in pairs], reader))
        return [[next(found) for _ in own] for own in seeds]

    def top_logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], k: int) -> list[np.ndarray]:
        """Ask for the largest log-probabilities at every token of given completions, at temperature 1.

        Args:
            sequences: Pairs of prompt ids and completion ids, neither empty.
            k: Tokens at each position.

        Returns:
            One [T, k] a pair, nats, falling; −inf where the server tells fewer.

        Raises:
            OdevalError: The server refuses, as when k is more than it allows.
            CannotJudge: It gives no log-probabilities of a prompt.
        """
        texts = [[*prompt, *tokens] for prompt, tokens in sequences]
        starts = [len(prompt) for prompt, _ in sequences]
        bodies = [scoring_body(self.model, ids, k) for ids in texts]

        def reader(answer: Any, i: int) -> np.ndarray:
            return read_prompt_logprobs(answer, len(texts[i]), starts[i], k)

        return self._poster.post_all(PATHS["completions"], bodies, range(len(bodies)), reader)

    def gives_top_logprobs(self, k: int) -> bool:
        """Tell whether `top_logprobs` has an answer; asks every server about a text of two tokens."""
        probes = [scoring_body(self.model, [0, 0], k)] * len(self._poster.base_urls)

        def tells(answer: Any, _: int) -> bool:
            with contextlib.suppress(Malformed):
                return len(read_prompt_logprobs(answer, 2, 1, k)) == 1
            return False

        try:
            return self.gives_token_ids and all(
                self._poster.post_all(PATHS["completions"], probes, range(len(probes)), tells)
            )
        except Refused:
            return False

    def _kept(self, completion: Completion, scored: bool) -> Completion:
        """A run whose completions are known in different depth would be measured unequally."""
        if self.gives_token_ids and completion.token_ids is None:
            raise Malformed("the answer has no token ids, other answers of this server have")
        if scored and completion.logprobs is None:
            raise Malformed("the answer has no log-probabilities, other answers of this server have")
        token_ids = completion.token_ids if self.gives_token_ids else None
        return replace(completion, token_ids=token_ids, logprobs=completion.logprobs if scored else None)

    def _body(self, asked: Asked, seed: int, params: SamplingParams) -> dict[str, Any]:
        return body(self.model, self.endpoint, asked, seed, params, self._rung)

    def _ask(self, params: SamplingParams) -> Any:
        """Ask every server something short; the answer of the first."""
        bodies = [self._body(self.encode(Prompt(text="The")), 0, params)] * len(self._poster.base_urls)

        def whole(answer: Any, _: int) -> Any:
            read(answer, self.endpoint, params.max_tokens)
            self._numbers.is_copy(answer)
            return answer

        return self._poster.post_all(PATHS[self.endpoint], bodies, range(len(bodies)), whole)[0]

    def _find_rung(self) -> tuple[int, Any]:
        refused: Refused | None = None
        for rung in range(len(RUNGS)):
            self._rung = rung
            try:
                return rung, self._ask(_PROBE)
            except Refused as error:
                refused = error if rung < len(RUNGS) - 1 or refused is None else refused  # the plainest form's
                if error.status not in _UNKNOWN_FIELD:
                    break
        assert refused is not None
        raise refused

    def _raw(self, first: Any) -> bool:
        """Tell whether log-probabilities are the model's own, whatever the temperature.

        The likeliest token's is looked at, which does not depend on the token drawn. Where it is about 0 at any
        temperature nothing can be told, and they are not trusted.
        """
        at_one, at_half = (top_logprobs(answer, self.endpoint)[:1] for answer in (first, self._ask(_COLD)))
        if not at_one or not at_half or at_one[0] > -_RAW:
            return False
        return abs(at_one[0] - at_half[0]) <= _RAW


class _Numbers:
    """Notices an answer that is given to two requests, as by a cache that does not look at the seed.

    Servers number their answers. Where two different answers have one number it means nothing, and is not looked at.
    """

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._meaningful = True

    def is_copy(self, answer: Any) -> bool:
        """Remember an answer, and tell whether it was given before."""
        name, content = answer.get("id"), content_hash(answer["choices"])
        if not (isinstance(name, str) and name and self._meaningful):
            return False
        before = self._seen.get(name)
        self._meaningful = before in (None, content)
        self._seen[name] = content
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return before == content
