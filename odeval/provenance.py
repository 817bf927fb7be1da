"""What made an artifact: versions, commit, command, time."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_RECORDED = ("odeval", "numpy", "scipy", "pandas", "pyarrow", "torch", "transformers", "vllm")


@cache
def versions() -> dict[str, str]:
    """Versions of what can change a number, for provenance."""
    found = {"python": platform.python_version()}
    for name in _RECORDED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def git_state() -> str:
    """Commit of the checkout this package is imported from, "+dirty" if changed, "" when installed."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder)]
    tracked = [*git, "ls-files", "--error-unmatch", Path(__file__).name]  # or it is installed inside another checkout
    described = [*git, "describe", "--always", "--abbrev=12", "--dirty=+dirty"]
    try:
        if subprocess.run(tracked, capture_output=True, timeout=10, check=False).returncode != 0:
            return ""
        done = subprocess.run(described, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _program() -> str:
    """How this process was called, without the folders of this machine."""
    called = Path(sys.argv[0])
    return f"python {called.resolve().parent.name}/{called.name}" if called.suffix == ".py" else called.name


def provenance(**extra: Any) -> dict[str, Any]:
    """What made an artifact: command, versions, commit, time, and whatever the stage adds."""
    return {
        "command": " ".join([_program(), *sys.argv[1:]]),
        "versions": versions(),
        "git": git_state(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **extra,
    }
