"""Many JSON requests over HTTP, each answered exactly once or not at all. Servers may misbehave; nothing is lost.

A request is tried again when its server is busy (408, 425, 429), broken (5xx), unreachable or too slow, or answers
with something that is no answer; after the first try on the next server. A refusal (other 4xx) is an error at once.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from odeval.engines.base import EngineOptions
from odeval.errors import CannotJudge, OdevalError
from odeval.visible import visible

Answer = TypeVar("Answer")

_BUSY = {408, 425, 429}
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever a server asks for
_SHOWN = 300  # characters of a server's message


class Malformed(ValueError):
    """A server's answer is none: worth another try."""


class Refused(OdevalError):
    """A server will not answer this request, now or later."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Poster:
    """Sends requests to servers that are replicas of each other.

    Args:
        options: base_urls, concurrency, timeout, retries, key_variable.
        backoff: Seconds before the first repetition; doubles with each.

    Raises:
        OdevalError: No usable URL, the key's variable is not set, or httpx2 is not installed.
    """

    def __init__(self, options: EngineOptions, backoff: float = 0.5) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise OdevalError("the engine 'server' needs httpx2: pip install 'odeval[server]'") from error
        self._http = httpx2
        self.base_urls = tuple(_checked(url) for url in options.base_urls)
        if not self.base_urls:
            raise OdevalError("the engine 'server' needs --base-url, such as http://localhost:8000/v1")
        if options.concurrency < 1 or options.retries < 0 or not options.timeout > 0:
            raise OdevalError(
                f"concurrency {options.concurrency}, retries {options.retries}, timeout {options.timeout:g}: "
                "expected at least 1 request at once, 0 or more retries, and more than 0 seconds"
            )
        self.concurrency, self.timeout, self.tries = options.concurrency, options.timeout, options.retries + 1
        self._backoff = backoff
        self._key = _key(options.key_variable)

    def post_all(
        self, path: str, bodies: Sequence[dict[str, Any]], near: Sequence[int], read: Callable[[Any, int], Answer]
    ) -> list[Answer]:
        """Send every body, and return what `read` makes of the answers, in the same order.

        Args:
            path: Below the base URL.
            bodies: One a request.
            near: Requests with the same number go to the same server first, whose prefix cache knows their prompt.
            read: Reads the JSON that answers the body of a number; raises Malformed if it is no answer to that.

        Raises:
            Refused: A server refuses a request.
            CannotJudge: A request has no usable answer after all its tries.
        """
        if not bodies:
            return []
        return asyncio.run(self._post_all(path, bodies, near, read))

    async def _post_all(
        self, path: str, bodies: Sequence[dict[str, Any]], near: Sequence[int], read: Callable[[Any, int], Answer]
    ) -> list[Answer]:
        answers: dict[int, Answer] = {}
        waiting = iter(range(len(bodies)))
        workers = min(self.concurrency, len(bodies))
        # A connection serves one request. On one that is kept, an answer that comes twice, or too late, would be taken
        # for the next request's, and every later one for its successor's.
        limits = self._http.Limits(max_connections=workers, max_keepalive_connections=0)
        headers = {"Connection": "close", **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        # Redirects are not followed: they would carry the key to a place that the user did not name.
        async with self._http.AsyncClient(timeout=None, limits=limits, headers=headers) as client:

            async def work(indices: Iterator[int]) -> None:
                for i in indices:  # shared by all workers
                    answers[i] = await self._post(client, path, bodies[i], near[i], read, i)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(workers):
                        group.create_task(work(waiting))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return [answers[i] for i in range(len(bodies))]

    async def _post(
        self, client: Any, path: str, body: dict[str, Any], near: int, read: Callable[[Any, int], Answer], number: int
    ) -> Answer:
        problem = ""
        for attempt in range(self.tries):
            url = self.base_urls[(near + attempt) % len(self.base_urls)]
            asked_to_wait = 0.0
            try:
                async with asyncio.timeout(self.timeout):  # of the whole exchange: a slow drip never ends a read
                    response = await client.post(f"{url}{path}", json=body)
            except TimeoutError:
                problem = f"no answer within {self.timeout:g} s"
            except self._http.TransportError as error:
                problem = f"{type(error).__name__} {error}".strip()
            else:
                status = response.status_code
                if status == 200:
                    try:
                        return read(_json(response), number)
                    except Malformed as error:
                        problem = str(error)
                elif status in _BUSY or status >= 500:
                    problem = f"HTTP {status} {self._message(response)}".strip()
                    asked_to_wait = _retry_after(response.headers.get("retry-after", ""))
                else:
                    raise Refused(status, f"{url}{path}: HTTP {status} {self._message(response)}".strip())
            if attempt + 1 < self.tries:
                wait = self._backoff * 2**attempt * random.uniform(0.5, 1.0)  # not in step with the other requests
                await asyncio.sleep(min(_LONGEST_WAIT, max(wait, asked_to_wait)))
        raise CannotJudge(
            f"{url}{path}: no usable answer in {self.tries} tries, the last: {self._shown(problem)}; what was sampled "
            "before is kept, and the same command goes on from there"
        )

    def _message(self, response: Any) -> str:
        """A server's own words, on one line, without the key that some repeat."""
        try:
            found = response.json()
            error = found.get("error", found.get("message", found.get("detail", found)))
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        except (ValueError, AttributeError):
            text = response.text
        return self._shown(text)

    def _shown(self, text: str) -> str:
        cleaned = " ".join(text.replace(self._key, "[key]").split() if self._key else text.split())
        return visible(cleaned[:_SHOWN])


def _checked(url: str) -> str:
    """A base URL without its last slash. What may hold a secret is neither accepted nor repeated."""
    try:
        parts = urlsplit(url)
        odd = "@" in parts.netloc or bool(parts.query or parts.fragment)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not odd:
            return url.rstrip("/")
    except ValueError:
        odd = False
    if odd:
        raise OdevalError(
            "--base-url: holds a user name, a password or a query; give the address alone, and a key in an environment "
            "variable named by --key-variable"
        )
    raise OdevalError(f"--base-url {visible(url)}: expected http://HOST:PORT/v1 or https://HOST/v1")


def _key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise OdevalError(f"--key-variable {variable}: no such environment variable, or it is empty")
    if not (key.isascii() and key.isprintable()):
        raise OdevalError(f"--key-variable {variable}: holds characters that no HTTP header may hold")
    return key


def _json(response: Any) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        raise Malformed(f"the answer is no JSON ({len(response.content)} bytes)") from None


def _retry_after(value: str) -> float:
    """Seconds that a server asks to wait: a number, or a date; 0 where it does not say."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
