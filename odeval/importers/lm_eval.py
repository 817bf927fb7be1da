"""lm-eval's `samples_TASK_DATE.jsonl`. It scores only the first of the repeats, so several have to be graded here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError, unknown
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import Found, answer_of, assemble, prompt_of
from odeval.importers.tables import Row, head_keys, read_json_file, read_rows

_NAME = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT.+)$")


def detect(path: Path) -> bool:
    keys = head_keys(path)
    return {"doc_id", "resps"} <= keys or ({"results", "config"} <= keys and path.name.startswith("results_"))


def read(path: Path, options: ImportOptions) -> Imported:
    """Read every response of every document.

    Args:
        path: The samples file.
        options: A grader; without one only logs of a single response can be read, by `metric` ("exact_match" or, where
            there are several filters, "exact_match,FILTER").

    Raises:
        OdevalError: It is a results file, a log-likelihood task, or has repeats that lm-eval did not score.
    """
    if path.suffix == ".json":
        raise OdevalError(
            f"{path}: holds averages only, and no curve can come of them; run lm_eval with --log_samples and import "
            "the samples_*.jsonl"
        )
    docs: dict[str, list[tuple[str, Row]]] = {}
    for where, row in read_rows(path):
        if row.get("doc_id") is None:
            raise OdevalError(f"{where}: field 'doc_id' is missing")
        docs.setdefault(str(row["doc_id"]), []).append((where, row))
    notes, deepest = [], 1
    for rows in docs.values():
        where, first = rows[0]
        deepest = max(deepest, len(_responses(first, where)))
        for other, row in rows[1:]:
            if row.get("resps") != first["resps"]:
                raise OdevalError(f"{other}: doc {row['doc_id']} has other responses than above")
    dropped = sum(len(rows) - 1 for rows in docs.values())
    if dropped:
        notes.append(f"{dropped} rows dropped: lm-eval writes one a filter, with the same responses")
    chosen = ""
    if options.grader is None and docs:
        if deepest > 1:
            raise OdevalError(
                f"{path}: lm-eval scored only the first of the {deepest} responses to a prompt; pass --grader NAME to "
                "grade them all"
            )
        chosen = _metric([row for rows in docs.values() for _, row in rows], options, path)
    match = _NAME.match(path.stem)
    return assemble(
        "lm_eval", _completions(docs, chosen), options, notes, task=match["task"] if match else "",
        model=_model(path, match["date"]) if match else "",
        sampling=_sampling(next(iter(docs.values()))[0][1]) if docs else {},
        recorded=f"recorded by lm_eval ({chosen})",
    )  # fmt: skip


def _completions(docs: Mapping[str, list[tuple[str, Row]]], chosen: str) -> Iterator[Found]:
    name, _, wanted = chosen.partition(",")
    for key, rows in docs.items():
        where, row = next(((w, r) for w, r in rows if r.get("filter") == wanted), rows[0]) if chosen else rows[0]
        prompt = prompt_of(_argument(row, "arg_0"), where, identity=key, answer=answer_of(row.get("target")))
        for text in _responses(row, where):
            yield Found(where, prompt, text, score=row.get(name) if chosen else None)


def _responses(row: Row, where: str) -> list[str]:
    found = row.get("resps")
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], list):
        found = [[None]] if not isinstance(found, list) else found
    texts = found[0] if isinstance(found[0] if found else None, list) else [None]
    if len(found) != 1 or not texts or not all(isinstance(text, str) for text in texts):
        raise OdevalError(
            f"{where}: 'resps' is no list of sampled texts; log-likelihood tasks draw no completions and have no pass@k"
        )
    return list(texts)


def _metric(rows: list[Row], options: ImportOptions, path: Path) -> str:
    """Choose "metric,filter" among what the rows recorded."""
    offered = sorted(
        {
            f"{name},{row.get('filter')}"
            for row in rows
            if isinstance(row.get("metrics"), list)
            for name in row["metrics"]
            if isinstance(name, str) and name in row
        }
    )
    fitting = [name for name in offered if options.metric in ("", name, name.partition(",")[0])]
    if len(fitting) == 1:
        return fitting[0]
    if not offered:
        raise OdevalError(f"{path}: no metric is recorded; pass --grader NAME to grade the responses")
    if not fitting:
        raise OdevalError(f"{path}: {unknown('metric', options.metric, offered)}")
    raise OdevalError(f"{path}: several scores are recorded; choose one with --metric: {' or '.join(fitting)}")


def _argument(row: Row, name: str) -> Any:
    arguments = row.get("arguments")
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    return first.get(name) if isinstance(first, dict) else None


def _sampling(row: Row) -> dict[str, Any]:
    said = _argument(row, "arg_1")
    if not isinstance(said, dict):
        return {}
    greedy = said.get("do_sample") is False
    return {
        "temperature": 0.0 if greedy else said.get("temperature"),
        "top_p": said.get("top_p"),
        "top_k": said.get("top_k"),
        "max_tokens": said.get("max_gen_toks"),
    }


def _model(path: Path, date: str) -> str:
    """The model's name, from the results file that lm-eval writes beside the samples; "" if it is not there."""
    try:
        return str(read_json_file(path.with_name(f"results_{date}.json")).get("model_name") or "")
    except (OdevalError, AttributeError):
        return ""
