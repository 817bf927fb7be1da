"""Ray's workers against this process: the same bytes, whoever dies. Real processes, real SIGKILL; one Ray for all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai_server import serving
from test_resume import check_whole, contents, questions
from test_scoring_bounds import both

from odeval import executors, sampling, scoring_pairs
from odeval.cli import run
from odeval.engines.base import EngineOptions
from odeval.engines.hf import HfEngine
from odeval.errors import CannotJudge, OdevalError
from odeval.executors import Executor
from odeval.scoring_bounds import score_bounds
from odeval.store import RunFolder
from odeval.types import TRAJECTORIES

RAY = Executor("ray")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray on this machine, told that it has two cores and two GPUs: it counts them, and does not look."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'odeval[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", partial(ray.init, num_gpus=2))
        executors._connected(Executor("ray", workers=2))
    assert ray.cluster_resources()["CPU"] >= 2
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_PART_ROWS", 32)


def workers(doing: str = "") -> list[int]:
    """Process ids of the workers that are doing something just now."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if f"{process.cmdline()[:1]}".startswith(f"['ray::_Worker{doing}"):
                found.append(process.pid)
        except psutil.Error:
            pass
    return found


def kill_at(folder: Path, counts: list[int]) -> list[int]:
    """In the background, SIGKILL a worker at work as soon as so many parts are there, for each count."""
    killed: list[int] = []

    def watch() -> None:
        for count in counts:
            while len(list(folder.glob("part-*.parquet"))) < count:
                time.sleep(0.002)
            while not (busy := workers(".do")):
                time.sleep(0.002)
            os.kill(busy[0], signal.SIGKILL)
            killed.append(busy[0])

    threading.Thread(target=watch, daemon=True).start()
    return killed


def without_provenance(path: Path) -> Any:
    found = json.loads(path.read_text())
    found.pop("provenance")
    return found


@pytest.mark.slow
def test_an_audit_writes_the_same_files(
    ray: Any, teacher_folder: Path, student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths mean the same in a worker
    models = ["audit", str(student_folder), "--teacher", str(teacher_folder), "--pilot", "0"]
    common = [*models, "-n", "8", *questions(Path(), 20)]
    local = run([*common, "--out", "local"])
    capfd.readouterr()
    assert run([*common, "--out", "ray/local", "--executor", "ray", "--workers", "1", "--json"]) == local
    shown = capfd.readouterr()
    assert json.loads(shown.out)["verdict"]
    assert shown.err == ""
    assert len(contents(tmp_path / "local")) == 2 * 5 + 2 * 5 * 2 + 2 + 1  # samples, tokens and dropped, grades, pieces
    check_whole(tmp_path / "ray/local", tmp_path / "local")
    files = {path.relative_to("local") for path in Path("local").rglob("*") if path.is_file()}
    assert files == {path.relative_to("ray/local") for path in Path("ray/local").rglob("*") if path.is_file()}
    for name in files:
        ours, theirs = Path("ray/local") / name, Path("local") / name
        if name.suffix == ".json" and name.name != "verdict.json":
            assert without_provenance(ours) == without_provenance(theirs)
        elif name.suffix not in (".yaml", ".html", ".md"):  # they tell the executor, or the time
            assert ours.read_bytes() == theirs.read_bytes(), name


@pytest.mark.slow
def test_workers_killed_while_they_sample_and_score(
    ray: Any, teacher_folder: Path, student_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    on, common = ["--executor", "ray", "--workers", "2"], ["--n", "64", *questions(tmp_path, 24)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(["sample", str(teacher_folder), *common, "--out", str(whole / "teacher")]) == 0
    assert run(["sample", str(student_folder), *common, "--out", str(whole / "student")]) == 0
    shutil.copytree(whole / "student", killed / "student")
    dead = kill_at(killed / "teacher" / "samples", [1, 8])
    assert run(["sample", str(teacher_folder), *common, "--out", str(killed / "teacher"), *on]) == 0
    assert len(set(dead)) == 2
    dead += kill_at(killed / "student" / "tokens" / "trajectory=teacher", [2])
    for folder, options in ((whole, []), (killed, on)):
        runs = [str(folder / "student"), "--teacher-run", str(folder / "teacher")]
        assert run(["score", *runs, "--quiet", *options]) == 0
        assert run(["grade", str(folder / "student"), "--quiet", *options]) == 0
    check_whole(killed, whole)
    told = [record.getMessage().split(" at ")[0] for record in caplog.records]
    assert told == ["odeval: a Ray worker died"] * 3


@pytest.mark.slow
def test_bounds_are_the_same_bytes(
    ray: Any, teacher_folder: Path, student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bounds entropies may sit in Ray's workers: here a client of two real servers, in place of two vLLMs."""
    for name, folder in (("teacher", teacher_folder), ("student", student_folder)):
        assert run(["sample", str(folder), "--n", "4", *questions(tmp_path, 20), "--out", str(tmp_path / name)]) == 0
    shutil.copytree(tmp_path / "student", tmp_path / "spread" / "student")
    teacher = RunFolder(tmp_path / "teacher")
    engines = {"teacher": HfEngine(teacher_folder), "student": HfEngine(student_folder)}
    with serving(both(engines)) as url:
        models = [EngineOptions(name, base_urls=(url,), endpoint="completions") for name in engines]
        for on, folder in ((Executor(), tmp_path), (Executor("ray", 2), tmp_path / "spread")):
            with on.crew(partial(scoring_pairs._open, "server", models, 20)) as crew:
                score_bounds(crew, teacher, RunFolder(folder / "student"), 20)
    for trajectory in TRAJECTORIES:
        found = contents(tmp_path / "spread" / "student" / "tokens" / f"trajectory={trajectory}")
        assert len(found) == 3
        assert found == contents(tmp_path / "student" / "tokens" / f"trajectory={trajectory}")


@pytest.mark.slow
def test_a_killed_driver_is_finished_by_the_next_one(ray: Any, teacher_folder: Path, tmp_path: Path) -> None:
    common = ["sample", str(teacher_folder), "--n", "64", *questions(tmp_path, 24)]
    on = ["--executor", "ray", "--workers", "1", "--out", str(tmp_path / "killed")]
    assert run([*common, "--out", str(tmp_path / "whole")]) == 0
    code = "import sys; from odeval import cli, sampling; sampling._PART_ROWS = 32; sys.exit(cli.run(sys.argv[1:]))"
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen([sys.executable, "-c", code, *common, *on, "--ray-address", address])
    try:
        while driver.poll() is None and len(list(tmp_path.glob("killed/samples/*.parquet"))) < 3:
            time.sleep(0.002)
    finally:
        driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert 3 <= len(contents(tmp_path / "killed")) < 24
    assert run([*common, *on]) == 0
    check_whole(tmp_path / "killed", tmp_path / "whole")


def fatal(folder: Path, block: str) -> str:
    """A block that kills its worker as often as its name says."""
    name, _, deaths = block.partition(" ")
    with (folder / name).open("a") as file:
        file.write(".")
    if (folder / name).stat().st_size <= int(deaths or 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return block.upper()


def test_a_block_that_kills_its_workers_is_named(
    ray: Any, tmp_path: Path, capfd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with RAY.crew(partial(str, tmp_path)) as crew:
        work = partial(by_value(), folder=tmp_path)
        blocks = {name: name for name in ("a", "b 2", "c", "d 1")}
        assert sorted(crew.each(work, blocks)) == [(name, name.upper()) for name in blocks]
        assert (tmp_path / "b").read_text() == "...", "done a third time"
        caplog.clear()
        expected = r"^e 9: 3 Ray workers died at it, which is often too little memory \(.*\); try fewer --workers; what"
        with pytest.raises(OdevalError, match=expected) as caught:
            list(crew.each(work, {"e 9": "e 9"}))
        sys.stdout.write("own words\n")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "e").read_text() == "..."
    assert capfd.readouterr().out == "own words\n", "and none of Ray's"
    assert [r.getMessage() for r in caplog.records] == ["odeval: a Ray worker died at e 9; another does it again"] * 2
    ended = time.monotonic() + 60  # Ray takes its time to end a process
    while workers() and time.monotonic() < ended:
        time.sleep(0.1)
    assert workers() == [], "they end with the crew"


def by_value() -> Any:
    """Workers cannot import this file: what they do travels whole."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return lambda context, block, folder: fatal(folder, block)


def test_a_model_that_kills_its_workers_is_said_so(ray: Any, tmp_path: Path) -> None:
    by_value()
    with (
        RAY.crew(partial(fatal, tmp_path, "model 9")) as crew,
        pytest.raises(OdevalError, match="loading the model: 3"),
    ):
        crew.ask(str)
    assert (tmp_path / "model").read_text() == "..."


def own_gpu(folder: Path) -> str:
    """Say which GPU a worker was given, once both are here."""
    own = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    (folder / f"gpu{own}").touch()
    while len(list(folder.glob("gpu*"))) < 2:
        time.sleep(0.01)
    return own


def test_one_worker_a_gpu(ray: Any, tmp_path: Path) -> None:
    by_value()
    with RAY.crew(partial(own_gpu, tmp_path), device="auto") as crew:
        assert {own for _, own in crew.each(later, {str(i): i for i in range(8)})} == {"0", "1"}
    with RAY.crew(int, device="cpu") as crew:
        assert crew.ask(lambda context: os.environ.get("CUDA_VISIBLE_DEVICES", "")) == ""


def later(context: str, block: int) -> str:
    time.sleep(0.2)
    return context


def cannot(context: object, block: str) -> None:
    raise CannotJudge(f"{block}: is not to be judged")


def test_what_the_user_can_mend_reads_as_ever(ray: Any, tmp_path: Path, capfd: Any) -> None:
    common = ["sample", str(tmp_path / "none"), "--task", "graph_paths", "--out", str(tmp_path / "out"), "--quiet"]
    told = []
    for options in ([], ["--executor", "ray"]):
        assert run([*common, *options]) == 2
        told.append(capfd.readouterr())
    assert told[0] == told[1]
    assert "none: no such folder; give a local model folder" in told[0].err
    by_value()
    with RAY.crew(int) as crew, pytest.raises(CannotJudge, match=r"^p7: is not to be judged$"):
        list(crew.each(cannot, {"p7": "p7"}))
    expected = r"--workers 99: Ray has room for \d+, each with 1 of its \d+ cores; ask for fewer"
    with Executor("ray", 99).crew(int) as crew, pytest.raises(OdevalError, match=expected):
        crew.ask(str)
