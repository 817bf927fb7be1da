"""How compact and how fast is a run folder's token table? Beside what one would write first: one process, in turns.

    python benchmarks/store.py [--rounds 5]

The table is a real one: completions of Countdown's embedded teacher, scored; most of its contexts come once.
"odeval" is `write_table` and `read_part` (parquet, zstd, byte streams split, checksums). Peers hold the same columns:
pandas' own parquet, a compressed npz of the flat columns, and one JSON object a completion, gzipped as logs often are.
Wall seconds; writes results/store_<hardware>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from hardware import hardware, result_path

from odeval.atomic import write_json
from odeval.engines.hf import HfEngine
from odeval.parts import read_part, write_table
from odeval.provenance import provenance
from odeval.sampling import sample
from odeval.schemas import BRANCH_COLUMNS, TOKEN_COLUMNS, TOKENS
from odeval.scoring import score
from odeval.store import RunFolder
from odeval.tasks import load_task
from odeval.testbed import embedded
from odeval.types import SamplingParams

PROMPTS, SAMPLES, WORLD = 200, 64, "countdown"
COLUMNS = (*TOKEN_COLUMNS, *BRANCH_COLUMNS)


def table(folder: Path) -> pa.Table:
    """Scored tokens of an embedded student on its teacher's completions."""
    task, engines = load_task(WORLD, None, PROMPTS, None), {}
    for name in ("teacher", "blend"):
        engines[name] = HfEngine(embedded(WORLD, name), "cpu")
        params = SamplingParams(n=SAMPLES, max_tokens=task.max_tokens)
        sample(engines[name], engines[name].ref(), task, params, RunFolder(folder / name))
    runs = RunFolder(folder / "teacher"), RunFolder(folder / "blend")
    score(engines["teacher"].model, engines["blend"].model, *runs)
    parts = [read_part(path) for path in runs[1].part_paths(runs[1].tokens("teacher"))]
    return pa.concat_tables(parts).combine_chunks()


def ways(made: pa.Table, folder: Path) -> dict[str, tuple[Path, Callable[[], Any], Callable[[], Any]]]:
    """Name → file, how to write it, how to read it back into flat arrays."""
    frame = made.to_pandas()
    flat = {name: made[name].combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in COLUMNS}
    lengths = pa.compute.list_value_length(made[COLUMNS[0]]).to_numpy()
    ours, pandas, packed, logs = (folder / name for name in ("a.parquet", "b.parquet", "c.npz", "d.jsonl.gz"))

    def columns(found: pa.Table) -> list[np.ndarray]:
        return [found[name].combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in COLUMNS]

    def write_logs() -> None:
        with gzip.open(logs, "wt", compresslevel=6) as file:
            for found in frame.to_dict("records"):
                row = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in found.items()}
                file.write(
                    json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()}) + "\n"
                )

    def read_logs() -> list[np.ndarray]:
        with gzip.open(logs, "rt") as file:
            rows = [json.loads(line) for line in file]
        return [np.concatenate([np.asarray(row[name], dtype=np.float32) for row in rows]) for name in COLUMNS]

    def read_packed() -> list[np.ndarray]:
        with np.load(packed, allow_pickle=True) as found:
            return [found[name] for name in found.files]

    keys = {"lengths": lengths, "prompt_id": frame["prompt_id"].to_numpy(dtype=str), "sample_id": frame["sample_id"]}
    return {
        "odeval": (ours, lambda: write_table(ours, made, {}), lambda: columns(read_part(ours))),
        "pandas parquet": (pandas, lambda: frame.to_parquet(pandas), lambda: pd.read_parquet(pandas)),
        "npz": (packed, lambda: np.savez_compressed(packed, **keys, **flat), read_packed),
        "json lines, gzip": (logs, write_logs, read_logs),
    }


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        made = table(Path(name)).cast(TOKENS)
        tokens = int(pa.compute.sum(pa.compute.list_value_length(made[COLUMNS[0]])).as_py())
        seconds: dict[str, dict[str, list[float]]] = {}
        found = ways(made, Path(name))
        for _ in range(rounds):
            for label, (_, write, read) in found.items():
                own = seconds.setdefault(label, {"write": [], "read": []})
                own["write"].append(timed(write))
                own["read"].append(timed(read))
        rows = [
            {"way": label, "bytes_per_token": path.stat().st_size / tokens,
             **{f"{kind}_seconds": spread(own) for kind, own in seconds[label].items()}}
            for label, (path, _, _) in found.items()
        ]  # fmt: skip
    what = {"tokens": tokens, "columns": len(COLUMNS), "rounds": rounds, "hardware": hardware()}
    write_json(result_path("store"), {"what": __doc__, "setting": what, "rows": rows, "provenance": provenance()})
    for row in rows:
        took = [f"{kind} {row[f'{kind}_seconds']['median']:.2f} s" for kind in ("write", "read")]
        print(f"{row['way']:18} {row['bytes_per_token']:6.1f} bytes a token, {', '.join(took)}")
    print(result_path("store"))


if __name__ == "__main__":
    main()
