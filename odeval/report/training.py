"""How the candidates were trained, where their logs tell."""

from __future__ import annotations

from typing import Any

from odeval.lookup import run_of
from odeval.report.numbers import UNKNOWN, Shown, count, shown, unit_name
from odeval.report.view import drawn, name
from odeval.visible import visible

_ACCOUNT = {
    "updates": "updates",
    "tokens_sampled": "tokens sampled",
    "tokens_scored_by_teacher": "tokens through the teacher",
}


def training(comparison: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any] | None:
    """What each training cost, and where its curves began and ended; None where no log is known."""
    known = [(label, told) for label in drawn(verdict) if (told := run_of(comparison, label).get("training"))]
    if not known:
        return None
    return {
        "layout": "training", "kind": "training", "title": "How was it trained?", "figure": "training",
        "heads": ["run", "objective", *_ACCOUNT.values(), "FLOPs"],
        "account": [
            {"name": name(label), "cells": [visible(told["run"], 40), visible(told["objective"], 40), *_cost(told)]}
            for label, told in known
        ],
        "curves": [
            {"name": name(label), "rows": [_row(curve) for curve in told["curves"].values()]} for label, told in known
        ],
        "probed": any(told["probes"] for _, told in known),
        "missing": [name(label) for label in drawn(verdict) if not run_of(comparison, label).get("training")],
    }  # fmt: skip


def _cost(told: dict[str, Any]) -> list[str]:
    ledger = told["ledger"]
    flops = ledger["flops"]
    return [*(count(ledger[key]) for key in _ACCOUNT), UNKNOWN if flops is None else f"{flops:.3g}"]


def _row(curve: dict[str, Any]) -> dict[str, Any]:
    cells: list[Shown] = [shown({"value": curve[end]}, curve["unit"]) for end in ("first", "last")]
    return {"name": visible(curve["label"]), "unit": unit_name(curve["unit"]), "cells": cells}
