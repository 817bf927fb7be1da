"""Every so often: fixed prompts, sampled and graded, told by odeval's own metrics and judged by the gate's own rules.

A probe is a run folder like any other (`output_dir/probes/step-000050`), beside the teacher's and that of the start,
sampled once. So `odeval compare` reads it, and nothing is computed here that an audit would not compute as well.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from odeval.atomic import write_json
from odeval.compare import CompareSettings, compare
from odeval.config import GateConfig, load_yaml
from odeval.engines.hf import HfEngine
from odeval.errors import OdevalError
from odeval.gate import as_json, judge
from odeval.grading import grade
from odeval.rules import parse_rule
from odeval.sampling import sample
from odeval.store import RunFolder
from odeval.tasks import load_task
from odeval.tasks.base import Task
from odeval.testbed import WORLDS
from odeval.types import ModelRef, SamplingParams
from odkd.config import TrainConfig
from odkd.ledger import Ledger
from odkd.loggers import Loggers
from odkd.models import Pair
from odkd.ranks import Ranks


class Probe:
    """The probes of one run: what they say, which was best, and whether to stop.

    Args:
        config: eval_steps, probe_*, rules, max_coverage_gap, early_stopping_patience.
        pair: The models; the best student is written from here.
        student: Samples with the weights it has.
        teacher: Sampled once.

    Raises:
        OdevalError: The task or the rules file is no good.
    """

    def __init__(self, config: TrainConfig, pair: Pair, student: HfEngine, teacher: HfEngine) -> None:
        self._config, self._pair = config, pair
        self._engines = {"student": student, "teacher": teacher}
        self._rules = load_yaml(Path(config.rules), GateConfig) if config.rules else None
        for rule in self._rules.rules if self._rules else ():
            parse_rule(rule, str(config.rules))  # a mistake in it is told before anything is sampled
        self._task = probe_task(config)
        self._folder = Path(config.output_dir) / "probes"
        self.best: dict[str, Any] | None = None
        self.since_best = 0
        self.last: dict[str, Any] | None = None
        self.stop = False

    def due(self, step: int) -> bool:
        """Tell whether a probe belongs after so many updates; the last update has one."""
        every = self._config.eval_steps or 1
        return step % every == 0 or step == self._config.max_steps

    def measure(self, step: int, ranks: Ranks, log: Loggers | None, ledger: Ledger) -> None:
        """Probe the student as it is after `step` updates; rank 0 samples, all learn whether to stop."""
        if ranks.rank == 0:
            self._pair.student.model.eval()
            with ledger.phase("probe"):
                row = self._row(step)
                self._judge_best(row)
            if log:
                log.write(row, "probes")
        patience = self._config.early_stopping_patience
        own = patience is not None and self.since_best >= patience
        self.stop = any(ranks.gather([own]))

    def _row(self, step: int) -> dict[str, Any]:
        candidate = self._sampled("student", f"step-{step:06d}")
        teacher = self._sampled("teacher", "teacher")
        start = self._sampled("student", "step-000000") if step == 0 else RunFolder(self._folder / "step-000000")
        comparison = compare(
            [candidate] if step else [],
            teacher=teacher,
            baseline=start,
            settings=CompareSettings(threshold=self._config.entropy_threshold, examples=0),
        )
        own = comparison["runs"][-1]
        ks = own["pass_at_k"]["k"]
        gap = [
            t - s for t, s in zip(comparison["runs"][0]["pass_at_k"]["value"], own["pass_at_k"]["value"], strict=True)
        ]
        row = {
            "step": step,
            "pass@k": dict(zip(map(str, ks), own["pass_at_k"]["value"], strict=True)),
            "pass@k_low": dict(zip(map(str, ks), own["pass_at_k"]["low"], strict=True)),
            "pass@k_high": dict(zip(map(str, ks), own["pass_at_k"]["high"], strict=True)),
            "coverage_gap": dict(zip(map(str, ks), gap, strict=True)),
            "distinct_correct": own["metrics"]["distinct_correct"]["value"],
            "truncated_fraction": own["metrics"]["truncated_fraction"]["value"],
            "verdict": None,
        }
        if step:
            judgements = judge(comparison, self._rules, str(self._config.rules or "default rules"))
            row["verdict"] = judgements[0].verdict
            write_json(candidate.path / "verdict.json", as_json(judgements, self._rules))
        return row

    def _sampled(self, who: str, name: str) -> RunFolder:
        run = RunFolder(self._folder / name)
        params = SamplingParams(n=self._config.probe_samples, max_tokens=self._task.max_tokens, seed=self._config.seed)
        ref = ModelRef(path=name, fingerprint=f"probe {name}")  # its seeds; the weights are those of the step
        sample(self._engines[who], ref, self._task, params, run)
        grade(run, self._task.grade, self._task.grader)
        return run

    def _judge_best(self, row: dict[str, Any]) -> None:
        """Best is the highest pass@1 among probes that keep the constraint; the start counts as one."""
        self.last = row
        limit = self._config.max_coverage_gap
        top = max(row["coverage_gap"], key=int)
        kept = (limit is None or row["coverage_gap"][top] <= limit) and (
            self._rules is None or row["verdict"] != "FAIL"
        )
        row["eligible"] = kept
        if kept and (self.best is None or row["pass@k"]["1"] > self.best["pass@k"]["1"]):
            self.best, self.since_best = row, 0
            target = Path(self._config.output_dir) / "best"
            shutil.rmtree(target, ignore_errors=True)
            self._pair.write(target)
        elif row["step"]:
            self.since_best += 1

    def take_best(self, out: Path) -> int | None:
        """Copy the best probe's student to output_dir; None where no probe kept the constraint."""
        if self.best is None:
            return None
        shutil.copytree(out / "best", out, dirs_exist_ok=True)
        return int(self.best["step"])

    def summary(self) -> dict[str, Any]:
        """For training.json: best and last probe, and whether the run stopped early."""
        return {"best": self.best, "last": self.last, "stopped_early": self.stop}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "last": self.last, "since_best": self.since_best}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.best, self.last, self.since_best = state["best"], state["last"], state["since_best"]


def probe_task(config: TrainConfig) -> Task:
    """Find the prompts that are probed: of a world its selection split, which is neither trained on nor reported.

    Raises:
        OdevalError: There is none, or it cannot be graded.
    """
    name = config.probe_task or config.dataset_name
    limit = config.probe_prompts
    if name in WORLDS:
        world = WORLDS[name]
        return replace(world.task(limit), prompts=world.prompts("selection", limit))
    if config.probe_task is None and config.probe_grader is None:
        raise OdevalError(
            f"eval_steps: {name} is a prompts file, and a probe needs a grader; set probe_grader (exact, numeric …), "
            "or probe_task"
        )
    return load_task(name, config.probe_grader, limit, config.max_completion_length)
