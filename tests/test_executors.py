"""What is refused before a worker of Ray is started."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from odeval import executors, sampling
from odeval.cli import run
from odeval.engines import engine_crew
from odeval.engines.base import EngineOptions
from odeval.errors import OdevalError
from odeval.executors import Executor
from odeval.store import RunFolder
from odeval.types import ModelRef, SamplingParams


def test_a_cluster_that_is_not_there(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'odeval[ray]'")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        common = ["sample", "none", "--task", "graph_paths", "--out", str(tmp_path), "--executor", "ray"]
        assert run([*common, "--ray-address", address]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"odeval: Ray at {address}: cannot be reached (")
    assert error.endswith("); start it by `ray start --head`, or leave out --ray-address and RAY_ADDRESS\n")
    assert error.count("\n") == 1


def test_without_ray_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code = run(["sample", "none", "--task", "graph_paths", "--out", str(tmp_path), "--executor", "ray", "--quiet"])
    assert code == 2
    assert capsys.readouterr().err == "odeval: --executor ray needs Ray: pip install 'odeval[ray]'\n"


def test_refusals(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(OdevalError, match="--executor ray: the engine 'server' only waits for its servers; name them"):
        engine_crew("server", EngineOptions("m"), Executor("ray"))
    runs = [str(tmp_path), "--teacher-run", str(tmp_path), "--student", "s", "--teacher", "t"]
    assert run(["score", *runs, "--engine", "server", "--base-url", "http://x", "--executor", "ray", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("odeval: --executor ray: the engine 'server' only waits for its servers")
    with pytest.raises(OdevalError, match="--workers 0: at least 1 is needed"), Executor("ray", 0).crew(int):
        pass
    with pytest.raises(OdevalError, match=r"nowhere: no such folder on .*; Ray's machines must share the file system"):
        executors._Worker._open(object.__new__(executors._Worker), int, "/nowhere")
    folder, params = RunFolder(tmp_path / "run"), SamplingParams(n=1, max_tokens=1)
    with pytest.raises(OdevalError, match=r"run: is another folder on .*; Ray's machines must share its file system"):
        sampling._sample_part(
            None, ("part-0", []), model=ModelRef("m"), params=params, run=folder, opened="1", made_from={}
        )
