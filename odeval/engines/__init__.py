"""Who answers. ENGINES is the index; an engine's libraries are loaded when it is opened."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from odeval.engines.base import Engine, EngineOptions
from odeval.errors import OdevalError, unknown
from odeval.executors import Crew, Executor


def _hf(options: EngineOptions) -> Engine:
    from odeval.engines.hf import HfEngine

    return HfEngine(options.model, options.device)


def _server(options: EngineOptions) -> Engine:
    from odeval.engines.server import ServerEngine

    return ServerEngine(options)


def _vllm(options: EngineOptions) -> Engine:
    from odeval.engines.vllm import VllmEngine

    return VllmEngine(options.model, options.device)


ENGINES: dict[str, Callable[[EngineOptions], Engine]] = {
    "hf": _hf,  # the embedded default: any Hugging Face causal LM, in this process
    "vllm": _vllm,  # the same folders through vLLM
    "server": _server,  # any OpenAI-compatible server, or several
}


def open_engine(name: str, options: EngineOptions) -> Engine:
    """Open an engine by name.

    Raises:
        OdevalError: There is no such engine, or it cannot be opened with these options.
    """
    if name not in ENGINES:
        raise OdevalError(unknown("engine", name, ENGINES))
    return ENGINES[name](options)


def engine_crew(name: str, options: EngineOptions, on: Executor) -> AbstractContextManager[Crew[Engine]]:
    """Open an engine in every worker of an executor.

    Raises:
        OdevalError: As `open_engine`; or a server's many requests are to be sent from many machines.
    """
    check_executor(name, on)
    return on.crew(partial(open_engine, name, options), options.device)


def check_executor(name: str, on: Executor) -> None:
    """Refuse to send a server's many requests from many machines.

    Raises:
        OdevalError: The engine is a server's, and the executor is not local.
    """
    if name == "server" and on.executor != "local":
        raise OdevalError(
            f"--executor {on.executor}: the engine 'server' only waits for its servers; name them all by --base-url"
        )
