"""Does an engine sample honestly? The contract that every engine must hold, as checks on what it returns.

A check is "ok", "fail" or "unknown"; what could not be measured is never ok. Letters: P prompts, S seeds, N first
tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from scipy import special

from odeval.engines.base import Engine
from odeval.errors import OdevalError
from odeval.goodness import chi_square, copies, neighbour_agreement
from odeval.sampling import completion_seed
from odeval.streams import copied_streams
from odeval.types import Completion, Prompt, SamplingParams, content_hash

Drawn = list[list[Completion]]

_SEEDS = 16  # per prompt
_CHANCE = 1e-4  # probability under which a deviation is no accident
_CUT: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "top_k": 20}
_COLD: dict[str, Any] = {"temperature": 0.5, "top_p": 0.8}


class Exact(Protocol):
    """What the engine's answers are held against; see `odeval.engines.reference.Reference`."""

    def encode(self, prompt: Prompt) -> list[int]: ...
    def first_token(self, prompt: Sequence[int], params: SamplingParams) -> np.ndarray: ...
    def logprobs(self, prompt: Sequence[int], tokens: Sequence[int]) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    status: Literal["ok", "fail", "unknown"]
    detail: str


class Doctor:
    """Draws a few completions once, and examines them from all sides.

    Args:
        engine: The patient.
        prompts: P of them, at least 2, with answers that differ from sample to sample.
        exact: The same weights by other means; without, what needs them is unknown.
        samples: N, first tokens of one prompt that a distribution is judged by.
        max_tokens: Of the completions.
        tolerance: Nats that a log-probability may be off by.

    Raises:
        OdevalError: Fewer than 2 prompts, or too few samples to judge a distribution by.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        exact: Exact | None,
        samples: int = 1000,
        max_tokens: int = 24,
        tolerance: float = 1e-4,
    ) -> None:
        if len(prompts) < 2 or samples < 100:
            raise OdevalError(
                f"{len(prompts)} prompts, {samples} samples: at least 2 prompts and 100 samples are needed"
            )
        self.engine, self.exact, self.samples, self.tolerance = engine, exact, samples, tolerance
        self.prompts = list(prompts)
        self.asked = [engine.encode(prompt) for prompt in prompts]
        self.params = SamplingParams(n=1, max_tokens=max_tokens)
        self.seeds = [[completion_seed(0, "doctor", p.prompt_id, s) for s in range(_SEEDS)] for p in prompts]
        self.drawn: Drawn = []

    def findings(self) -> Iterator[Finding]:
        """Make every check, in order, as soon as its completions are there."""
        self.drawn = self.engine.sample(self.asked, self.seeds, self.params)
        yield self._complete()
        yield self._prompt_tokens()
        yield self._same_seed()
        yield self._extension()
        yield self._copies()
        yield self._repeats()
        self.liveliest = max(range(len(self.asked)), key=lambda p: len({_first(c) for c in self.drawn[p]}))
        yield self._neighbours()
        yield self._first_token("First token follows the model", self.params)
        cut = replace(self.params, **_CUT)
        name = "temperature {temperature}, top_p {top_p}, top_k {top_k}".format(**_CUT)
        yield self._first_token(f"First token follows {name}", cut)
        yield self._forced("Log-probabilities equal a pass over the whole sequence", self.drawn)
        yield self._raw()

    def _complete(self) -> Finding:
        name, most = "One whole completion for every seed", self.params.max_tokens
        if [len(own) for own in self.drawn] != [len(own) for own in self.seeds]:
            return Finding(name, "fail", f"{sum(map(len, self.drawn))} completions for {self._count()} seeds")
        errors = sum(c.finish_reason not in ("stop", "length") for c in self._all())
        known = [c for c in self._all() if c.token_ids is not None]
        wrong = sum(
            len(c.token_ids) > most or (c.finish_reason == "length") > (len(c.token_ids) == most) for c in known
        )
        uneven = sum(c.logprobs is not None and len(c.logprobs) != len(c.token_ids) for c in known)
        if errors or wrong or uneven or any(not len(c.token_ids) for c in known):
            detail = (
                f"{errors} errors, {wrong} of another length than their finish_reason says, {uneven} unevenly scored"
            )
            return Finding(name, "fail", detail)
        told = "with token ids" if len(known) == self._count() else "without token ids: metrics of texts only"
        return Finding(name, "ok" if len(known) in (0, self._count()) else "fail", f"{self._count()}, {told}")

    def _prompt_tokens(self) -> Finding:
        name = "Prompts read the same tokens"
        if self.exact is None:
            return Finding(name, "unknown", "no reference model")
        given = [own[0].prompt_token_ids for own in self.drawn]
        if any(ids is None for ids in given):
            return Finding(name, "unknown", "the engine does not tell what it read")
        wrong = [
            prompt.prompt_id
            for prompt, ids in zip(self.prompts, given, strict=True)
            if list(ids or ()) != self.exact.encode(prompt)
        ]
        if wrong:
            return Finding(
                name, "fail", f"{len(wrong)} of {len(given)} differ from the reference model's, first {wrong[0]}"
            )
        return Finding(name, "ok", f"{len(given)} prompts")

    def _same_seed(self) -> Finding:
        again = self.engine.sample(self.asked[::-1], [own[::-1] for own in self.seeds[::-1]], self.params)
        return self._equal("Same seed, same tokens", self.drawn, [own[::-1] for own in again[::-1]], "in another order")

    def _extension(self) -> Finding:
        four, eight = (self.engine.sample(self.asked, [own[:n] for own in self.seeds], self.params) for n in (4, 8))
        return self._equal("8 samples extend the first 4", four, [own[:4] for own in eight], "beside 4 more")

    def _equal(self, name: str, left: Drawn, right: Drawn, how: str) -> Finding:
        pairs = [pair for own, other in zip(left, right, strict=True) for pair in zip(own, other, strict=True)]
        differ = sum(_said(a) != _said(b) for a, b in pairs)
        detail = f"{len(pairs)} completions, asked {how}"
        if differ:
            detail = f"{differ} of {len(pairs)} completions differ when asked {how}"
        return Finding(name, "fail" if differ else "ok", detail)

    def _copies(self) -> Finding:
        first, second, p_value = copied_streams(self._table())
        if p_value < _CHANCE:
            detail = f"seeds {first} and {second} of a prompt agree too often (p {p_value:.0e})"
            return Finding("No duplicate stream across prompts", "fail", detail)
        return Finding("No duplicate stream across prompts", "ok", f"{len(self.prompts)} prompts × {_SEEDS} seeds")

    def _repeats(self) -> Finding:
        name, table = "Distinct samples, as many as chance gives", self._table()
        distinct = sum(len({_said(c) for c in own}) for own in self.drawn)
        detail = f"{distinct} of {self._count()} distinct"
        if distinct == len(self.prompts):
            return Finding(name, "fail", f"{detail}: every seed of a prompt gives one answer")
        if table["logprob"].isna().any():
            return Finding(name, "unknown", f"{detail}; without log-probabilities chance is not known")
        answers, logprobs = (
            table.pivot(index="prompt_id", columns="sample_id", values=x) for x in ("digest", "logprob")
        )
        p_value = copies(answers.to_numpy(), logprobs.to_numpy())
        return Finding(name, "fail" if p_value < _CHANCE else "ok", f"{detail}, p {p_value:.2g}")

    def _neighbours(self) -> Finding:
        """Seeds s, s + 1, … : an engine that gives a request's samples seed + index would share them here."""
        name, start = "Neighbouring seeds are independent", 2**62 + 11
        codes = self._firsts([start + i * 2**11 for i in range(self.samples)], self.params)  # 53 bits reach a server
        if len(set(codes.tolist())) < 2:
            return Finding(name, "unknown" if self._certain() else "fail", "every seed gives the same first token")
        share, chance, z = neighbour_agreement(codes)
        detail = f"{share:.1%} of neighbours agree, chance {chance:.1%} ({z:+.1f} standard errors)"
        return Finding(name, "fail" if 2 * special.ndtr(-abs(z)) < _CHANCE else "ok", detail)

    def _first_token(self, name: str, params: SamplingParams) -> Finding:
        if self.exact is None or self.drawn[0][0].token_ids is None:
            missing = "no reference model" if self.exact is None else "no token ids"
            return Finding(name, "unknown", missing)
        seeds = [completion_seed(1, "doctor", name, s) for s in range(self.samples)]
        counts = np.bincount(self._firsts(seeds, params).astype(np.int64))
        expected = self.exact.first_token(self._read(self.liveliest), params) * self.samples
        if len(counts) > len(expected) or counts[expected[: len(counts)] == 0].any():
            return Finding(name, "fail", "tokens were drawn that have no probability")
        found = chi_square(np.pad(counts, (0, len(expected) - len(counts))), expected)
        if found is None:
            return Finding(name, "unknown", "the model is nearly certain of the first token of every prompt")
        statistic, degrees, p_value = found
        detail = f"χ² {statistic:.1f} on {degrees} degrees of freedom, p {p_value:.2g}, {self.samples} draws"
        return Finding(name, "fail" if p_value < _CHANCE else "ok", detail)

    def _forced(self, name: str, drawn: Drawn) -> Finding:
        if self.exact is None or any(c.logprobs is None or c.token_ids is None for own in drawn for c in own):
            missing = "no reference model" if self.exact is None else "the engine gives none"
            return Finding(name, "unknown", missing)
        worst = max(
            float(np.abs(self.exact.logprobs(self._read(p), c.token_ids) - np.asarray(c.logprobs)).max())
            for p, own in enumerate(drawn)
            for c in own
        )
        wrong = not worst <= self.tolerance
        return Finding(
            name, "fail" if wrong else "ok", f"largest difference {worst:.1e} nats, {self.tolerance:g} allowed"
        )

    def _raw(self) -> Finding:
        cold = self.engine.sample(self.asked, self.seeds, replace(self.params, **_COLD))
        name = "Log-probabilities are the model's own at temperature {temperature}, top_p {top_p}".format(**_COLD)
        if self.exact is not None:
            return self._forced(name, cold)
        seen: dict[tuple[int, Any], list[float]] = {}
        for drawn in (self.drawn, cold):
            for p, own in enumerate(drawn):
                for c in own:
                    if c.logprobs is None or c.token_ids is None:
                        return Finding(name, "unknown", "the engine gives none")
                    seen.setdefault((p, int(c.token_ids[0])), []).append(float(c.logprobs[0]))
        worst = max(max(values) - min(values) for values in seen.values())
        detail = f"those of one first token differ by {worst:.1e} nats, {self.tolerance:g} allowed"
        return Finding(name, "fail" if worst > self.tolerance else "ok", detail)

    def _firsts(self, seeds: list[int], params: SamplingParams) -> np.ndarray:
        """First token [N] of completions of the liveliest prompt; a hash of the text where ids are not known."""
        short = replace(params, max_tokens=1)
        drawn = self.engine.sample([self.asked[self.liveliest]], [seeds], short)[0]
        return np.array([_first(c) for c in drawn])

    def _certain(self) -> bool:
        """Whether the model would nearly always begin with the same token."""
        return self.exact is not None and bool(
            self.exact.first_token(self._read(self.liveliest), self.params).max() > 1 - 5 / self.samples
        )

    def _read(self, p: int) -> list[int]:
        """Token ids of a prompt as the engine read them, or as the reference does."""
        given = self.drawn[p][0].prompt_token_ids
        assert given is not None or self.exact is not None
        return list(given) if given is not None else self.exact.encode(self.prompts[p])  # type: ignore[union-attr]

    def _table(self) -> pd.DataFrame:
        rows = [
            (
                p,
                s,
                int(content_hash(list(map(str, _said(c)))), 16) >> 1,
                math.nan if c.logprobs is None else sum(c.logprobs),
            )
            for p, own in enumerate(self.drawn)
            for s, c in enumerate(own)
        ]
        return pd.DataFrame(rows, columns=["prompt_id", "sample_id", "digest", "logprob"])

    def _all(self) -> Iterator[Completion]:
        return (c for own in self.drawn for c in own)

    def _count(self) -> int:
        return sum(map(len, self.seeds))


def _said(completion: Completion) -> tuple[Any, ...]:
    ids = completion.token_ids
    return (completion.text,) if ids is None else tuple(int(i) for i in ids)


def _first(completion: Completion) -> int:
    if completion.token_ids is not None:
        return int(completion.token_ids[0]) if len(completion.token_ids) else -1
    return _digest(completion.text)


def _digest(said: Any) -> int:
    return int(content_hash(said), 16) >> 1
