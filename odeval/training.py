"""How a compared model was trained, where odkd trained it: its log and its ledger, read from the folder of the model.

odkd leaves log.jsonl (a line an update), probes.jsonl and training.json beside the weights. Entropies and divergences
are in nats.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError

CURVES = {
    "forward_kl": ("forward KL", "nats"),
    "reverse_kl": ("reverse KL", "nats"),
    "student_entropy": ("student entropy", "nats"),
    "teacher_entropy": ("teacher entropy", "nats"),
    "retention": ("high-entropy tokens kept", "share"),
}
_POINTS = 60  # of a curve; more than a figure can show


def training_of(folder: Path, asked: bool = False) -> dict[str, Any] | None:
    """Read how a model was trained.

    Args:
        folder: Of the model, as odkd leaves it.
        asked: Somebody says that there is a log; else a folder without one, or a damaged one, is passed over.

    Returns:
        `run`: name of the folder; `objective`; `ledger`: updates, tokens sampled, tokens through the teacher, FLOPs
        (three digits); `curves`: name, unit, first and last value; `history`: the curves at evenly spaced updates, as
        logged; `probes`: pass@k at the smallest and the largest k, None where there were none. None without a log.

    Raises:
        OdevalError: It was asked for, and there is none that can be read.
    """
    try:
        log = _rows(folder / "log.jsonl")
        done = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        account = done["ledger"]
        ledger = {
            "updates": int(account["updates"]),
            "tokens_sampled": int(sum(n for who, n in account["tokens_sampled"].items() if who != "all")),
            "tokens_scored_by_teacher": int(account["tokens_scored_by_teacher"]),
            "flops": float(f"{sum(n for what, n in account['flops'].items() if what != 'all'):.3g}"),
        }
        history = {name: [_number(row.get(name)) for row in log] for name in CURVES}
        steps = [int(row["step"]) for row in log]
        objective = str(done["config"]["objective"])
        probes = _probes(_rows(folder / "probes.jsonl")) if (folder / "probes.jsonl").is_file() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if not asked:
            return None
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__})"
        raise OdevalError(
            f"training {folder}: {reason}; name the output_dir of a finished odkd run, which holds log.jsonl and "
            "training.json"
        ) from error
    if not steps:
        return None
    kept = _evenly(len(steps))
    curves = {
        name: {"label": label, "unit": unit, "first": _first(history[name]), "last": _first(history[name][::-1])}
        for name, (label, unit) in CURVES.items()
    }
    return {
        "run": folder.resolve().name,
        "objective": objective,
        "ledger": ledger,
        "curves": curves,
        "history": {"step": [steps[i] for i in kept], **{k: [v[i] for i in kept] for k, v in history.items()}},
        "probes": probes,
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _first(values: list[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)


def _evenly(count: int) -> list[int]:
    """Places of at most so many points as a figure shows, the first and the last among them."""
    if count <= _POINTS:
        return list(range(count))
    return [round(i * (count - 1) / (_POINTS - 1)) for i in range(_POINTS)]


def _probes(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Smallest and largest k of the probes on fixed prompts."""
    if not rows:
        return None
    ks = sorted({int(k) for row in rows for k in row["pass@k"]})
    ends = dict.fromkeys((ks[0], ks[-1]))
    columns = [{"k": k, "value": [_number(row["pass@k"].get(str(k))) for row in rows]} for k in ends]
    return {"step": [int(row["step"]) for row in rows], "pass_at_k": columns}
