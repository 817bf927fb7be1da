"""odeval: did this distilled model buy pass@1 by giving up the rest of the curve?

The public names below are loaded when first used; importing the package loads neither torch nor matplotlib.

Example:
    >>> import odeval
    >>> odeval.pass_at_k([10], [3], [5]).round(4).tolist()
    [[0.9167]]

PYTEST_DONT_REWRITE (for its plugin's sake pytest would, and warn where odeval is imported before it).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odeval.compare import CompareSettings as CompareSettings
    from odeval.compare import compare as compare
    from odeval.config import GateConfig as GateConfig
    from odeval.config import RuleConfig as RuleConfig
    from odeval.errors import CannotJudge as CannotJudge
    from odeval.errors import OdevalError as OdevalError
    from odeval.gate import judge as judge
    from odeval.metrics import METRICS as METRICS
    from odeval.metrics.passk import pass_at_k as pass_at_k
    from odeval.report import write_report as write_report
    from odeval.store import RunFolder as RunFolder
    from odeval.tasks import load_task as load_task
    from odeval.types import PerPrompt as PerPrompt
    from odeval.types import Prompt as Prompt
    from odeval.types import SamplingParams as SamplingParams

__version__ = "0.1.0"

_HOME = {
    "CannotJudge": "errors",
    "CompareSettings": "compare",
    "GateConfig": "config",
    "METRICS": "metrics",
    "OdevalError": "errors",
    "PerPrompt": "types",
    "Prompt": "types",
    "RuleConfig": "config",
    "RunFolder": "store",
    "SamplingParams": "types",
    "compare": "compare",
    "judge": "gate",
    "load_task": "tasks",
    "pass_at_k": "metrics.passk",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'odeval' has no attribute {name!r}")
    return getattr(import_module(f"odeval.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
