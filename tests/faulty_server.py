"""A server that commits one fault at the first try of every request, for the tests of the server engine."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

from openai_server import JsonHandler

from odeval.engines.base import EngineOptions
from odeval.engines.server import ServerEngine
from odeval.tasks.base import Task
from odeval.types import Grade, Prompt, SamplingParams

KEY = "sk-not-to-be-seen-4711"
PARAMS = SamplingParams(n=6, max_tokens=8)
TASK = Task("t", [Prompt(text=f"question {p}", id=f"p{p}") for p in range(15)], lambda p, c: Grade(True), 8, "exact")


def right_answer(asked: dict[str, Any]) -> dict[str, Any]:
    """The one true answer to a request, a function of its prompt and seed."""
    ids, values = [asked["seed"] % 97, 2][: asked["max_tokens"]], [-1.0, -0.5][: asked["max_tokens"]]
    choice = {
        "text": f"{asked['prompt']}#{asked['seed']}", "finish_reason": "stop", "token_ids": ids,
        "prompt_token_ids": [len(asked["prompt"])],
        "logprobs": {"tokens": ["a"] * len(values), "token_logprobs": values, "top_logprobs": [{"a": -1.0}]},
    }  # fmt: skip
    return {"id": f"{asked['prompt']}{asked['seed']}{time.monotonic_ns()}", "choices": [choice]}


class Server(JsonHandler):
    """Commits one fault at the first try of every request, and answers rightly after it."""

    faults: tuple[str, ...] = ("ok",)
    seen: dict[tuple[str, int], int]
    lock: threading.Lock
    in_flight: list[int]
    keys: set[str | None]
    last: dict[str, Any] | None
    always = False

    @classmethod
    def fresh(cls, *faults: str, always: bool = False) -> type[Server]:
        new = {"seen": {}, "lock": threading.Lock(), "in_flight": [0, 0], "keys": set(), "last": None}
        return type("Fresh", (cls,), {"faults": faults or ("ok",), "always": always, **new})

    def do_POST(self) -> None:
        asked = self.asked()
        own = type(self)
        with own.lock:
            key = (asked["prompt"], asked["seed"])
            tries = own.seen[key] = own.seen.get(key, 0) + 1
            own.keys.add(self.headers["Authorization"])
            own.in_flight[0] += 1
            own.in_flight[1] = max(own.in_flight)
            number = len(own.seen)
        probing = asked["prompt"] == "The"
        fault = "ok" if probing or (tries > 1 and not own.always) else own.faults[number % len(own.faults)]
        try:
            getattr(self, fault)(asked)
        except OSError:
            self.close_connection = True  # the client has given up
        finally:
            with own.lock:
                own.in_flight[0] -= 1

    def ok(self, asked: dict[str, Any]) -> None:
        answer = right_answer(asked)
        type(self).last = answer
        self.reply(200, answer)

    def busy(self, asked: dict[str, Any]) -> None:
        self.reply(429, {"error": {"message": f"slow down, {KEY}"}}, {"Retry-After": "0.02"})

    def busy_until(self, asked: dict[str, Any]) -> None:
        self.reply(429, {}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})

    def broken(self, asked: dict[str, Any]) -> None:
        self.reply(500, b"<html>Internal \x1b[31mServer\xff Error")

    def overloaded(self, asked: dict[str, Any]) -> None:
        self.reply(503, {"detail": "overloaded"}, {"Retry-After": "soon"})

    def cut(self, asked: dict[str, Any]) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def cut_in_the_middle(self, asked: dict[str, Any]) -> None:
        data = json.dumps(right_answer(asked)).encode()
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data[: len(data) // 2])
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def no_http(self, asked: dict[str, Any]) -> None:
        self.close_connection = True
        self.wfile.write(b"\x00\x01garbage\r\n\r\n")

    def twice(self, asked: dict[str, Any]) -> None:
        """The answer comes, and comes again on the same connection, where the next answer should be."""
        data = json.dumps(right_answer(asked)).encode()
        whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        self.wfile.write(whole)
        self.wfile.flush()
        time.sleep(0.01)
        self.wfile.write(whole)

    def anothers(self, asked: dict[str, Any]) -> None:
        """A cache that forgets what it was asked."""
        self.reply(200, type(self).last or right_answer(asked))

    def drip(self, asked: dict[str, Any]) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(200):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.05)

    def no_json(self, asked: dict[str, Any]) -> None:
        self.reply(200, json.dumps(right_answer(asked)).encode()[:-1])

    def deep_json(self, asked: dict[str, Any]) -> None:
        self.reply(200, b"[" * 100_000)

    def list_json(self, asked: dict[str, Any]) -> None:
        self.reply(200, [right_answer(asked)])

    def no_choice(self, asked: dict[str, Any]) -> None:
        self.reply(200, {**right_answer(asked), "choices": []})

    def two_choices(self, asked: dict[str, Any]) -> None:
        answer = right_answer(asked)
        self.reply(200, {**answer, "choices": answer["choices"] * 2})

    def changed(self, asked: dict[str, Any], **own: Any) -> None:
        answer = right_answer(asked)
        answer["choices"][0].update(own)
        self.reply(200, answer)

    def no_reason(self, asked: dict[str, Any]) -> None:
        self.changed(asked, finish_reason=None)

    def no_text(self, asked: dict[str, Any]) -> None:
        self.changed(asked, text=None)

    def no_ids(self, asked: dict[str, Any]) -> None:
        self.changed(asked, token_ids=None)

    def odd_ids(self, asked: dict[str, Any]) -> None:
        self.changed(asked, token_ids=["a", -1])

    def too_many_ids(self, asked: dict[str, Any]) -> None:
        self.changed(asked, token_ids=list(range(9)))

    def uneven(self, asked: dict[str, Any]) -> None:
        self.changed(asked, token_ids=[1, 2, 3])

    def no_logprobs(self, asked: dict[str, Any]) -> None:
        self.changed(asked, logprobs=None)

    def odd_logprobs(self, asked: dict[str, Any]) -> None:
        self.changed(asked, logprobs={"tokens": ["a", "b"], "token_logprobs": [float("nan"), 1.0]})


FAULTS = tuple(
    name for name, value in vars(Server).items() if callable(value) and name not in ("do_POST", "changed", "ok")
)


def options(*urls: str, **own: Any) -> EngineOptions:
    return EngineOptions("m", base_urls=urls, **{"concurrency": 6, "retries": 4, "timeout": 10.0, **own})


def engine(*urls: str, **own: Any) -> ServerEngine:
    return ServerEngine(options(*urls, **own), backoff=0.01)
