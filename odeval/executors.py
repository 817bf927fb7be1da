"""Where blocks of work are done: here, one after another, or by Ray's workers on many machines. Same files either way.

A block is a part of a run. Whoever does it writes it whole or not at all, so a worker may die at any moment: another
takes its place and does the block again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import platform
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TextIO, TypeVar

from odeval.errors import CannotJudge, OdevalError
from odeval.visible import visible

Context = TypeVar("Context")  # what a worker needs for every block, such as an engine
Block = TypeVar("Block")
Result = TypeVar("Result")

_TRIES = 3  # workers that one block, or the loading of a model, may cost
_PATIENCE = 60.0  # seconds before it is said that Ray has no room
_CONNECT = 10.0  # seconds for a cluster to answer
_LOADING = "loading the model"
_log = logging.getLogger("odeval")


class Crew(ABC, Generic[Context]):
    """Workers that hold the same context, one or many."""

    @abstractmethod
    def each(self, do: Callable[[Context, Block], Result], blocks: Mapping[str, Block]) -> Iterator[tuple[str, Result]]:
        """Do every block once; yield its name and what came of it, in the order in which they end.

        Args:
            do: Done twice, a block leaves what it leaves done once.
            blocks: By a name that an error may show.

        Raises:
            OdevalError: What `do` raises; or a block has cost too many workers.
        """

    def ask(self, question: Callable[[Context], Result]) -> Result:
        """Put a question to one of the workers."""
        ((_, answer),) = self.each(_put, {"a question about the model": question})
        return answer


class Alone(Crew[Context]):
    """This process.

    Example:
        >>> Alone(10).ask(lambda context: context + 1)
        11
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    def each(self, do: Callable[[Context, Block], Result], blocks: Mapping[str, Block]) -> Iterator[tuple[str, Result]]:
        """Do the blocks in their order."""
        for name, block in blocks.items():
            yield name, do(self.context, block)


@dataclass(frozen=True, slots=True)
class Executor:
    """Where a stage runs.

    Attributes:
        executor: local, or ray to spread the parts of a run over Ray's workers; the files are the same.
        workers: For ray: how many; by default one a GPU, or without GPUs one for every OMP_NUM_THREADS cores.
        ray_address: For ray: of a running cluster, else RAY_ADDRESS, else Ray is started on this machine.
    """

    executor: Literal["local", "ray"] = "local"
    workers: int | None = None
    ray_address: str = ""

    @contextlib.contextmanager
    def crew(self, open_context: Callable[[], Context], device: str = "cpu") -> Iterator[Crew[Context]]:
        """Open a crew; its workers end with the block.

        Args:
            open_context: Called once by every worker. It travels to other machines, where paths must lead to the same.
            device: Where the context is to live; but for cpu, each worker of ray has a GPU where there are some.

        Raises:
            OdevalError: Ray is not installed or cannot be reached, or has no room for so many workers.
        """
        if self.workers is not None and self.workers < 1:
            raise OdevalError(f"--workers {self.workers}: at least 1 is needed")
        if self.executor == "local":
            yield Alone(open_context())
            return
        with contextlib.redirect_stdout(_WithoutRay(sys.stdout)):
            crew = _RayCrew(open_context, self, device)
            try:
                yield crew
            finally:
                crew.end()


class _WithoutRay(io.TextIOBase):
    """Standard output, where Ray's threads would tell of every dead worker at length."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        return len(text) if threading.current_thread().name.startswith("ray_") else self._out.write(text)

    def flush(self) -> None:
        self._out.flush()


class _Worker:
    """Ray makes an actor of it."""

    def __init__(self, threads: int) -> None:
        os.environ.update({"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"})  # before torch is loaded

    def open(self, open_context: Callable[[], Any], folder: str) -> Any:
        return _outcome(partial(self._open, open_context, folder))

    def _open(self, open_context: Callable[[], Any], folder: str) -> None:
        if not Path(folder).is_dir():
            raise OdevalError(
                f"{folder}: no such folder on {platform.node()}; Ray's machines must share the file system of the runs"
            )
        os.chdir(folder)  # relative paths mean what they mean to the user
        self.context = open_context()

    def do(self, do: Callable[[Any, Any], Any], block: Any) -> Any:
        return _outcome(partial(do, self.context, block))


def _outcome(work: Callable[[], Any]) -> tuple[Any, str, int]:
    """A result, or the text and exit code of what the user can mend."""
    try:
        return work(), "", 0
    except OdevalError as error:
        return None, str(error), error.exit_code


def _put(context: Context, question: Callable[[Context], Result]) -> Result:
    return question(context)


class _Lost(Exception):
    """A worker died."""


class _RayCrew(Crew[Context]):
    """Ray's workers, started as there is work for them and replaced when they die."""

    def __init__(self, open_context: Callable[[], Context], options: Executor, device: str) -> None:
        self._open_context, self._options, self._device = open_context, options, device
        self._ray: Any = None
        self._most = 0
        self._idle: list[Any] = []
        self._opening: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, str]] = {}

    def each(self, do: Callable[[Context, Block], Result], blocks: Mapping[str, Block]) -> Iterator[tuple[str, Result]]:
        """Give every idle worker a block, and a lost worker's block to another."""
        self._start()
        job, waiting, lost = self._ray.put(do), deque(blocks), Counter[str]()
        while waiting or self._busy:
            while self._size() < min(self._most, len(waiting) + len(self._busy)):
                self._hire()
            while self._idle and waiting:
                worker, name = self._idle.pop(), waiting.popleft()
                self._busy[worker.do.remote(job, blocks[name])] = worker, name
            ended = self._next()
            loaded = ended in self._opening
            worker, name = (self._opening.pop(ended), _LOADING) if loaded else self._busy.pop(ended)
            try:
                result = self._answer(ended)
            except _Lost as error:
                self._ray.kill(worker)  # it may only be out of reach
                lost[name] += 1
                _give_up(name, lost[name], str(error))
                if not loaded:
                    waiting.appendleft(name)
                continue
            self._idle.append(worker)
            lost[name] = 0
            if not loaded:
                yield name, result

    def _answer(self, ended: Any) -> Any:
        """What a worker returned; its errors are raised here."""
        try:
            result, problem, code = self._ray.get(ended)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ImportError):
                raise OdevalError(f"a Ray worker says: {error.cause}; install there what is installed here") from None
            raise
        except self._ray.exceptions.RayError as error:
            raise _Lost(str(error)) from error
        if problem:
            raise (CannotJudge if code == CannotJudge.exit_code else OdevalError)(problem)
        return result

    def end(self) -> None:
        """Let the workers go, and with them their memory."""
        for worker in (*self._idle, *self._opening.values(), *(worker for worker, _ in self._busy.values())):
            self._ray.kill(worker)

    def _size(self) -> int:
        return len(self._idle) + len(self._opening) + len(self._busy)

    def _hire(self) -> None:
        worker = self._kind.remote(_threads())
        self._opening[worker.open.remote(self._open_context, str(Path.cwd()))] = worker

    def _next(self) -> Any:
        """The next call that ends."""
        while True:
            pending = [*self._busy, *self._opening]
            ended, _ = self._ray.wait(pending, num_returns=1, timeout=_PATIENCE)
            if ended:
                return ended[0]
            if not (self._busy or self._idle):
                _log.warning("odeval: still waiting for Ray to start %d workers", len(pending))

    def _start(self) -> None:
        if self._ray is not None:
            return
        self._ray = _connected(self._options)
        found = self._ray.cluster_resources()
        gpus, threads = int(found.get("GPU", 0)), _threads()
        on_gpu = self._device != "cpu" and gpus > 0
        room = gpus if on_gpu else int(found.get("CPU", 1)) // threads
        self._most = self._options.workers or max(1, room)
        if self._most > max(1, room):
            each = "a GPU" if on_gpu else f"{threads} of its {found.get('CPU', 1):g} cores"
            raise OdevalError(f"--workers {self._most}: Ray has room for {room}, each with {each}; ask for fewer")
        needs = {"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": threads}
        self._kind = self._ray.remote(**needs)(_Worker)


def _give_up(name: str, lost: int, error: str) -> None:
    """Say that a worker was lost; raise when it was one too many."""
    if lost < _TRIES:
        _log.warning("odeval: a Ray worker died at %s; another does it again", name)
        return
    reason = visible(" ".join(error.split())).split(" Some common causes")[0]
    raise OdevalError(
        f"{name}: {lost} Ray workers died at it, which is often too little memory ({reason[-200:]}); "
        "try fewer --workers; what was done before is kept"
    )


def _threads() -> int:
    """Of each worker."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, int(given)) if given.isdecimal() else 1


def _connected(options: Executor) -> Any:
    """Ray, attached to a cluster or started here; it ends with this process."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise OdevalError("--executor ray needs Ray: pip install 'odeval[ray]'") from error
    if ray.is_initialized():
        return ray
    address = options.ray_address or os.environ.get("RAY_ADDRESS", "") or "local"
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    if options.workers and address == "local":
        own["num_cpus"] = max(os.cpu_count() or 1, options.workers * _threads())
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdecimal():  # else Ray itself tries for many minutes
            socket.create_connection((host.removeprefix("ray://"), int(port)), _CONNECT).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except (RuntimeError, OSError, ValueError, OverflowError) as error:
        reason = visible((str(error).strip().splitlines() or [type(error).__name__])[0])
        raise OdevalError(
            f"Ray at {visible(address)}: cannot be reached ({reason}); start it by `ray start --head`, or leave out "
            "--ray-address and RAY_ADDRESS"
        ) from error
    return ray
