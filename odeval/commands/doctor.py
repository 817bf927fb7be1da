"""The verb that examines an engine: doctor."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from odeval.errors import unknown

if TYPE_CHECKING:
    from odeval.types import Prompt

_MARKS = {"ok": "✓ ok", "fail": "✕ fail", "unknown": "? unknown"}
_PROMPTS = 8
_PLAIN = (
    "The", "Once upon a time", "Q: What is 3 + 4?\nA:", "def main():", "A list of animals:", "Yesterday we", "1, 2,",
    "Dear Sir or Madam,",
)  # fmt: skip


def doctor(
    engine: str, model: str, /, *, task: str | None = None, reference: Path | None = None, samples: int = 1000,
    max_tokens: int = 24, tolerance: float = 1e-4, device: str = "auto", base_url: list[str] | None = None,
    endpoint: Literal["completions", "chat"] = "completions", concurrency: int = 32, timeout: float = 600,
    retries: int = 6, key_variable: str = "", json: bool = False,
) -> int:  # fmt: skip
    """Check that an engine samples honestly: seeds, streams, distribution, log-probabilities.

    Exit code 0: every check holds. 1: one does not. 4: none failed, but some could not be made.

    Args:
        engine: hf, vllm or server.
        model: A folder in Hugging Face format; for server the name it knows the model by.
        task: Ask prompts of this task; by default of the world of an embedded model, or eight short texts.
        reference: For server: a folder with the same weights, to hold its probabilities against.
        samples: First tokens that a distribution is judged by.
        max_tokens: Per completion.
        tolerance: Nats that a log-probability may be off by; 1e-4 suits float32.
        device: cpu, cuda or auto.
        base_url: Of a server, up to and with /v1; several for replicas.
        endpoint: Of the servers.
        concurrency: Requests in flight.
        timeout: Seconds for one request.
        retries: How often a request is tried again.
        key_variable: Environment variable with the servers' key.
        json: Print findings as JSON and nothing else.
    """
    from odeval.doctor import Doctor
    from odeval.engines import ENGINES, open_engine
    from odeval.engines.base import EngineOptions
    from odeval.errors import OdevalError

    if engine not in ENGINES:
        raise OdevalError(unknown("engine", engine, ENGINES))
    urls = tuple(base_url or ())
    options = EngineOptions(model, device, urls, endpoint, concurrency, timeout, retries, key_variable)
    opened = open_engine(engine, options)
    exact = None
    if engine != "server" or reference is not None:
        from odeval.engines.reference import Reference

        exact = Reference(reference or model, device)
    patient = Doctor(opened, _prompts(task, model), exact, samples, max_tokens, tolerance)
    findings = []
    for finding in patient.findings():
        findings.append(finding)
        if not json:
            print(f"{_MARKS[finding.status]:9}  {finding.check}: {finding.detail}", flush=True)
    statuses = [finding.status for finding in findings]
    code = 1 if "fail" in statuses else 4 if "unknown" in statuses else 0
    if json:
        rows = [asdict(finding) for finding in findings]
        found = {"schema": "odeval.doctor/1", "engine": opened.describe(), "model": model, "checks": rows}
        print(jsonlib.dumps(found, indent=1, ensure_ascii=False))
    else:
        print(f"{engine}: {statuses.count('ok')} of {len(statuses)} checks hold, {statuses.count('fail')} fail")
    return code


def _prompts(task: str | None, model: str) -> list[Prompt]:
    from odeval.tasks import load_task
    from odeval.types import Prompt

    scheme, _, rest = model.partition(":")
    if task is None and scheme == "embedded":
        task = rest.partition("/")[0]
    if task is None:
        return [Prompt(text=text) for text in _PLAIN]
    return list(load_task(task, None, _PROMPTS, None).prompts)
