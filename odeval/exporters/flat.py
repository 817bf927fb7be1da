"""Numbers without their story: a line each, nested for `dvc metrics diff`, and Bencher's own format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from odeval.lookup import band_of


def rows(comparisons: Iterable[dict[str, Any]], scope: str = "population") -> Iterator[dict[str, Any]]:
    """One dict a number: benchmark, run, role, against, metric, unit, value, low, high; unknown is None.

    Args:
        comparisons: One a benchmark.
        scope: Of the band of a pass@k difference.
    """
    for comparison in comparisons:
        for run in comparison["runs"]:
            place = {"benchmark": comparison["task"], "run": run["label"], "role": run["role"], "against": ""}
            curve = run["pass_at_k"]
            for j, k in enumerate(curve["k"]):
                yield {**place, "metric": f"pass@{k}", "unit": "share", **{key: curve[key][j] for key in _ENDS}}
            for name, item in run["metrics"].items():
                yield {**place, "metric": name, "unit": item["unit"], **{key: item[key] for key in _ENDS}}
        for pair in comparison["pairs"]:
            place = {"benchmark": comparison["task"], "run": pair["candidate"], "role": pair["role"]}
            yield from _changes(place | {"against": pair["baseline"]}, pair, scope)


_ENDS = ("value", "low", "high")


def _changes(place: dict[str, Any], pair: dict[str, Any], scope: str) -> Iterator[dict[str, Any]]:
    curve, band = pair["pass_at_k"], band_of(pair, scope)
    place = {**place, "role": "candidate"}
    for j, k in enumerate(curve["k"]):
        ends = {"value": curve["difference"][j], "low": band["low"][j], "high": band["high"][j]}
        yield {**place, "metric": f"pass@{k}.delta", "unit": "share", **ends}
    for name, item in pair["metrics"].items():
        change = item["difference"]
        yield {**place, "metric": f"{name}.delta", "unit": item["unit"], **{key: change[key] for key in _ENDS}}


def nested(comparisons: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Benchmark → run → metric → number, candidates only, unknown left out: what `dvc metrics diff` can read."""
    found: dict[str, Any] = {}
    for row in rows(comparisons):
        if row["role"] == "candidate" and row["value"] is not None:
            name = f"{row['metric']} against {row['against']}" if row["against"] else row["metric"]
            found.setdefault(row["benchmark"], {}).setdefault(row["run"], {})[name] = row["value"]
    return found


def bencher(comparisons: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Bencher Metric Format: benchmark and run → measure → value with lower_value and upper_value where known."""
    found: dict[str, Any] = {}
    for row in rows(comparisons):
        if row["role"] != "candidate" or row["against"] or row["value"] is None:
            continue
        measure = re.sub(r"[^a-z0-9]+", "-", row["metric"].replace("pass@", "pass-at-").lower()).strip("-")
        ends = {"value": row["value"], "lower_value": row["low"], "upper_value": row["high"]}
        place = f"{row['benchmark']} / {row['run']}"
        found.setdefault(place, {})[measure] = {key: value for key, value in ends.items() if value is not None}
    return found
