"""The numbers behind each figure as rows of a table, in the units of comparison.json: shares as shares, not percent."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from odeval.lookup import band_of, pair_of, reference_pairs, run_of
from odeval.plots.coverage import covered, dropped
from odeval.plots.families import RELIABILITY, exposed, extrapolated
from odeval.plots.style import looks
from odeval.plots.tokens import told
from odeval.plots.tradeoff import drawn_points
from odeval.plots.training import trained
from odeval.plots.variety import varied
from odeval.visible import visible

Row = dict[str, Any]
_ENDS = ("value", "low", "high")


def as_csv(rows: Sequence[Row]) -> str:
    """Write rows as CSV; unknown is empty, texts from outside are made visible and cannot start a formula."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text  # what a spreadsheet would run


def curve_rows(comparison: dict[str, Any], shown: Sequence[str] | None, scope: str = "population") -> Iterator[Row]:
    """pass@k of every run, and its paired difference with the band."""
    labels = list(looks(comparison, shown))
    for label in labels:
        curve = run_of(comparison, label)["pass_at_k"]
        for place, k in enumerate(curve["k"]):
            yield {"quantity": "pass@k", "run": label, "against": "", "k": k, **_ends(curve, place)}
    floor = comparison.get("chance") or {"k": (), "value": ()}
    for k, value in zip(floor["k"], floor["value"], strict=True):
        yield {"quantity": "chance", "run": "", "against": "", "k": k, "value": value, "low": None, "high": None}
    for pair in reference_pairs(comparison, labels):
        curve, band = pair["pass_at_k"], band_of(pair, scope)
        for place, k in enumerate(curve["k"]):
            ends = {"value": curve["difference"][place], "low": band["low"][place], "high": band["high"][place]}
            yield {"quantity": "difference", "run": pair["candidate"], "against": pair["baseline"], "k": k, **ends}


def tradeoff_rows(comparison: dict[str, Any], shown: Sequence[str] | None, scope: str = "population") -> Iterator[Row]:
    """Each candidate's joint region."""
    for point in drawn_points(comparison, list(looks(comparison, shown))):
        for place, k in enumerate(point["k"]):
            box = {"low": point[scope]["low"][place], "high": point[scope]["high"][place]}
            own = {"run": point["candidate"], "against": point["baseline"], "k": k}
            yield {**own, "difference": point["difference"][place], **box}


def lost_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """Each prompt's counts under the reference and under the candidate."""
    for label in looks(comparison, shown):
        pair = pair_of(comparison, label, "teacher", "baseline")
        sides = [run_of(comparison, pair[side]).get("counts") for side in ("baseline", "candidate")] if pair else [None]
        if pair is None or None in sides:
            continue
        counts = [column for side in sides if side for column in (side["n"], side["c"])]
        for prompt_id, n, c, own_n, own_c in zip(comparison["prompt_ids"], *counts, strict=True):
            yield {"run": label, "against": pair["baseline"], "prompt_id": prompt_id, "reference_n": n,
                   "reference_c": c, "run_n": own_n, "run_c": own_c}  # fmt: skip


def entropy_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """Share of tokens at or above each entropy, in the teacher's contexts."""
    for label in looks(comparison, shown):
        survival = run_of(comparison, label)["survival"]
        for model, shares in (survival.get("teacher") or {}).items():
            for entropy, share in zip(survival["entropy"], shares, strict=False):
                yield {"run": label, "model": model, "entropy_nats": entropy, "share_of_tokens": share}


def retention_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """The 2 × 2 of high-entropy tokens, and retention, at every threshold."""
    wanted = ("teacher_high_by_threshold", "student_high_by_threshold", "retention_by_threshold")
    for label in looks(comparison, shown):
        for name, family in (run_of(comparison, label).get("families") or {}).items():
            quantity, _, trajectory = name.partition("@")
            for place, threshold in enumerate(family["grid"] if quantity in wanted else ()):
                yield {"run": label, "quantity": quantity, "trajectory": trajectory, "threshold_nats": threshold,
                       **_ends(family, place)}  # fmt: skip


def coverage_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """Recall, ceiling, gap and grounding at every k."""
    for pair, views in covered(comparison, list(looks(comparison, shown))):
        for view in views:
            for quantity in ("recall", "ceiling", "gap", "grounding"):
                for place, k in enumerate(view["k"]):
                    names = {"run": pair["candidate"], "teacher": pair["baseline"], "by": view["by"]}
                    yield {
                        **names,
                        "draws": view["draws"],
                        "quantity": quantity,
                        "k": k,
                        **_ends(view[quantity], place),
                    }


def branch_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """Every dropped branch that is listed."""
    for pair in dropped(comparison, list(looks(comparison, shown))):
        for row in pair["branches"]["listed"]:
            yield {"run": pair["candidate"], **{key: value for key, value in row.items() if key != "prompt"}}


def token_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """Every token of the completion that is drawn."""
    columns = ("teacher_entropy", "student_entropy", "teacher_logprob", "student_logprob", "branch", "closed")
    for pair in told(comparison, list(looks(comparison, shown)))[:1]:
        found = pair["completion"]
        for at, piece in enumerate(found["pieces"]):
            yield {"run": pair["candidate"], "position": at, "piece": piece, **{key: found[key][at] for key in columns}}


def diversity_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """Every part of a change of diversity."""
    for pair in varied(comparison, list(looks(comparison, shown))):
        for part, item in pair["diversity"]["split"].items():
            ends = {key: item[key] for key in _ENDS}
            yield {"run": pair["candidate"], "against": pair["baseline"], "part": part, "unit": item["unit"], **ends}


def distinct_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """Different right answers among k right completions."""
    for pair in varied(comparison, list(looks(comparison, shown))):
        found = pair["diversity"]["among_right"] or {"k": ()}
        for place, k in enumerate(found["k"]):
            for side in ("baseline", "candidate", "difference"):
                names = {"run": pair["candidate"], "against": pair["baseline"], "quantity": side}
                yield {**names, "k": k, **_ends(found[side], place)}


def reliability_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """How dependable k completions are."""
    for label in looks(comparison, shown):
        families = run_of(comparison, label).get("families") or {}
        for quantity in (name for name in RELIABILITY if name in families):
            for place, k in enumerate(families[quantity]["grid"]):
                yield {"run": label, "quantity": quantity, "k": k, **_ends(families[quantity], place)}


def exposure_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """Exposure bias by position."""
    for pair in exposed(comparison, list(looks(comparison, shown))):
        for place, tokens in enumerate(pair["exposure_bias"]["tokens"]):
            yield {"run": pair["candidate"], "tokens": tokens, **_ends(pair["exposure_bias"], place)}


def extrapolation_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """pass@k as measured and as extrapolated."""
    for run in extrapolated(comparison, list(looks(comparison, shown))):
        for place, k in enumerate(run["pass_at_k"]["k"]):
            yield {"run": run["label"], "quantity": "measured", "k": k, **_ends(run["pass_at_k"], place)}
        for key in ("value", "without_zeros"):
            for k, value in zip(run["extrapolation"]["k"], run["extrapolation"][key], strict=True):
                yield {"run": run["label"], "quantity": f"extrapolated, {key}", "k": k, "value": value}


def training_rows(comparison: dict[str, Any], shown: Sequence[str] | None) -> Iterator[Row]:
    """Every drawn update of every training, then its probes."""
    for label, found in trained(comparison, list(looks(comparison, shown))):
        history = found["history"]
        for place, step in enumerate(history["step"]):
            yield {"run": label, "step": step, **{key: history[key][place] for key in history if key != "step"}}
        for column in (found["probes"] or {"pass_at_k": ()})["pass_at_k"]:
            for step, value in zip(found["probes"]["step"], column["value"], strict=True):
                yield {"run": label, "step": step, "k": column["k"], "pass_at_k": value}


def _ends(columns: dict[str, Any], place: int) -> Row:
    return {key: columns[key][place] for key in _ENDS}


def known(rows: Iterable[Row]) -> list[Row]:
    """Rows that say anything."""
    return [row for row in rows if any(isinstance(value, int | float) for value in row.values())]
