"""A model card: pass@k in the `model-index` that the Hugging Face hub reads, and a section people read.

Everything else in an existing README stays as it is, byte for byte; running it again changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from odeval.errors import OdevalError
from odeval.exporters.markdown import block
from odeval.lookup import run_of
from odeval.report.numbers import grid
from odeval.visible import visible

START, END = "<!-- odeval:start -->", "<!-- odeval:end -->"
_TOOL = "odeval"  # in a metric's args: which of them are ours, to be replaced
_FRONT = re.compile(r"\A(\s*---[ \t]*\n)(.*?)(^---[ \t]*(?:\n|\Z))", re.DOTALL | re.MULTILINE)
# The key and what is indented under it, or listed; comments and blank lines only where more of it follows.
_INDEX = re.compile(r"^model-index[ \t]*:.*\n(?:(?:#.*\n|[ \t]*\n)*[ \t-].*\n)*", re.MULTILINE)


def model_card(
    readme: str, comparisons: Sequence[dict[str, Any]], verdict: dict[str, Any], candidate: str, name: str = ""
) -> str:
    """Put a candidate's curve and verdict into a README.

    Args:
        readme: Its text so far, "" for a new one.
        comparisons: One a benchmark.
        verdict: From `gate.as_json`.
        candidate: Label of the run that the card is about.
        name: Of the model, where the card does not say; the label otherwise.

    Returns:
        The new text.

    Raises:
        OdevalError: The metadata is no YAML or cannot be edited safely, or the section's markers are broken.
    """
    newline = "\r\n" if "\r\n" in readme else "\n"
    text = readme.replace("\r\n", "\n")
    found = [item for comparison in comparisons if (item := _results(comparison, candidate))]
    front, body = _with_index(text, found, name or candidate)
    return (front + _with_section(body, _section(comparisons, verdict, candidate))).replace("\n", newline)


def _results(comparison: dict[str, Any], candidate: str) -> dict[str, Any] | None:
    """One entry of `results`: a benchmark with a metric a k."""
    if candidate not in {run["label"] for run in comparison["runs"]}:
        return None
    run, sampling = run_of(comparison, candidate), comparison["sampling"]
    curve = run["pass_at_k"]
    drawn = {key: sampling[key] for key in ("temperature", "top_p", "top_k") if sampling.get(key) is not None}
    suffix = f", T={drawn['temperature']}" if "temperature" in drawn else ""
    metrics = [
        {
            "type": "pass@k",
            "value": round(curve["value"][j], 6),
            "name": f"pass@{k} (unbiased, n={run['samples']}{suffix})",
            "args": {"k": k, "n": run["samples"], "prompts": comparison["prompts"],
                     "low": _rounded(curve["low"][j]), "high": _rounded(curve["high"][j]),
                     "confidence": comparison["settings"]["confidence"], "tool": _TOOL, **drawn},
        }
        for j, k in enumerate(curve["k"])
        if j in grid(curve["k"]) and curve["value"][j] is not None
    ]  # fmt: skip
    task = visible(str(comparison["task"]), 120)
    return {"task": {"type": "text-generation"}, "dataset": {"name": task, "type": task}, "metrics": metrics}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _with_index(text: str, results: list[dict[str, Any]], name: str) -> tuple[str, str]:
    """The metadata with our results, and what follows it."""
    front = _FRONT.match(text)
    body = "" if front is None else front[2]
    old = _metadata(body)
    index = _merged(old.get("model-index"), results, name)
    block_text = yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True, width=2**31)
    found = _INDEX.search(body)
    new = _INDEX.sub(lambda _: block_text, body, count=1) if found else body + block_text
    if (found is None) != ("model-index" not in old) or _metadata(new) != {**old, "model-index": index}:
        raise OdevalError("the card's metadata cannot be edited safely as it is written; remove its model-index")
    return (f"---\n{new}---\n", text) if front is None else (front[1] + new + front[3], text[front.end() :])


def _metadata(front: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(front) if front.strip() else {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-13-01
        reason = getattr(error, "problem", None) or "syntax error"
        raise OdevalError(f"the card's metadata is no YAML ({reason})") from error
    if not isinstance(found, dict | None):
        raise OdevalError("the card's metadata is no mapping")
    return found or {}


def _merged(old: Any, results: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Replace our own metrics, keep everybody else's."""
    kept = []
    try:
        first, *rest = old or [{"name": visible(name, 120)}]
        for item in first.get("results") or []:
            metrics = [metric for metric in item["metrics"] if (metric.get("args") or {}).get("tool") != _TOOL]
            kept += [{**item, "metrics": metrics}] if metrics else []
        return [{**first, "results": kept + results}, *rest]
    except (TypeError, KeyError, AttributeError):
        raise OdevalError("the card's model-index is not laid out as the hub wants it; mend or remove it") from None


def _section(comparisons: Sequence[dict[str, Any]], verdict: dict[str, Any], candidate: str) -> str:
    by_task = {comparison["task"]: comparison for comparison in comparisons}
    rows = [row for row in verdict["candidates"] if row["candidate"] == candidate]
    told = [block(by_task.get(row["benchmark"]), verdict, row) for row in rows]
    how = (
        f"pass@k is unbiased, in percent; brackets of a model's own curve are {100 * _confidence(comparisons):g}% "
        "intervals, those of the difference a simultaneous band. Verdicts are PASS, FAIL or INCONCLUSIVE, at one-sided "
        f"α {verdict['alpha']:g}."
    )
    return "\n".join([START, "## Diversity audit\n", *told, how, END, ""])


def _confidence(comparisons: Sequence[dict[str, Any]]) -> float:
    return float(comparisons[0]["settings"]["confidence"])


def _with_section(text: str, section: str) -> str:
    starts, ends = text.count(START), text.count(END)
    if (starts, ends) == (0, 0):
        return text + ("" if text.endswith("\n") or not text else "\n") + "\n" + section
    first, last = text.find(START), text.find(END)
    if (starts, ends) != (1, 1) or last < first:
        raise OdevalError(f"the card needs exactly one {START} and one {END} after it, or neither")
    after = last + len(END)
    return text[:first] + section + text[after + (text[after : after + 1] == "\n") :]
