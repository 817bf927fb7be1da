"""What Ray costs and gains on one machine: sampling a run here, and by one and two of Ray's workers, in turns.

    python benchmarks/executor.py             # some minutes on 2 cores
    python benchmarks/executor.py --rounds 1 --limit 100

Every way opens the engine and samples the embedded teacher anew. "open" is the time until the first worker can be
asked (Ray itself runs already), "sample" what follows; a worker of Ray is a new process that loads torch. The parts
are compared byte for byte. Writes results/executor_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from operator import methodcaller
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hardware import hardware, result_path

from odeval.atomic import hash_files, write_json
from odeval.engines import engine_crew
from odeval.engines.base import EngineOptions
from odeval.errors import OdevalError
from odeval.executors import Executor, _connected
from odeval.provenance import provenance
from odeval.sampling import sample
from odeval.store import RunFolder
from odeval.tasks import load_task
from odeval.types import SamplingParams

WAYS = {"local": Executor(), "ray, 1 worker": Executor("ray", 1), "ray, 2 workers": Executor("ray", 2)}


def timed(on: Executor, limit: int, n: int) -> tuple[float, float, str]:
    """Seconds to open and to sample, and a hash of the parts."""
    task = load_task("graph_paths", limit=limit)
    params = SamplingParams(n=n, max_tokens=task.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        run, started = RunFolder(Path(folder) / "run"), time.perf_counter()
        with engine_crew("hf", EngineOptions("embedded:graph_paths/teacher", "cpu"), on) as crew:
            model = crew.ask(methodcaller("ref"))
            opened = time.perf_counter()
            sample(crew, model, task, params, run)
            ended = time.perf_counter()
        return opened - started, ended - opened, hash_files(run.part_paths(run.samples))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, nargs="+", default=[64, 512], help="completions of a prompt")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turns; the median counts")
    options = parser.parse_args()
    started = time.perf_counter()
    ways = dict(WAYS)
    try:
        _connected(Executor("ray", 2))
    except OdevalError as error:
        print(f"{error}; measuring this process alone")
        ways = {"local": WAYS["local"]}
    ray_start = time.perf_counter() - started
    timed(ways["local"], 8, 8)  # loads torch
    found: dict[tuple[int, str], list[tuple[float, float, str]]] = {(n, name): [] for n in options.n for name in ways}
    for n in options.n:
        for _ in range(options.rounds):
            for name, on in ways.items():
                opened, sampled, parts = timed(on, options.limit, n)
                found[n, name].append((opened, sampled, parts))
                print(f"{n:5} {name:16} open {opened:6.1f} s   sample {sampled:6.1f} s", flush=True)
        if len({parts for (size, _), runs in found.items() if size == n for *_, parts in runs}) != 1:
            raise SystemExit("the parts differ")
    rows = [
        {
            "samples": n,
            "way": name,
            "open_seconds": round(statistics.median(run[0] for run in runs), 2),
            "sample_seconds": round(statistics.median(run[1] for run in runs), 2),
            "all_sample_seconds": [round(run[1], 2) for run in runs],
        }
        for (n, name), runs in found.items()
    ]
    result = {
        "what": "seconds of wall time, medians over rounds; the parts of all ways are equal byte for byte",
        "setting": {**vars(options), "hardware": hardware(), "load": os.getloadavg()},
        "ray_start_seconds": round(ray_start, 2),
        "rows": rows,
        "provenance": {**provenance(), "command": " ".join(["python benchmarks/executor.py", *sys.argv[1:]])},
    }
    write_json(result_path("executor"), result)
    print(result_path("executor"))


if __name__ == "__main__":
    main()
