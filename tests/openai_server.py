"""A real OpenAI-compatible server for tests: HTTP, JSON and a model that answers through the embedded engine."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from odeval.engines.hf import HfEngine
from odeval.types import Completion, Prompt, SamplingParams


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server in a thread; yields its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class JsonHandler(BaseHTTPRequestHandler):
    """Keeps connections open, is silent, and speaks JSON."""

    protocol_version = "HTTP/1.1"
    wbufsize = 2**16  # header and body in one packet, or each answer waits 40 ms for an acknowledgement

    def log_message(self, *_: Any) -> None:
        pass

    def asked(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return found

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def handler_for(engine: HfEngine, model: str = "m", known: frozenset[str] | None = None) -> type[JsonHandler]:
    """Serve an engine.

    Args:
        engine: Who answers, one request at a time.
        model: Its name.
        known: Fields of a request that are not refused; None for all.
    """
    lock = threading.Lock()
    likeliest = functools.cache(lambda prompt: max(_first_token(engine, list(prompt))))
    numbers = iter(range(2**31))

    class Handler(JsonHandler):
        def do_POST(self) -> None:
            asked = self.asked()
            if asked["model"] != model:
                return self.reply(404, {"error": {"message": f"The model {asked['model']} does not exist."}})
            odd = [] if known is None else sorted(asked.keys() - known)
            if odd:
                return self.reply(400, {"error": {"message": f"Unrecognized request argument supplied: {odd[0]}"}})
            chat = self.path.endswith("/chat/completions")
            if asked.get("prompt_logprobs") is not None:
                told = _prompt_logprobs(engine, asked["prompt"], asked["prompt_logprobs"])
                return self.reply(200, {"id": f"cmpl-{next(numbers)}", "choices": [{"prompt_logprobs": told}]})
            prompt = _prompt_ids(engine, asked, chat)
            with lock:
                [[drawn]] = engine.sample([prompt], [[asked["seed"]]], _params(asked))
                number = next(numbers)
            return self.reply(
                200, {"id": f"cmpl-{number}", "choices": [_choice(engine, asked, chat, prompt, drawn, likeliest)]}
            )

    return Handler


def _prompt_ids(engine: HfEngine, asked: dict[str, Any], chat: bool) -> list[int]:
    if chat:
        return engine.encode(Prompt(text=" ".join(turn["content"] for turn in asked["messages"])))
    return asked["prompt"] if isinstance(asked["prompt"], list) else engine.encode(Prompt(text=asked["prompt"]))


def _params(asked: dict[str, Any]) -> SamplingParams:
    limit = asked["max_completion_tokens"] if "max_completion_tokens" in asked else asked["max_tokens"]
    return SamplingParams(1, asked["temperature"], asked["top_p"], max(0, asked.get("top_k", 0)), limit)


def _choice(
    engine: HfEngine, asked: dict[str, Any], chat: bool, prompt: list[int], drawn: Completion, likeliest: Any
) -> dict[str, Any]:
    ids = [int(i) for i in drawn.token_ids]
    named = asked.get("return_tokens_as_token_ids")
    tokens = [
        f"token_id:{i}" if named else text for i, text in zip(ids, engine.model.decode([[i] for i in ids]), strict=True)
    ]
    choice: dict[str, Any] = {"index": 0, "finish_reason": drawn.finish_reason}
    choice.update({"message": {"role": "assistant", "content": drawn.text}} if chat else {"text": drawn.text})
    if asked.get("return_token_ids"):
        choice.update({"token_ids": ids, "prompt_token_ids": prompt})
    if asked.get("logprobs") is not None:
        assert drawn.logprobs is not None
        values = [float(x) for x in drawn.logprobs]
        best = likeliest(tuple(prompt))
        if chat:
            rows = [{"token": t, "logprob": x, "top_logprobs": []} for t, x in zip(tokens, values, strict=True)]
            rows[0]["top_logprobs"] = [{"token": "the likeliest", "logprob": best}]
            choice["logprobs"] = {"content": rows}
        else:
            tops = [{"the likeliest": best}, *({} for _ in ids[1:])]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}
    return choice


def _prompt_logprobs(engine: HfEngine, ids: list[int], k: int) -> list[dict[str, Any] | None]:
    """As vLLM writes them: the k likeliest tokens of each position, the one that stands there, and no infinity."""
    import torch

    with torch.no_grad():
        rows = torch.log_softmax(engine.model.model(torch.tensor([ids])).logits[0, :-1].double(), -1)
    found: list[dict[str, Any] | None] = [None]
    for row, token in zip(rows, ids[1:], strict=True):
        order = row.argsort(descending=True).tolist()
        told = dict.fromkeys([token, *order[:k]])
        found.append({str(i): {"logprob": max(float(row[i]), -9999.0), "rank": order.index(i) + 1} for i in told})
    return found


def _first_token(engine: HfEngine, prompt: list[int]) -> list[float]:
    import torch

    with torch.no_grad():
        return torch.log_softmax(engine.model.model(torch.tensor([prompt])).logits[0, -1], -1).tolist()
