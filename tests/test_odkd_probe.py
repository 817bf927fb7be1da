"""Probes: run folders that odeval reads, selection under a constraint, early stop, and where numbers are logged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from odkd_runs import log_of, make_student, settings, weights_of

from odeval.compare import compare
from odeval.errors import OdevalError
from odeval.store import RunFolder
from odeval.tasks import graph_paths
from odeval.testbed import checkpoint
from odkd.config import make_config
from odkd.loggers import Loggers, rows_of
from odkd.probe import Probe, probe_task
from odkd.train import train

START = str(checkpoint("graph_paths", "warm_start"))
PROBED = {
    "model_name_or_path": START, "max_steps": 6, "eval_steps": 3, "probe_prompts": 12, "probe_samples": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(make_config(settings(tmp_path_factory.mktemp("probed"), **PROBED)))


def test_a_probe_says_what_odeval_says_about_its_run(probed: Path) -> None:
    rows = rows_of(probed / "probes.jsonl")
    assert [row["step"] for row in rows] == [0, 3, 6]
    folders = {name: RunFolder(probed / "probes" / name) for name in ("teacher", "step-000000", "step-000006")}
    told = compare([folders["step-000006"]], teacher=folders["teacher"], baseline=folders["step-000000"])
    run = {item["role"]: item for item in told["runs"]}
    last = rows[-1]
    assert list(last["pass@k"]) == ["1", "2", "4", "8"]
    assert list(last["pass@k"].values()) == run["candidate"]["pass_at_k"]["value"]
    for k, gap in last["coverage_gap"].items():
        where = run["teacher"]["pass_at_k"]["k"].index(int(k))
        assert gap == run["teacher"]["pass_at_k"]["value"][where] - last["pass@k"][k]
    assert last["distinct_correct"] == run["candidate"]["metrics"]["distinct_correct"]["value"]
    verdict = json.loads((probed / "probes" / "step-000006" / "verdict.json").read_text())
    assert last["verdict"] == verdict["verdict"] == verdict["candidates"][0]["verdict"]
    assert rows[0]["verdict"] is None
    record = json.loads((probed / "training.json").read_text())
    assert record["probes"]["last"] == last
    assert record["ledger"]["seconds"]["probe"] > 0


def test_probes_leave_the_training_alone(probed: Path, tmp_path: Path) -> None:
    plain = train(make_config(settings(tmp_path, model_name_or_path=START, max_steps=6)))
    assert weights_of(plain) == weights_of(probed)
    assert log_of(plain) == log_of(probed)


def test_probe_prompts_are_neither_trained_on_nor_reported() -> None:
    base = {"model_name_or_path": "s", "teacher_model_name_or_path": "t", "output_dir": "o", "max_steps": 1}
    task = probe_task(make_config({**base, "dataset_name": "graph_paths", "eval_steps": 1, "probe_prompts": 50}))
    asked = {prompt.text for prompt in task.prompts}
    assert len(asked) == 50
    for split in ("train", "heldout"):
        assert not asked & {prompt.text for prompt in graph_paths.prompts(split, None)}  # type: ignore[arg-type]
    with pytest.raises(OdevalError, match=r"^eval_steps: p.jsonl is a prompts file, and a probe needs a grader; set"):
        probe_task(make_config({**base, "dataset_name": "p.jsonl", "eval_steps": 1}))


def made_up(tmp_path: Path, rows: list[tuple[int, float, float, str | None]], **changes: Any) -> Probe:
    """A probe that is shown rows of (step, pass@1, coverage gap at k = 8, verdict)."""
    from odeval.engines.hf import HfEngine
    from odkd.models import Pair

    config = make_config(settings(tmp_path, **{**PROBED, **changes}))
    pair = Pair(config, "cpu")
    probe = Probe(config, pair, HfEngine(pair.student), HfEngine(pair.teacher))
    for step, first, gap, verdict in rows:
        row = {"step": step, "pass@k": {"1": first, "8": 0.9}, "coverage_gap": {"1": 0.5, "8": gap}, "verdict": verdict}
        probe._judge_best(row)
    return probe


def test_the_best_probe_keeps_the_constraint(tmp_path: Path) -> None:
    rows = [(0, 0.2, 0.01, None), (3, 0.4, 0.02, "PASS"), (6, 0.6, 0.30, "FAIL"), (9, 0.5, 0.10, "FAIL")]
    best = made_up(tmp_path, rows, max_coverage_gap=0.05).best
    assert best is not None
    assert best["step"] == 3  # not 6, which has the better pass@1 and lost coverage
    free = made_up(tmp_path, rows).best
    assert free is not None
    assert free["step"] == 6
    assert made_up(tmp_path, rows[2:], max_coverage_gap=0.05).best is None
    (tmp_path / "gate.yaml").write_text("rules:\n  - rule: pass@8 >= 0.5\n")
    ruled = made_up(tmp_path, rows, rules=str(tmp_path / "gate.yaml")).best
    assert ruled is not None
    assert ruled["step"] == 3


def test_the_run_ends_early_and_leaves_the_best_student(tmp_path: Path) -> None:
    """A learning rate that only harms: the start stays best, and two probes later the run is over."""
    given = {**PROBED, "eval_steps": 1, "max_steps": 9, "learning_rate": 1.0, "early_stopping_patience": 2}
    out = train(make_config(settings(tmp_path, **given, load_best_model_at_end=True)))
    record = json.loads((out / "training.json").read_text())
    assert record["probes"]["stopped_early"]
    assert record["ledger"]["updates"] == 2
    assert record["probes"]["best"]["step"] == 0
    from odeval.engines.hf_model import HfModel

    for a, b in zip(HfModel(out, "cpu").model.parameters(), HfModel(START, "cpu").model.parameters(), strict=True):
        assert a.equal(b)


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train(make_config(settings(tmp_path, max_steps=2, report_to="tensorboard")))
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [item.value for item in events.Scalars("train/loss")] == pytest.approx([r["loss"] for r in log_of(out)])


def test_destinations_that_are_not_there_get_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        OdevalError, match=r"^report_to: unknown destination 'tensorbord': .*did you mean 'tensorboard'"
    ):
        Loggers(tmp_path, "tensorbord", 0, {})
    for name, module in (("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(OdevalError, match=rf"^report_to {name}: is not installed; pip install {name}, or leave it"):
            Loggers(tmp_path, name, 0, {})


def test_a_log_is_cut_where_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"ste')
    log = Loggers(tmp_path, "none", 2, {})
    log.write({"step": 2, "loss": 1.0})
    log.close()
    assert rows_of(tmp_path / "log.jsonl") == [{"step": 0}, {"step": 1}, {"step": 2, "loss": 1.0}]
    assert not (tmp_path / "probes.jsonl").exists()


def test_a_rules_file_is_read_before_anything_is_sampled(tmp_path: Path) -> None:
    make_student(tmp_path / "student")
    (tmp_path / "gate.yaml").write_text("rules:\n  - rule: pass@q >= 1\n")
    config = make_config(settings(tmp_path, **PROBED, rules=str(tmp_path / "gate.yaml")))
    with pytest.raises(
        OdevalError, match=r"gate.yaml: rule 'pass@q >= 1': write pass@8 for one k, or pass@k for every"
    ):
        train(config)
    assert not (tmp_path / "out" / "probes").exists()
