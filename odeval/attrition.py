"""What completions without a grade could change: pass@k if all of them were wrong, and if all of them were right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from odeval.measure import Measured
from odeval.metrics.passk import pass_at_k
from odeval.types import PromptIds


def pass_bounds(run: Measured, prompt_ids: PromptIds, ks: Sequence[int]) -> dict[str, Any] | None:
    """Bound pass@k over what the missing grades may have been.

        low: c of n + u,   high: c + u of n + u,   u completions of a prompt without a grade

    Args:
        run: With its completions; counts alone do not tell how many were not graded.
        prompt_ids: Prompts, in any order.
        ks: Grid; points above every prompt's n + u are left out.

    Returns:
        {"k", "low", "high", "ungraded"}; None where every completion is graded, or that is not known.

    Source:
        Ours; the worst and best case of Manski 1989.
    """
    if not run.completions or run.completions.knows_all("correct"):
        return None
    drawn = pd.Series(run.completions.num_samples, run.completions.prompt_ids).reindex(prompt_ids, fill_value=0)
    n, c = (run.counts[name].reindex(prompt_ids, fill_value=0).to_numpy(dtype=np.int64) for name in ("n", "c"))
    unknown = drawn.to_numpy() - n
    grid = [k for k in ks if k <= drawn.max()]
    low, high = (np.nanmean(pass_at_k(drawn.to_numpy(), right, grid), axis=0) for right in (c, c + unknown))
    return {"k": grid, "low": low.tolist(), "high": high.tolist(), "ungraded": int(unknown.sum())}
