"""What a training log shows of a run: a few numbers of a comparison under flat names."""

from __future__ import annotations

from typing import Any

from odeval.compare import CompareSettings, compare
from odeval.store import RunFolder


def training_numbers(run: RunFolder, teacher: RunFolder, threshold: float = 0.8) -> dict[str, float]:
    """Compare a run with the teacher's, for a log.

    Args:
        run: Sampled and graded; scored where retention is wanted.
        teacher: The teacher's, of the same prompts.
        threshold: τ of a branch point, nats.

    Returns:
        pass@k and coverage_gap@k (teacher minus student) at powers of two, distinct_correct, truncated_fraction, and
        retention where the run is scored. What is not known is left out.

    Raises:
        OdevalError: The runs were asked different things.
    """
    told = compare([run], teacher=teacher, settings=CompareSettings(threshold=threshold, examples=0))
    roles = {item["role"]: item for item in told["runs"]}
    found: dict[str, float | None] = {}
    own, other = (roles[role]["pass_at_k"] for role in ("candidate", "teacher"))
    for k, value, reference in zip(own["k"], own["value"], other["value"], strict=True):
        found[f"pass@{k}"] = value
        found[f"coverage_gap@{k}"] = None if value is None or reference is None else reference - value
    metrics: dict[str, Any] = roles["candidate"]["metrics"]
    for name, key in (("distinct_correct",) * 2, ("truncated_fraction",) * 2, ("retention", "retention@teacher")):
        if key in metrics:
            found[name] = metrics[key]["value"]
    return {name: value for name, value in found.items() if value is not None}
