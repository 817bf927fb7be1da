"""The student's own completions through vLLM, in this process, with the weights that it has at every step."""

from __future__ import annotations

from collections.abc import Sequence

from odeval.engines.hf_model import HfModel
from odeval.engines.vllm import VllmEngine
from odeval.types import Completion, SamplingParams

_PROBES = 3  # prompts whose log-probabilities are compared after each hand-over


class SyncedVllm:
    """Hands the student's weights to vLLM before it samples, and proves each time that they arrived.

    Args:
        model: Folder of the student at its start.
        student: As it is trained.
        token_ids: Of the prompts; the first of at least two tokens are probed.
        memory: Share of a GPU's memory that vLLM takes for itself.

    Raises:
        OdevalError: vLLM is not installed, or cannot load the model.
    """

    def __init__(self, model: str, student: HfModel, token_ids: Sequence[Sequence[int]], memory: float) -> None:
        self._engine, self._student = VllmEngine(model, memory=memory), student
        self._probe = [(ids[:1], ids[1:]) for ids in token_ids if len(ids) > 1][:_PROBES]

    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> list[list[Completion]]:
        """Draw completions as `VllmEngine.sample` does.

        Raises:
            OdevalError: vLLM samples with other weights than the student's.
        """
        self._engine.load(self._student, self._probe)
        return self._engine.sample(prompts, seeds, params)
