"""One process or several: what a rank is, and the sums over ranks that make the trajectory independent of their number.

accelerate starts the processes (`accelerate launch`, `torchrun`) and carries the sums. Models are not wrapped: every
rank holds the whole student, and one sum over gradients per update keeps them equal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all of the run.

    Attributes:
        rank: From 0; rank 0 alone writes files.
        size: Number of processes.
        device: Of this rank where there are several, else "".
    """

    rank: int = 0
    size: int = 1
    device: str = ""

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks; the value itself where there is one."""
        if self.size == 1:
            return value
        from accelerate.utils import reduce

        total: torch.Tensor = reduce(value, reduction="sum")
        return total

    def max(self, value: float) -> float:
        """Return the largest over ranks."""
        return value if self.size == 1 else max(self.gather([value]))

    def gather(self, values: list[Any]) -> list[Any]:
        """Return the lists of all ranks as one, in order."""
        if self.size == 1:
            return values
        from accelerate.utils import gather_object

        found: list[Any] = gather_object(values)
        return found

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace gradients by their sums over ranks, in one message."""
        if self.size == 1:
            return
        own = [parameter for parameter in parameters if parameter.grad is not None]
        flat = self.sum(torch.cat([parameter.grad.reshape(-1) for parameter in own if parameter.grad is not None]))
        for parameter, total in zip(own, torch.split(flat, [parameter.numel() for parameter in own]), strict=True):
            parameter.grad = total.view_as(parameter)

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def this_rank(device: str) -> Ranks:
    """Join the other processes of a launch; a lone process stays alone and needs no accelerate.

    Args:
        device: As configured; "cpu" joins over gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    return Ranks(state.process_index, state.num_processes, str(state.device))
