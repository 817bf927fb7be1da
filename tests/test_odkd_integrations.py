"""Other people's loops: a recorder for anybody's, a callback for TRL's, an evaluator for tinker's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from odeval.compare import compare
from odeval.engines.hf import HfEngine
from odeval.engines.hf_model import HfModel
from odeval.errors import OdevalError
from odeval.grading import grade
from odeval.integrations.recorder import Recorder
from odeval.sampling import sample
from odeval.store import RunFolder
from odeval.tasks import load_task
from odeval.testbed import checkpoint
from odeval.types import Prompt, SamplingParams

START, TEACHER = checkpoint("graph_paths", "warm_start"), checkpoint("graph_paths", "teacher")


def test_what_is_recorded_is_what_is_compared(tmp_path: Path) -> None:
    runs = {}
    for name, right in (("old", {0, 1, 2}), ("new", {0})):
        with Recorder(tmp_path / name) as recorder:
            for question in range(3):
                for sample_id in range(4):
                    recorder.add(
                        f"question {question}", f"answer {sample_id}", sample_id in right, answer=str(sample_id)
                    )
            recorder.add("question 0", "cut", None, finish_reason="length", why="timeout")
        runs[name] = recorder.run
    told = compare([runs["new"]], baseline=runs["old"])
    candidate = next(run for run in told["runs"] if run["role"] == "candidate")
    assert candidate["pass_at_k"]["value"][0] == pytest.approx(1 / 4)  # what was not graded is not wrong
    assert candidate["counts"] == {"n": [4, 4, 4], "c": [1, 1, 1]}
    assert candidate["metrics"]["ungraded_fraction"]["value"] == pytest.approx(1 / 13)
    assert told["pairs"][0]["pass_at_k"]["difference"][0] == pytest.approx(-1 / 2)


def test_a_crash_loses_nothing_that_was_added(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.add("q", "a", True)
    recorder.add("q", "b", False)
    with (tmp_path / "run" / "recorded.jsonl").open("a") as file:
        file.write('{"text": "q", "comp')  # the process ended here
    recorder._file.close()
    with Recorder(tmp_path / "run") as again:
        assert len(again) == 2
        again.add("q", "c", True)
    with Recorder(tmp_path / "run") as longer:  # and a closed one can go on
        longer.add([{"role": "user", "content": "r"}], "d", True)
    assert len(RunFolder(tmp_path / "run").keys(tmp_path / "run" / "samples")) == 4
    assert {prompt.messages is None for prompt in longer.run.prompts()} == {True, False}
    with Recorder(tmp_path / "run") as last:
        assert len(last) == 4


def test_an_error_inside_keeps_the_lines_and_writes_no_run(tmp_path: Path) -> None:
    def loop() -> None:
        with Recorder(tmp_path / "run") as recorder:
            recorder.add("s", "e", True)
            raise KeyError

    with pytest.raises(KeyError):
        loop()
    assert not (tmp_path / "run" / "run.json").exists()
    with Recorder(tmp_path / "run") as recorder:
        assert len(recorder) == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_wrong_records_get_one_line(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    for arguments, line in [
        (("q", "a", 1), "correct 1: expected True, False, or None for a completion that was not graded"),
        (("q", None, True), "completion is NoneType: expected text"),
        (([], "a", True), "prompt: expected a text, or a list of {role, content} turns"),
    ]:
        with pytest.raises(OdevalError) as caught:
            recorder.add(*arguments)  # type: ignore[arg-type]
        assert str(caught.value) == line
    with pytest.raises(OdevalError, match=r"recorded.jsonl: holds no completions"):
        recorder.close()
    with pytest.raises(OdevalError, match=r"run: the recorder is closed; open another one to go on"):
        recorder.add("q", "a", True)
    task = load_task("graph_paths", limit=2)
    other = RunFolder(tmp_path / "other")
    sample(HfEngine(START, "cpu"), HfModel(START, "cpu").ref(), task, SamplingParams(n=1, max_tokens=8), other)
    with pytest.raises(OdevalError, match=r"other: holds a run that was not recorded here; choose another folder"):
        Recorder(tmp_path / "other")
    assert Prompt(text="q").prompt_id


def trl_run(folder: Path, callback: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DistillationConfig, DistillationTrainer

    from odeval.tasks import graph_paths

    tokenizer = AutoTokenizer.from_pretrained(START)
    settings = DistillationConfig(
        output_dir=str(folder), max_steps=4, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1,
        use_cpu=True, bf16=False, max_completion_length=8, report_to=[], save_strategy="no", seed=3,
        gradient_checkpointing=False, disable_tqdm=True, top_k=0, top_p=1.0,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model=AutoModelForCausalLM.from_pretrained(START, dtype="float32"),
        teacher_model=AutoModelForCausalLM.from_pretrained(TEACHER, dtype="float32"),
        args=settings,
        train_dataset=datasets.Dataset.from_list([{"prompt": p.text} for p in graph_paths.prompts("train", 40)]),
        processing_class=tokenizer,
    )
    if callback is not None:
        callback.attach(trainer)
    trainer.train()
    return trainer.state.log_history, trainer.model.state_dict()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TRL's and datasets' own
def test_trl_logs_carry_diversity_and_train_the_same(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    from odeval.integrations.trl import DiversityCallback

    plain, weights = trl_run(tmp_path / "plain", None)
    probed = DiversityCallback("graph_paths", TEACHER, every=2, prompts=10, samples=8, out=tmp_path / "probes")
    rows, same = trl_run(tmp_path / "probed", probed)
    for name in weights:
        assert weights[name].equal(same[name]), name
    losses = [row for row in rows if "loss" in row]
    assert [row["loss"] for row in losses] == [row["loss"] for row in plain if "loss" in row]
    kept = {"loss", "grad_norm", "learning_rate", "entropy", "completions/mean_length"}
    for row, other in zip(losses, (row for row in plain if "loss" in row), strict=True):
        assert kept <= set(row)
        assert {name for name in row if not name.startswith("odeval/")} == set(other)
        assert ("odeval/pass@1" in row) == (row["step"] in (2, 4))
    for row in losses[1::2]:
        assert {"odeval/pass@8", "odeval/coverage_gap@8", "odeval/retention", "odeval/distinct_correct"} <= set(row)
        assert 0 <= row["odeval/retention"] <= 1
    told = compare([RunFolder(tmp_path / "probes" / "step-000004")], teacher=RunFolder(tmp_path / "probes" / "teacher"))
    candidate = next(run for run in told["runs"] if run["role"] == "candidate")
    assert losses[3]["odeval/pass@1"] == candidate["pass_at_k"]["value"][0]
    assert losses[3]["odeval/retention"] == candidate["metrics"]["retention@teacher"]["value"]


def test_tinker_evaluator_tells_what_the_run_holds(tmp_path: Path) -> None:
    """The service is hosted; here an engine answers through tinker's own types."""
    tinker = pytest.importorskip("tinker", reason="tinker is not installed: pip install tinker")
    from odeval.integrations.tinker import DiversityEvaluator

    class LocalClient:
        def __init__(self, engine: HfEngine) -> None:
            self.engine = engine

        async def sample_async(self, prompt: Any, num_samples: int, sampling_params: Any) -> Any:
            assert (sampling_params.temperature, sampling_params.top_p, sampling_params.top_k) == (1.0, 1.0, -1)
            seeds = [[sampling_params.seed * 1000 + i for i in range(num_samples)]]
            params = SamplingParams(n=1, max_tokens=sampling_params.max_tokens)
            (row,) = self.engine.sample([prompt.to_ints()], seeds, params)
            sequences = [
                tinker.types.SampledSequence(stop_reason=one.finish_reason, sequence_id=str(i), tokens_np=one.token_ids)
                for i, one in enumerate(row)
            ]
            return type("Response", (), {"sequences": sequences})

    engines = {folder: HfEngine(folder, "cpu") for folder in (START, TEACHER)}
    task = load_task("graph_paths", limit=12)
    teacher = RunFolder(tmp_path / "teacher")
    params = SamplingParams(n=8, max_tokens=task.max_tokens)
    sample(engines[TEACHER], engines[TEACHER].model.ref(), task, params, teacher)
    grade(teacher, task.grade, task.grader)
    evaluator = DiversityEvaluator(task, engines[START].model.tokenizer, tmp_path / "calls", teacher, samples=8)
    numbers = asyncio.run(evaluator(LocalClient(engines[START])))
    run = RunFolder(tmp_path / "calls" / "call-000")
    told = compare([run], teacher=teacher)
    candidate = next(one for one in told["runs"] if one["role"] == "candidate")
    assert numbers["odeval/pass@1"] == candidate["pass_at_k"]["value"][0]
    assert numbers["odeval/coverage_gap@8"] > -0.2
    assert json.loads((run.path / "run.json").read_text())["task"]["name"] == "graph_paths"
    asyncio.run(evaluator(LocalClient(engines[TEACHER])))
    assert (tmp_path / "calls" / "call-001").is_dir()
