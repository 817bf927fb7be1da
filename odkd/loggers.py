"""Where the numbers of a run go: log.jsonl always, TensorBoard and Weights & Biases where they are asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from odeval.atomic import write_text
from odeval.errors import OdevalError, unknown

_KNOWN = ("none", "tensorboard", "wandb")


class Loggers:
    """One row at a time to every destination.

    Args:
        out: Folder of log.jsonl and probes.jsonl.
        report_to: "none", or names of further destinations.
        start: Step the run (re)starts at; rows from it on are of a killed run and are dropped.
        config: Shown beside the curves.

    Raises:
        OdevalError: A destination is unknown or not installed, or the folder cannot be written.
    """

    def __init__(self, out: Path, report_to: tuple[str, ...] | str, start: int, config: dict[str, Any]) -> None:
        names = [name.strip() for name in (report_to.split(",") if isinstance(report_to, str) else report_to)]
        for name in names:
            if name not in _KNOWN:
                raise OdevalError(f"report_to: {unknown('destination', name, _KNOWN)}")
        self._board = _tensorboard(out) if "tensorboard" in names else None
        self._wandb = _wandb(out, config) if "wandb" in names else None
        self._paths = {name: out / f"{name}.jsonl" for name in ("log", "probes")}
        self._files = {name: _reopened(path, start) for name, path in self._paths.items()}

    def write(self, row: dict[str, Any], kind: str = "log") -> None:
        """Write one row.

        Args:
            row: With `step`.
            kind: "log" for updates, "probes" for probes.
        """
        self._files[kind].write(json.dumps(row) + "\n")
        self._files[kind].flush()
        if self._board is None and self._wandb is None:
            return
        flat = flatten(row, "train" if kind == "log" else "probe")
        if self._board is not None:
            for name, value in flat.items():
                self._board.add_scalar(name, value, row["step"])
        if self._wandb is not None:
            self._wandb.log(flat, step=row["step"])

    def close(self) -> None:
        """Close every destination; an empty probes.jsonl goes."""
        for name, file in self._files.items():
            file.close()
            if name == "probes" and not self._paths[name].stat().st_size:
                self._paths[name].unlink()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read log.jsonl or probes.jsonl; a last line that a killed run left half written is dropped."""
    found = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _reopened(path: Path, start: int) -> Any:
    kept = [row for row in rows_of(path) if row["step"] < start]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return path.open("a", encoding="utf-8")


def flatten(row: dict[str, Any], prefix: str) -> dict[str, float]:
    """Numbers of a row under names with slashes; whatever is no number is left out.

    Example:
        >>> flatten({"step": 3, "loss": 0.5, "source": "student", "pass@k": {"1": 0.25}, "gap": None}, "train")
        {'train/loss': 0.5, 'train/pass@k/1': 0.25}
    """
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            found[f"{prefix}/{name}"] = float(value)
    return found


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise OdevalError("report_to tensorboard: is not installed; pip install tensorboard, or leave it out") from None
    return SummaryWriter(str(out / "tensorboard"))


def _wandb(out: Path, config: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError:
        raise OdevalError("report_to wandb: is not installed; pip install wandb, or leave it out") from None
    return wandb.init(dir=str(out), config=config, name=out.name, resume="allow")
