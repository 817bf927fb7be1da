"""Names for benchmark results: results/<name>_<hardware>_<yyyymm>.json."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def hardware() -> str:
    """Short name of this machine: the GPU where torch sees one, else cores and processor."""
    try:
        import torch

        if torch.cuda.is_available():
            return re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-").lower()
    except ImportError:
        pass
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    short = re.sub(r"\(R\)|\(TM\)|Processor|CPU|@.*", "", name)
    return f"{os.cpu_count()}core-{re.sub(r'[^a-z0-9]+', '-', short.lower()).strip('-')}"


def result_path(name: str) -> Path:
    """Where a benchmark writes; BENCHMARK_RESULTS names another folder."""
    return Path(os.environ.get("BENCHMARK_RESULTS", RESULTS)) / f"{name}_{hardware()}_{datetime.now(UTC):%Y%m}.json"
