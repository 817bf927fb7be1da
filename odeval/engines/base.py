"""What every engine does, and what one is opened with. No torch, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from odeval.types import Completion, ModelRef, Prompt, SamplingParams

LARGEST_VOCABULARY = 2**20  # tokens; that of XLM-V, 901,629, is the largest that was published
Asked = Any  # what `encode` made of a prompt: token ids, or for a server a text or its messages


class Engine(Protocol):
    """Anything that turns prompts into completions. `odeval doctor` checks that it does so honestly."""

    @property
    def max_length(self) -> int | None:
        """Tokens of prompt and completion together that fit; None for no limit, or none that is known."""

    @property
    def parallel(self) -> int:
        """Completions it can work on at once across prompts; a part of a run holds several times as many."""

    def ref(self) -> ModelRef:
        """Name the weights that answer."""

    def describe(self) -> dict[str, Any]:
        """Say for run.json which engine this is and how it was asked. Never a key, a user name or a password."""

    def limits(self) -> str:
        """Say in one line what its completions will not tell; empty if they tell everything."""

    def encode(self, prompt: Prompt) -> Asked:
        """Return what `sample` is to be given for a prompt.

        Raises:
            OdevalError: The engine cannot be asked this.
        """

    def sample(
        self, prompts: Sequence[Asked], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> list[list[Completion]]:
        """Return one completion for each seed of each prompt; equal seeds give equal tokens, whatever the company."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is opened; each reads what concerns it.

    Attributes:
        model: A folder in Hugging Face format; for `server` the name the server knows it by.
        device: cpu, cuda or auto.
        base_urls: Of OpenAI-compatible servers with the same model, each up to and with /v1.
        endpoint: Of those servers.
        concurrency: Requests in flight, all servers together.
        timeout: Seconds for one request from start to end.
        retries: How often a request is tried again.
        key_variable: Environment variable that holds the servers' key; empty for none.
        vocab_size: Of a server's model, if it is known. Bounds on entropies hold for this or any smaller one.
    """

    model: str
    device: str = "auto"
    base_urls: tuple[str, ...] = ()
    endpoint: Literal["completions", "chat"] = "completions"
    concurrency: int = 32
    timeout: float = 600.0
    retries: int = 6
    key_variable: str = ""
    vocab_size: int = LARGEST_VOCABULARY
