"""The run folder: whole files or none, one writer, and damage that is named."""

from __future__ import annotations

import json
import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odeval import atomic, provenance
from odeval.errors import CannotJudge, OdevalError
from odeval.store import RunFolder, part_provenance, prompt_line, read_part, write_table
from odeval.types import GRADES, TOKENS, Prompt

META = {
    "model": {"path": "m", "fingerprint": "f"},
    "task": {"name": "t", "grader": "exact"},
    "sampling": {"n": 4, "top_p": 1.0},
}


def grades(number: int = 3) -> pa.Table:
    return pa.table(
        [["p"] * number, list(range(number)), [True, None, False][:number], ["é\u2028"] * number, [""] * number],
        schema=GRADES,
    )


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file.json"
    atomic.write_json(path, {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(
            OdevalError, match=r"cannot write .*file.json: No space left on device; choose another output"
        ):
            atomic.write_json(path, {"a": 2})
    assert atomic.read_json(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(path, float("nan"))


@pytest.mark.parametrize(
    ("content", "text"), [(None, "no such file"), (b"{", r"cannot be read as JSON \("), (b"\xff", "cannot be")]
)
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OdevalError, match=f"file.json: {text}"):
        atomic.read_json(path)


def test_a_folder_that_cannot_be_written_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for action in (
        lambda: RunFolder(tmp_path / "file").lock().__enter__(),
        lambda: RunFolder(tmp_path / "file" / "run").lock().__enter__(),
        lambda: RunFolder(tmp_path / "file" / "run").open(META, [Prompt(text="a")]),
        lambda: write_table(tmp_path / "file" / "x.parquet", grades(), {}),
    ):
        with pytest.raises(OdevalError, match=r"cannot write .*file.*: .*; choose another output folder") as caught:
            action()
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_gets_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(OdevalError, match="Permission denied; choose another output folder"),
        RunFolder(tmp_path).lock(),
    ):
        pass


def _hold(path: Path, held: Event, release: Event) -> None:
    with RunFolder(path).lock():
        held.set()
        release.wait(30)


def test_a_second_process_is_locked_out(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "run", held, release))
    process.start()
    try:
        assert held.wait(30)
        with pytest.raises(OdevalError, match="run: another odeval process is writing it; wait for it to end"):
            RunFolder(tmp_path / "run").lock().__enter__()
        release.set()
        process.join(30)
        with RunFolder(tmp_path / "run").lock():
            pass
    finally:
        process.kill()
        process.join()


def test_prompts_come_back_as_they_went_in(tmp_path: Path) -> None:
    """Line separators of Unicode included, which JSON writes as they are."""
    prompts = [
        Prompt(text="a\u2028b\x85c\x0bd\n\r\te\x00", answer="\u2029", id="odd"),
        Prompt(messages=({"role": "user", "content": "é 😀"},), answer="1", cluster="c"),
        Prompt(text="plain"),
    ]
    run = RunFolder(tmp_path / "run")
    run.open(META, prompts)
    found = run.prompts()
    assert [(p.content, p.prompt_id, p.cluster) for p in found] == [
        (p.content, p.prompt_id, p.cluster) for p in prompts
    ]
    assert [prompt_line(p) for p in found] == (run.path / "prompts.jsonl").read_text().split("\n")[:-1]


def test_what_is_no_run_gets_one_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(CannotJudge, match=r"run: no run here \(run.json is missing\); make one with `odeval sample`"):
        run.meta()
    with pytest.raises(CannotJudge, match=r"prompts.jsonl: missing; the run folder is not whole"):
        run.prompts()
    run.open(META, [Prompt(text="a")])
    for damaged in ("{", "[1]", '{"prompt": "a"}\n\xff', "nonsense"):
        (run.path / "prompts.jsonl").write_bytes(damaged.encode("latin-1"))
        with pytest.raises(CannotJudge, match=r"prompts.jsonl: damaged \(.*\); rerun `odeval sample`"):
            run.prompts()
    (run.path / "run.json").write_text(json.dumps({"schema": 999}))
    with pytest.raises(CannotJudge, match=r"run.json: written by a newer odeval \(schema 999\); upgrade odeval"):
        run.meta()


def test_a_table_comes_back_with_what_it_was_made_from(tmp_path: Path) -> None:
    path = tmp_path / "grades.parquet"
    write_table(path, grades(), {"samples": "abc", "grader": "exact"})
    assert read_part(path).equals(grades())
    assert read_part(path, ["correct"])["correct"].to_pylist() == [True, None, False]
    record = part_provenance(path)
    assert (record["samples"], record["grader"], record["versions"]) == ("abc", "exact", provenance.versions())
    first = path.read_bytes()
    write_table(path, grades(), {"grader": "exact", "samples": "abc"})
    assert path.read_bytes() == first, "the time is not in it"
    write_table(path, grades(2), {"samples": "abc", "grader": "exact"})
    assert path.read_bytes() != first


def test_floats_are_stored_bit_by_bit(tmp_path: Path) -> None:
    values = np.array([0.0, -0.0, 1e-38, np.nan, np.inf, -np.inf, 1 / 3, 65504], dtype=np.float32)
    lists = [pa.array([values[:5], [], values[5:]], pa.list_(pa.float32()))] * (len(TOKENS) - 2)
    table = pa.table([["a", "b", "c"], pa.array([0, 1, 2], pa.int32()), *lists], schema=TOKENS)
    write_table(tmp_path / "t.parquet", table, {})
    found = read_part(tmp_path / "t.parquet", ["forward_kl"])["forward_kl"].combine_chunks()
    assert found.values.to_numpy().tobytes() == values.tobytes()
    assert found.offsets.to_pylist() == [0, 5, 5, 8]
    encodings = pq.read_metadata(tmp_path / "t.parquet").row_group(0).column(7).encodings
    assert "BYTE_STREAM_SPLIT" in encodings


def test_a_flipped_byte_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "part-00000-00000.parquet"
    random = np.random.default_rng(0)
    rows = 400
    table = pa.table(
        [["p"] * rows, list(range(rows)), [True] * rows, [str(v) for v in random.random(rows)], [""] * rows],
        schema=GRADES,
    )
    write_table(path, table, {})
    whole = path.read_bytes()
    for place in random.integers(len(whole), size=60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found: pa.Table | str
        try:
            found = read_part(path, GRADES.names)
            part_provenance(path)
        except OdevalError as error:
            found = str(error)
        if isinstance(found, str):
            assert "part-00000-00000.parquet: damaged (" in found
            assert "\n" not in found
        else:
            assert found.to_pydict() == table.to_pydict(), "a flip that changes a value must not pass"


def test_keys_and_order_of_parts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for name in ("part-00010-00000", "part-00002-00004", "part-00002-00000"):
        write_table(run.samples / f"{name}.parquet", grades(), {})
    (run.samples / "notes.txt").write_text("not a part")
    assert [path.stem for path in run.part_paths(run.samples)] == [
        "part-00002-00000",
        "part-00002-00004",
        "part-00010-00000",
    ]
    assert run.keys(run.samples) == {("p", 0), ("p", 1), ("p", 2)}


def test_the_fingerprint_is_of_names_and_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"ab")
    two.write_bytes(b"c")
    first = atomic.hash_files([one, two])
    assert atomic.hash_files([two, one]) != first
    one.write_bytes(b"a")
    two.write_bytes(b"bc")
    assert atomic.hash_files([one, two]) != first


def test_the_commit_is_that_of_this_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    provenance.git_state.cache_clear()
    try:
        monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
        assert provenance.git_state() == "", "an installed copy inside another checkout has no commit of its own"
    finally:
        provenance.git_state.cache_clear()
