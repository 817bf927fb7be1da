"""The doctor finds what it is there to find: every planted fault fails its own check, and a sound engine none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from openai_server import handler_for, serving
from scipy import stats
from tiny_models import WORDS, tiny

from odeval.cli import run
from odeval.doctor import Doctor
from odeval.engines.hf import HfEngine
from odeval.engines.reference import Reference
from odeval.errors import OdevalError
from odeval.goodness import chi_square, neighbour_agreement
from odeval.testbed import embedded
from odeval.types import Completion, Prompt, SamplingParams

MODEL = tiny("llama", sharpness=8.0)
PROMPTS = [Prompt(text=" ".join(WORDS[p : p + 4])) for p in range(8)]
Drawn = list[list[Completion]]
DISTINCT = "Distinct samples, as many as chance gives"
SAME, EXTENDS = "Same seed, same tokens", "8 samples extend the first 4"
FOLLOWS, CUT = "First token follows the model", "First token follows temperature 0.7, top_p 0.9, top_k 20"
FORCED = "Log-probabilities equal a pass over the whole sequence"
RAW = "Log-probabilities are the model's own at temperature 0.5, top_p 0.8"
NEIGHBOURS, COPIES = "Neighbouring seeds are independent", "No duplicate stream across prompts"
WHOLE, READS = "One whole completion for every seed", "Prompts read the same tokens"


class Faulty(HfEngine):
    """A sound engine with one fault in what it is asked, or in what it returns."""

    def __init__(self, ask: Callable[..., Any] | None = None, answer: Callable[[Drawn], Drawn] | None = None) -> None:
        super().__init__(MODEL)
        self.ask, self.answer = ask, answer

    def sample(self, prompts: Sequence[Any], seeds: Sequence[Sequence[int]], params: SamplingParams) -> Drawn:
        if self.ask is not None:
            prompts, seeds, params = self.ask(prompts, seeds, params)
        drawn = super().sample(prompts, seeds, params)
        return drawn if self.answer is None else self.answer(drawn)


def each(change: Callable[[Completion], Completion]) -> Callable[[Drawn], Drawn]:
    return lambda drawn: [[change(completion) for completion in own] for own in drawn]


def colder(prompts: Any, seeds: Any, params: SamplingParams) -> Any:
    return prompts, seeds, replace(params, temperature=0.6 * params.temperature)


def unseeded() -> Callable[..., Any]:
    rng = np.random.default_rng(0)
    return lambda prompts, seeds, params: (
        prompts, [[int(rng.integers(2**62)) for _ in own] for own in seeds], params,
    )  # fmt: skip


def by_place(prompts: Any, seeds: Any, params: Any) -> Any:
    """A request's seed is its first one's, and its children count up, as in vLLM with n > 1."""
    return prompts, [[own[-1] + i for i in range(len(own))] for own in seeds], params


def processed(drawn: Drawn) -> Drawn:
    """Log-probabilities after temperature: here of every token twice as far from 0."""
    return each(lambda c: replace(c, logprobs=2 * np.asarray(c.logprobs)))(drawn)


FAULTS: dict[str, tuple[Faulty, set[str]]] = {
    "seeds are ignored": (Faulty(unseeded()), {SAME, EXTENDS}),
    "children count up from the request's seed": (Faulty(by_place), {SAME, EXTENDS}),
    "one seed for all": (Faulty(lambda p, s, x: (p, [[5] * len(own) for own in s], x)), {DISTINCT, NEIGHBOURS}),
    "seeds are halved": (Faulty(lambda p, s, x: (p, [[i >> 12 for i in own] for own in s], x)), {NEIGHBOURS}),
    "two shards share their seeds": (
        Faulty(lambda p, s, x: (p, [[*own[:8], *own[:8]] if len(own) == 16 else own for own in s], x)),
        {DISTINCT, COPIES},
    ),
    "a generation_config cuts at top_k 3": (
        Faulty(lambda p, s, x: (p, s, replace(x, top_k=3))), {FOLLOWS, CUT},
    ),
    "temperature is off": (Faulty(colder), {FOLLOWS, CUT}),
    "top_k and top_p are ignored": (Faulty(lambda p, s, x: (p, s, replace(x, top_k=0, top_p=1.0))), {CUT}),
    "another prompt is read": (Faulty(lambda p, s, x: ([[*q, 9] for q in p], s, x)), {READS}),
    "log-probabilities after temperature": (Faulty(answer=processed), {FORCED, RAW}),
    "log-probabilities are off by 0.001": (
        Faulty(answer=each(lambda c: replace(c, logprobs=np.asarray(c.logprobs) - 1e-3))), {FORCED, RAW},
    ),
    "the stop token is missing": (
        Faulty(answer=each(lambda c: replace(c, token_ids=c.token_ids[:-1]))), {WHOLE},
    ),
    "an answer is lost": (Faulty(answer=lambda drawn: [*drawn[:-1], drawn[-1][:-1]]), {WHOLE}),
}  # fmt: skip


def findings(engine: Any, samples: int = 1000, exact: bool = True) -> dict[str, str]:
    doctor = Doctor(engine, PROMPTS, Reference(MODEL) if exact else None, samples, max_tokens=8)
    found = {}
    try:
        for finding in doctor.findings():
            found[finding.check] = finding.status
    except (ValueError, IndexError):
        pass
    return found


def test_a_sound_engine_passes() -> None:
    found = findings(HfEngine(MODEL))
    assert set(found.values()) == {"ok"}
    assert len(found) == 11


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_check(fault: str) -> None:
    engine, expected = FAULTS[fault]
    found = findings(engine)
    failed = {check for check, status in found.items() if status == "fail"}
    assert failed >= expected, found
    assert "ok" in found.values() or expected == {WHOLE}


def test_what_cannot_be_measured_is_not_ok() -> None:
    silent = each(lambda c: replace(c, token_ids=None, logprobs=None, prompt_token_ids=None))
    found = findings(Faulty(answer=silent))
    unknown = {READS, DISTINCT, FOLLOWS, CUT, FORCED, RAW}
    assert {check for check, status in found.items() if status == "unknown"} == unknown
    assert {status for check, status in found.items() if check not in unknown} == {"ok"}
    alone = findings(HfEngine(MODEL), exact=False)
    assert {check for check, status in alone.items() if status == "unknown"} == {READS, FOLLOWS, CUT, FORCED}
    cooled = Faulty()

    def hot(prompts: Any, seeds: Any, params: SamplingParams) -> Any:
        cooled.answer = processed if params.temperature < 1 else None
        return prompts, seeds, params

    cooled.ask = hot
    assert findings(cooled, exact=False)[RAW] == "fail", "without a reference, by the first token's two values"


def test_too_little_to_judge_by() -> None:
    with pytest.raises(OdevalError, match="1 prompts, 50 samples: at least 2 prompts and 100 samples are needed"):
        Doctor(HfEngine(MODEL), PROMPTS[:1], None, samples=50)


def test_chi_square_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    expected = np.array([40.0, 25, 20, 9, 3, 2, 1])
    for _ in range(20):
        counts = rng.multinomial(100, expected / 100)
        statistic, degrees, p_value = chi_square(counts, expected)
        theirs = stats.chisquare([*counts[:4], counts[4:].sum()], [40, 25, 20, 9, 6])
        assert (statistic, p_value) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-12)
        assert degrees == 4
    few = chi_square(np.array([60, 38, 2]), np.array([58.0, 39, 3]))
    assert few is not None
    assert few[0] == pytest.approx(stats.chisquare([60, 40], [58, 42]).statistic)
    assert chi_square(np.array([98, 2]), np.array([97.0, 3])) is None, "one cell tells nothing"
    z = [neighbour_agreement(rng.integers(0, 5, 300))[2] for _ in range(40)]
    assert abs(np.mean(z)) < 0.6
    assert 0.6 < np.std(z) < 1.5


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(embedded("graph_paths", "teacher"))
    assert run(["doctor", "hf", teacher, "--samples", "200", "--max-tokens", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "hf: 11 of 11 checks hold, 0 fail"
    assert all(line.startswith("✓ ok") for line in lines[:-1])
    assert run(["doctor", "nothing", teacher]) == 2
    assert "unknown engine 'nothing': expected one of hf, server" in capsys.readouterr().err


def test_a_server_is_judged_by_what_it_tells(capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(embedded("graph_paths", "teacher"))
    options = ["--task", "graph_paths", "--samples", "100", "--max-tokens", "2", "--concurrency", "2"]
    with serving(handler_for(HfEngine(teacher))) as url:
        assert run(["doctor", "server", "m", "--base-url", url, *options]) == 4
        assert "? unknown  First token follows the model: no reference model" in capsys.readouterr().out
        assert run(["doctor", "server", "m", "--base-url", url, *options, "--reference", teacher, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["engine"]["base_urls"] == [url]
        assert {row["status"] for row in found["checks"]} == {"ok"}
        other = str(embedded("graph_paths", "warm_start"))
        assert run(["doctor", "server", "m", "--base-url", url, *options, "--reference", other]) == 1
        assert "✕ fail     Log-probabilities equal a pass" in capsys.readouterr().out
