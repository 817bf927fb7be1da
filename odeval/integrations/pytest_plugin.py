"""The pytest plugin's options. Loads nothing but the standard library, and does nothing unless it is asked.

`pytest --odeval-candidate new.jsonl --odeval-baseline old.jsonl` adds one test a rule. The same can stand in pytest's
configuration file as odeval_candidate and so on; paths there start at that file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

# Option → what --help says. Plain texts: pytest-xdist sends options to its workers, and can send no Path.
OPTIONS = {
    "candidate": "run folder, log or counts file to judge, or a folder of several, one a benchmark",
    "baseline": "what the candidate must not be worse than",
    "teacher": "the teacher's run, log or counts",
    "rules": "YAML file of rules; the default rules otherwise",
    "comparison": "comparison.json to judge, in place of candidate, baseline and teacher",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("odeval", "odeval: one test a rule of a pass@k gate")
    for name, text in OPTIONS.items():
        group.addoption(f"--odeval-{name}", metavar="FILE" if name == "rules" else "PATH", help=text)
        parser.addini(f"odeval_{name}", text)
    text = "a rule that is inconclusive fails, where it would be skipped"
    group.addoption("--odeval-strict", action="store_true", default=None, help=text)
    parser.addini("odeval_strict", text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    paths = {name: path for name in OPTIONS if (path := _path(config, name)) is not None}
    if not paths:
        return
    from odeval.integrations.pytest_items import Gate

    strict = bool(config.getoption("odeval_strict") or config.getini("odeval_strict"))
    config.pluginmanager.register(Gate(paths, strict), "odeval-gate")


def _path(config: pytest.Config, name: str) -> Path | None:
    """A path from the command line, else from the configuration file; each is relative to where it stands."""
    if given := config.getoption(f"odeval_{name}"):
        return Path(config.invocation_params.dir, str(given))
    if given := config.getini(f"odeval_{name}"):
        return Path(config.inipath.parent if config.inipath else config.rootpath, str(given))
    return None
