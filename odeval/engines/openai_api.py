"""The OpenAI-compatible dialect: what is written into a request, and what an answer must hold to be one.

Servers differ in the fields they know, and some refuse a request that holds one they do not. RUNGS goes from the
most to the least; an engine takes the first that its server accepts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from odeval.engines.base import Asked
from odeval.engines.http import Malformed
from odeval.types import Completion, FinishReason, SamplingParams

Endpoint = Literal["completions", "chat"]
PATHS: dict[Endpoint, str] = {"completions": "/completions", "chat": "/chat/completions"}

# A server fills in what a request leaves out, vLLM from the model's generation_config: top_k 50 or a penalty would
# cut or bend the distribution unseen. -1 is off for vLLM, SGLang and llama.cpp alike.
_UNBENT = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True}
_LOGPROBS: dict[Endpoint, dict[str, Any]] = {
    "completions": {"logprobs": 1},
    "chat": {"logprobs": True, "top_logprobs": 1},
}
RUNGS = ("token ids", "log-probabilities", "text", "text, newer name of max_tokens")
_REASONS: dict[Any, FinishReason] = {"stop": "stop", "length": "length"}
_NEVER = -9000.0  # nats; vLLM writes −9999 for a token that cannot come, since JSON has no infinity
_SEED_BITS = 53  # what a JSON number holds exactly everywhere


def body(model: str, endpoint: Endpoint, asked: Asked, seed: int, params: SamplingParams, rung: int) -> dict[str, Any]:
    """Write the request for one completion.

    Args:
        model: As the server knows it.
        endpoint: Of the server.
        asked: A text, or for chat the messages.
        seed: 64 bits, a hash; the server gets 53 of them. One request a completion: with n > 1 vLLM gives the
            children seed, seed + 1, …, which other requests may use too.
        params: How to draw.
        rung: Index in RUNGS.
    """
    limit = "max_completion_tokens" if rung == 3 else "max_tokens"
    found: dict[str, Any] = {
        "model": model,
        limit: params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": seed >> (64 - _SEED_BITS),
        "n": 1,
    }
    found.update({"messages": [dict(turn) for turn in asked]} if endpoint == "chat" else {"prompt": asked})
    if rung == 0:
        found.update({"top_k": params.top_k or -1, **_UNBENT, **_IDS})
    if rung <= 1:
        found.update(_LOGPROBS[endpoint])
    return found


def read(answer: Any, endpoint: Endpoint, max_tokens: int) -> Completion:
    """Read the answer to one request.

    Args:
        answer: Its JSON.
        endpoint: That gave it.
        max_tokens: That were asked for.

    Raises:
        Malformed: It is not one whole answer.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        count = len(choices) if isinstance(choices, list) else "no"
        raise Malformed(f"the answer has {count} choices, 1 was asked for")
    choice: dict[str, Any] = choices[0]
    reason = choice.get("finish_reason")
    if not isinstance(reason, str):
        raise Malformed("the answer does not say why it ends (finish_reason)")
    tokens, logprobs = _logprobs(choice.get("logprobs"), endpoint)
    ids = _ids(choice.get("token_ids"))
    if ids is None and tokens is not None:
        ids = _ids_in(tokens)
    if ids is not None and len(ids) > max_tokens:
        raise Malformed(f"the answer has {len(ids)} tokens, at most {max_tokens} were asked for")
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        raise Malformed(f"the answer has {len(ids)} token ids, but {len(logprobs)} log-probabilities")
    prompt = choice.get("prompt_token_ids", answer.get("prompt_token_ids"))
    # Anything but stop and length (a filter, an abort) is not the model's answer, and is neither right nor wrong.
    ending: FinishReason = _REASONS.get(reason, "error")
    return Completion(ids, _text(choice, endpoint), ending, logprobs, _ids(prompt))


def top_logprobs(answer: Any, endpoint: Endpoint) -> list[float]:
    """The likeliest tokens' log-probabilities at the first position, in falling order; [] where there are none."""
    try:
        found = answer["choices"][0]["logprobs"]
        if endpoint == "chat":
            values = [row["logprob"] for row in found["content"][0]["top_logprobs"]]
        else:
            values = list(found["top_logprobs"][0].values())
        return sorted((float(value) for value in values), reverse=True)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return []


def scoring_body(model: str, token_ids: Sequence[int], k: int) -> dict[str, Any]:
    """Write the request for the k likeliest tokens at every position of a text; vLLM's extension `prompt_logprobs`."""
    return {"model": model, "prompt": list(token_ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": k}


def read_prompt_logprobs(answer: Any, length: int, start: int, k: int) -> np.ndarray:
    """Read the largest log-probabilities at the positions from `start` of a text of `length` tokens.

    A server tells the k likeliest tokens and the one that stands there, if that is another: it is left out, or the
    others' bound on the tail would be wrong.

    Returns:
        [length − start, k], falling; −inf where fewer are told.

    Raises:
        Malformed: The answer does not hold them.
    """
    try:
        choices = answer["choices"]
        rows = choices[0].get("prompt_logprobs", answer.get("prompt_logprobs"))
        found = [sorted((float(item["logprob"]) for item in row.values()), reverse=True)[:k] for row in rows[start:]]
        whole = len(choices) == 1 and len(rows) == length
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise Malformed("the answer has no log-probabilities of the prompt (prompt_logprobs)") from None
    if not whole or not all(row and all(_is_logprob(value) for value in row) for row in found):
        raise Malformed("the answer's log-probabilities of the prompt do not fit the prompt")
    table = np.full((len(found), k), -np.inf)
    for values, row in zip(table, found, strict=True):
        values[: len(row)] = [min(0.0, value) if value > _NEVER else -np.inf for value in row]
    return table


def _text(choice: Mapping[str, Any], endpoint: Endpoint) -> str:
    text = choice.get("text")
    if endpoint == "chat":
        message = choice.get("message")
        if not isinstance(message, dict):
            raise Malformed("the answer has no message")
        text = message.get("content")
        text = "" if text is None else text  # a model that only thought, or said nothing
    if not isinstance(text, str):
        raise Malformed("the answer has no text")
    return text.encode("utf-8", "replace").decode()  # JSON may hold half a surrogate pair, a table may not


def _logprobs(found: Any, endpoint: Endpoint) -> tuple[list[str] | None, list[float] | None]:
    """Tokens as the server names them, and their log-probabilities; None where it gave none."""
    if not isinstance(found, dict):
        return None, None
    if endpoint == "chat":
        rows = found.get("content")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return None, None
        tokens, values = [row.get("token") for row in rows], [row.get("logprob") for row in rows]
    else:
        tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
    if len(tokens) != len(values) or not all(isinstance(token, str) for token in tokens):
        raise Malformed("tokens and log-probabilities of the answer do not fit together")
    if not all(_is_logprob(value) for value in values):
        raise Malformed("the answer has log-probabilities that are none")
    return tokens, [min(0.0, float(value)) for value in values]


def _is_logprob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value <= 1e-3


def _ids(found: Any) -> list[int] | None:
    if found is None:
        return None
    if not isinstance(found, list) or not all(type(i) is int and 0 <= i < 2**31 for i in found):
        raise Malformed("the answer's token ids are none")
    return found


def _ids_in(tokens: Sequence[str]) -> list[int] | None:
    """Ids from names such as token_id:374; None where the server writes the tokens' texts."""
    heads = [token.partition(":") for token in tokens]
    named = all(head == "token_id" and number.isdecimal() for head, _, number in heads)
    return [int(number) for _, _, number in heads] if named and tokens else None
