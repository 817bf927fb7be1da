"""Damaged and hostile logs: a right result or one clear line, never another exception, never a row lost in silence."""

from __future__ import annotations

import json
import random
import shutil
import string
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs import LOGS, Log, counted

from odeval.errors import OdevalError
from odeval.importers import IMPORTERS, import_file, write_imported
from odeval.importers.base import Imported, ImportOptions
from odeval.store import RunFolder

ROWS = {log.name: sum(log.n) for log in LOGS}
_QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_or_line(path: Path, tool: str, options: ImportOptions) -> Imported | None:
    """Import a file; anything but a result or one line is a failure."""
    try:
        return import_file(path, tool, options)
    except OdevalError as error:
        line = str(error)
    assert "\n" not in line
    assert line.startswith(str(path.parent))
    return None


def rows_of(log: Log) -> int:
    return len(import_file(log.file, log.tool, log.options).rows)


def copied(log: Log, folder: Path) -> Path:
    """A copy of a log, with what an importer looks for beside it."""
    for other in log.file.parent.iterdir():
        if other.is_file():
            shutil.copy(other, folder)
    return folder / log.file.name


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_a_truncated_log_is_refused_or_holds_whole_rows(log: Log, tmp_path: Path) -> None:
    whole, data, path = rows_of(log), log.file.read_bytes(), copied(log, tmp_path)
    draw = random.Random(log.name)
    one_by_one = path.suffix in (".jsonl", ".csv")  # these may end after any row, and nothing tells
    for length in sorted({0, 1, len(data) - 1, *(draw.randrange(len(data)) for _ in range(40))}):
        path.write_bytes(data[:length])
        found = read_or_line(path, log.tool, log.options)
        if found is None:
            continue
        assert one_by_one or length == len(data) - 1, length
        complete = data[:length].count(b"\n") + (not data[:length].endswith(b"\n"))
        assert len(found.rows) <= min(whole, complete * 4)


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_flipped_bits_lose_no_row_in_silence(log: Log, tmp_path: Path) -> None:
    whole, data, path = rows_of(log), log.file.read_bytes(), copied(log, tmp_path)
    draw = random.Random(log.name)
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(draw.choice([1, 1, 3, 20])):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        found = read_or_line(path, log.tool, log.options)
        if found is None:
            refused += 1
        else:
            assert len(found.rows) >= whole or found.notes
    if path.suffix == ".eval":
        assert refused > 40  # members carry checksums; what is not refused was in parts that hold no outcome


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_lowercase, max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = {
    "counts": ["id", "n", "c", "content"],
    "lm_eval": ["doc_id", "resps", "filter", "metrics", "arguments", "target", "exact_match"],
    "human_eval": ["task_id", "completion", "result", "passed"],
    "verl": ["input", "output", "gts", "score", "step", "acc"],
    "tinker": ["example_id", "turns", "reward", "error", "benchmark", "logs", "metrics"],
    "table": ["id", "prompt", "completion", "correct", "answer", "sample_id", "finish_reason", "seed"],
}


@pytest.mark.parametrize("tool", sorted(KEYS))
@_QUICK
@given(data=st.data())
def test_rows_of_anything(tool: str, data: st.DataObject, tmp_path: Path) -> None:
    row = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS[tool], JSON))
    rows = data.draw(st.lists(row, max_size=4))
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    options = ImportOptions(threshold=data.draw(st.none() | st.just(0.5)))
    found = read_or_line(path, tool, options)
    if found is not None and (found.counts or len(found.rows)):
        n, c = counted(found)
        assert len(n) <= len(rows)
        assert all(0 <= right <= graded for right, graded in zip(c, n, strict=True))
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        write_imported(found, RunFolder(tmp_path / "run"), path)  # what is accepted can be written
    elif found is not None:
        with pytest.raises(OdevalError, match="holds no completions"):
            write_imported(found, RunFolder(tmp_path / "run"), path)


@pytest.mark.parametrize("log", [log for log in LOGS if log.file.suffix == ".json"], ids=lambda log: log.name)
def test_values_of_a_real_log_replaced_by_anything(log: Log, tmp_path: Path) -> None:
    content, path = json.loads(log.file.read_text()), copied(log, tmp_path)
    draw = random.Random(log.name)
    odd = [None, True, -1, 0.5, float("nan"), "", "x", "\ud800", [], {}, [[]], {"value": []}, 2**80]
    for _ in range(150):
        changed = json.loads(json.dumps(content))
        place = changed
        for _ in range(draw.randrange(1, 7)):  # walk down to somewhere
            keys = list(place) if isinstance(place, dict) else range(len(place)) if isinstance(place, list) else []
            keys = [key for key in keys if key not in ("events", "stats")]
            if not keys:
                break
            parent, key = place, draw.choice(keys)
            place = place[key]
        parent[key] = draw.choice(odd)
        path.write_text(json.dumps(changed))
        read_or_line(path, log.tool, replace(log.options, partial=True))


@_QUICK
@given(content=st.binary(max_size=300), suffix=st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".eval", ".gz"]))
def test_bytes_of_anything(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"log{suffix}"
    path.write_bytes(content)
    for tool, importer in IMPORTERS.items():
        assert importer.detect(path) in (True, False)
        read_or_line(path, tool, ImportOptions())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "n": 4, "c": 5}', "log.jsonl:1: c 5 of n 4: must be 0 <= c <= n"),
        ('{"id": 1, "n": 1e999, "c": 0}', "log.jsonl:1: n is inf, expected a whole number up to 10,000,000"),
        ('{"id": 1, "n": 1' + "0" * 5000 + ', "c": 0}', "log.jsonl:1: is no JSON (Exceeds the limit"),
        ('{"id": "a\\nb\\u202e", "n": 1}', "log.jsonl:1: field 'c' is missing"),
        ("[" * 100_000, "log.jsonl:1: is no JSON (nested too deeply)"),
        ('{"id": "\\ud800", "n": 1, "c": 2}', "log.jsonl:1: c 2 of n 1"),
        ("\x00", "log.jsonl:1: is no JSON"),
    ],
)
def test_a_damaged_counts_file_is_one_line_with_its_row(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(line)
    with pytest.raises(OdevalError) as caught:
        import_file(path, "counts")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_in_a_message_cannot_drive_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(2 * '{"id": "a\\n\\u001b[31m", "n": 1, "c": 1}\n')
    with pytest.raises(OdevalError, match="stands there twice") as caught:
        import_file(path, "counts")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_key_twice_is_not_the_last_one_only(tmp_path: Path) -> None:
    """JSON readers keep the last of two equal keys, and a whole prompt would be gone."""
    path = tmp_path / "toy_eval_results.json"
    sample = '[{"solution": "", "base_status": "pass", "plus_status": "pass"}]'
    path.write_text(f'{{"hash": "", "eval": {{"a": {sample}, "a": {sample}}}}}')
    with pytest.raises(OdevalError, match=r"is no JSON \(key 'a' stands there twice\)"):
        import_file(path)
