"""An evaluator for tinker-cookbook: pass@k and coverage of a sampling client, through odeval's own metrics.

    evaluator = DiversityEvaluator("prompts.jsonl", tokenizer, grader="numeric", teacher=RunFolder("runs/teacher"))
    config = Config(..., evaluator_builders=[lambda: evaluator])

It is called with a sampling client and returns names and numbers, which is all that tinker-cookbook asks of an
evaluator; it needs tinker, and not tinker-cookbook.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from odeval.errors import OdevalError
from odeval.integrations.recorder import Recorder
from odeval.integrations.training_numbers import training_numbers
from odeval.sampling import completion_seed
from odeval.store import RunFolder
from odeval.tasks import load_task
from odeval.tasks.base import Task
from odeval.types import FinishReason, Prompt


class DiversityEvaluator:
    """Samples a client on fixed prompts, grades, and tells pass@k; with the teacher's run the coverage gap as well.

    Every call leaves a run folder, so that checkpoints can be compared with `odeval compare` afterwards. Token metrics
    such as retention need whole distributions, which a sampling client does not give.

    Args:
        task: Name of a task, a prompts file, or a Task.
        tokenizer: Of the model: `encode`, `decode`, and for prompts with messages `apply_chat_template`.
        out: Folder of the run folders, `call-000`, `call-001` …
        teacher: The teacher's run of the same prompts and sampling; the first call's own otherwise.
        grader: Of a prompts file.
        prompts: How many of the task's.
        samples: Completions of each.
        max_tokens: Of a completion; the task's own by default.
        seed: Of the samples.
        prefix: Of the names.

    Raises:
        OdevalError: There is no such task.
    """

    def __init__(
        self,
        task: str | Task,
        tokenizer: Any,
        out: str | Path,
        teacher: RunFolder | None = None,
        grader: str | None = None,
        prompts: int = 32,
        samples: int = 16,
        max_tokens: int | None = None,
        seed: int = 0,
        prefix: str = "odeval/",
    ) -> None:
        found = load_task(task, grader, prompts) if isinstance(task, str) else task
        self._task = replace(found, prompts=found.prompts[:prompts])
        self._tokenizer, self._out, self._teacher, self._prefix = tokenizer, Path(out), teacher, prefix
        self._samples, self._seed, self._max_tokens = samples, seed, max_tokens or found.max_tokens

    async def __call__(self, sampling_client: Any) -> dict[str, float]:
        """Evaluate a client.

        Args:
            sampling_client: tinker.SamplingClient, or whatever samples like one.

        Returns:
            Name → number; see `training_numbers`.

        Raises:
            OdevalError: tinker is not installed.
        """
        number = len(list(self._out.glob("call-*")))
        answers = await asyncio.gather(*(self._ask(sampling_client, prompt, number) for prompt in self._task.prompts))
        sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": self._max_tokens}
        folder = self._out / f"call-{number:03d}"
        with Recorder(folder, self._task.name, sampling=sampling, grader=self._task.grader) as recorder:
            for prompt, sequences in zip(self._task.prompts, answers, strict=True):
                for text, cut in sequences:
                    own = self._task.grade(prompt, text)
                    end: FinishReason = "length" if cut else "stop"
                    recorder.add(prompt, text, own.correct, answer=own.answer, finish_reason=end, why=own.why)
        self._teacher = self._teacher or recorder.run
        numbers = training_numbers(recorder.run, self._teacher)
        return {f"{self._prefix}{name}": value for name, value in numbers.items()}

    async def _ask(self, client: Any, prompt: Prompt, call: int) -> list[tuple[str, bool]]:
        try:
            import tinker
        except ImportError:
            raise OdevalError("tinker is not installed; pip install tinker") from None
        params = tinker.SamplingParams(
            max_tokens=self._max_tokens, temperature=1.0, top_p=1.0, top_k=-1,
            seed=completion_seed(self._seed, f"call {call}", prompt.prompt_id, 0) % 2**31,
        )  # fmt: skip
        asked = tinker.ModelInput.from_ints(self._encoded(prompt))
        found = await client.sample_async(prompt=asked, num_samples=self._samples, sampling_params=params)
        return [
            (self._tokenizer.decode(list(one.tokens), skip_special_tokens=True), one.stop_reason == "length")
            for one in found.sequences
        ]

    def _encoded(self, prompt: Prompt) -> list[int]:
        if prompt.messages is None:
            return [int(token) for token in self._tokenizer.encode(prompt.text or "")]
        turns = [dict(turn) for turn in prompt.messages]
        text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return [int(token) for token in self._tokenizer.encode(text, add_special_tokens=False)]
