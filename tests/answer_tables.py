"""Tables of completions from answers alone: what coverage and diversity are computed from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def table(answers: Sequence[Sequence[str | None]], right: str = "abcdef") -> pd.DataFrame:
    """Completions of prompts p0, p1 …: an answer among `right` is right, "?" is not graded, None is wrong."""
    rows = [
        (f"p{p:05d}", s, np.nan if answer == "?" else float(answer is not None and answer in right), answer)
        for p, own in enumerate(answers)
        for s, answer in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "sample_id", "correct", "answer"])


def random_tables(seed: int = 0, prompts: int = 12) -> list[pd.DataFrame]:
    """Uneven n, wrong answers, no answers, and completions without a grade."""
    generator = np.random.default_rng(seed)
    names = ["a", "b", "c", "d", "w", "x", None, "?"]
    return [
        table([[names[i] for i in generator.integers(0, 8, generator.integers(0, 9))] + ["?"] for _ in range(prompts)])
        for _ in range(2)
    ]
