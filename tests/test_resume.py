"""Kill it at any moment: real processes, real SIGKILL, and then the same files as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from odeval.errors import OdevalError
from odeval.store import RunFolder
from odeval.testbed import WORLDS

# Children are forked from a server that has imported everything once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["odeval.audit", "odeval.cli", "odeval.engines.hf", "odeval.scoring", "odeval.testbed.build", "scipy.stats"]
)


def command(arguments: list[str], slow: bool, log: Path) -> None:
    """Run `odeval ARGUMENTS` in this process with small parts; `slow` stretches the moment before a file appears."""
    from odeval import atomic, sampling
    from odeval.cli import run

    sampling._PART_ROWS = 32
    fsync = os.fsync
    if slow:
        atomic.os.fsync = lambda descriptor: (fsync(descriptor), time.sleep(0.03))  # type: ignore[assignment]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.exit(run(arguments))


def questions(folder: Path, number: int) -> list[str]:
    """Write a prompts file; return the flags that name it."""
    words = WORLDS["graph_paths"].vocabulary()
    rows = [{"prompt": f"{words[i]} {words[-i - 1]}", "answer": words[i]} for i in range(number)]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--task", str(path), "--grader", "exact", "--max-tokens", "8", "--quiet"]


def start(arguments: list[str], log: Path, slow: bool = True) -> BaseProcess:
    process = CONTEXT.Process(target=command, args=(arguments, slow, log))
    process.start()
    return process


def finish(arguments: list[str], log: Path) -> None:
    process = start(arguments, log, slow=False)
    process.join(120)
    assert process.exitcode in (0, 1, 3), log.read_text()[-3000:]  # 1 and 3 are verdicts


def files(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def kill_often(arguments: list[str], out: Path, log: Path, seed: int, most: int = 8) -> int:
    """Start the command again and again, kill it a little further on each time; return how often it died of that."""
    chance, kills, seen = random.Random(seed), 0, 0
    while kills < most:
        process = start(arguments, log)
        try:
            while process.is_alive() and files(out) <= seen:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.06))
        finally:
            process.kill()
            process.join(30)
        if process.exitcode != -signal.SIGKILL:
            break
        kills += 1
        seen = max(seen, files(out)) + chance.choice([0, 0, 1, 2])
    return kills


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def check_whole(folder: Path, whole: Path) -> None:
    assert contents(folder).keys() == contents(whole).keys()
    for name, data in contents(whole).items():
        assert contents(folder)[name] == data, name
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]
    for run in {path.parent.parent for path in folder.rglob("samples/*.parquet")}:
        rows = sum(table.num_rows for table in RunFolder(run).iterate(run / "samples"))
        assert rows == len(RunFolder(run).keys(run / "samples")), "nothing twice"


@pytest.mark.slow
def test_sampling_killed_at_random_moments(teacher_folder: Path, tmp_path: Path) -> None:
    common = ["sample", str(teacher_folder), *questions(tmp_path, 40)]
    log, whole, out = tmp_path / "log", tmp_path / "whole", tmp_path / "killed"
    finish([*common, "--n", "8", "--out", str(whole)], log)
    assert len(contents(whole)) == 10
    arguments = [*common, "--n", "8", "--out", str(out)]
    assert kill_often(arguments, out, log, seed=1) >= 4
    finish(arguments, log)
    check_whole(out, whole)
    # and an extension of what is there, killed too
    finish([*common, "--n", "20", "--out", str(whole)], log)
    arguments = [*common, "--n", "20", "--out", str(out)]
    assert kill_often(arguments, out, log, seed=2, most=4) >= 2
    finish(arguments, log)
    check_whole(out, whole)
    assert len(RunFolder(out).keys(out / "samples")) == 40 * 20


@pytest.mark.slow
def test_an_audit_killed_at_random_moments(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    common = ["audit", str(student_folder), "--teacher", str(teacher_folder), "-n", "8", *questions(tmp_path, 12)]
    log, whole, out = tmp_path / "log", tmp_path / "whole", tmp_path / "killed"
    finish([*common, "--out", str(whole)], log)
    names = [str(path) for path in contents(whole)]
    # tokens and dropped, of 3 blocks of prompts and of the pilot's share of two
    assert len([name for name in names if "trajectory=teacher" in name]) == 10
    arguments = [*common, "--out", str(out)]
    assert kill_often(arguments, out, log, seed=3) >= 6
    finish(arguments, log)
    check_whole(out, whole)


def test_an_interrupt_is_one_line_and_a_second_process_waits_outside(teacher_folder: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    arguments = ["sample", str(teacher_folder), *questions(tmp_path, 100), "--n", "2048", "--out", str(out)]
    process = start(arguments, log)
    try:
        while process.is_alive() and not list(out.glob("samples/*.parquet")):
            time.sleep(0.005)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)  # however slow the second one starts, the first is not done
        with pytest.raises(OdevalError, match="run: another odeval process is writing it; wait for it to end"):
            RunFolder(out).lock().__enter__()
        second = start(arguments, tmp_path / "second")
        second.join(60)
        assert second.exitcode == 2
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGCONT)
        process.join(60)
    finally:
        process.kill()
    locked = f"odeval: {out}: another odeval process is writing it; wait for it to end\n"
    assert (tmp_path / "second").read_text() == locked
    assert process.exitcode == 130
    assert log.read_text() in ("", "odeval: interrupted; run the same command again to continue\n"), "no traceback"
