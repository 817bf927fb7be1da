"""The table behind `odeval plan`: every design, what it sees, what it costs, and the cheapest that is enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from odeval.errors import OdevalError
from odeval.plan import Design, evaluate, pilot_rates, typical_rates

SCHEMA = "odeval.plan/1"


def budget(
    pilot: Path | None,
    prompts: Sequence[int],
    samples: Sequence[int],
    ks: tuple[int, ...] | Literal["all"],
    *,
    margin: float,
    alpha: float,
    drop: float,
    power: float,
    tokens: float | None,
) -> dict[str, Any]:
    """Evaluate every design; see `odeval plan --help` for the arguments.

    Returns:
        JSON-able: "designs", and "enough", the cheapest whose power and chance of PASS reach `power` (None if none).

    Raises:
        OdevalError: The pilot tells nothing, or a number is out of range.
    """
    if drop <= margin:
        raise OdevalError(f"drop {drop}: must exceed the margin {margin}, which the rule allows")
    rates, mean_tokens = typical_rates(), tokens
    if pilot is not None:
        from odeval.importers import open_run
        from odeval.measure import measure
        from odeval.pairing import counts_of

        measured = measure(open_run(pilot), "pilot", 0.8)
        rates = pilot_rates(counts_of(measured, measured.prompts.ids))
        if tokens is None and measured.completions and measured.completions.knows_all("num_tokens"):
            lengths = measured.sums["completion_length"]
            mean_tokens = float(lengths.numerator.sum() / lengths.denominator.sum())
    grid = list(ks) if isinstance(ks, tuple) and ks else None
    options = {"margin": margin, "alpha": alpha, "power": power, "drop": drop}
    rows = [_row(evaluate(rates, p, s, grid, **options), mean_tokens) for p in prompts for s in samples]
    enough = [row for row in rows if row["power"] >= power and row["passes"] >= power]
    return {
        "schema": SCHEMA,
        "pilot": "a typical benchmark" if pilot is None else str(pilot),
        **options,
        "tokens_per_completion": mean_tokens,
        "designs": rows,
        "enough": min(enough, key=lambda row: row["completions"], default=None),
    }


def _row(design: Design, tokens: float | None) -> dict[str, Any]:
    row = {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(design).items()
    }
    return {**row, "tokens": None if tokens is None else round(design.completions * tokens)}
