"""Arms at equal budget: trained, sampled and compared over seeds and over prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from odeval.atomic import read_json
from odeval.errors import OdevalError
from odeval.store import RunFolder
from odkd.cli import main
from odkd.study import run_study

BASE = {
    "model_name_or_path": "embedded:graph_paths/warm_start",
    "teacher_model_name_or_path": "embedded:graph_paths/teacher",
    "dataset_name": "graph_paths",
    "max_steps": 5,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 16,
    "max_completion_length": 8,
    "device": "cpu",
}


def study_file(tmp_path: Path, **changes: Any) -> Path:
    content = {
        "base": BASE,
        "arms": {"reverse": {"recipe": "reverse_kl"}, "gkd": {"recipe": "gkd", "learning_rate": 3e-3}},
        "seeds": [0, 1],
        "out": str(tmp_path / "study"),
        "task": "graph_paths",
        "prompts": 20,
        "samples": 8,
        "jobs": 2,
        **changes,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "study.yaml"


@pytest.mark.slow
def test_a_study_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = study_file(tmp_path)
    assert main(["compare-objectives", str(file)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == (
        "against start: difference of pass@k in points, 2 seeds, 20 prompts × 8 samples, 95 % bands"
    )
    assert shown.out.splitlines()[-1] == str(tmp_path / "study" / "report.html")
    assert sorted(shown.err.splitlines()) == sorted(
        f"{name} seed {seed}: done" for name in ("reverse", "gkd", "start", "teacher") for seed in (0, 1)
    )
    found = read_json(tmp_path / "study" / "study.json")
    for name in ("reverse", "gkd"):
        runs = {}
        for side in (name, "start"):
            per_seed = []
            for seed in (0, 1):
                run = RunFolder(tmp_path / "study" / "runs" / side / f"seed-{seed}")
                import pyarrow.parquet as pq

                per_seed.append(np.mean(pq.read_table(run.grades)["correct"].to_pylist()))
            runs[side] = np.array(per_seed)
        own = found["arms"][name]["pass@k"]["1"]
        assert own["value"] == pytest.approx(runs[name].mean())
        assert own["difference"] == pytest.approx((runs[name] - runs["start"]).mean())
        middle = np.mean(own["over_seeds"])
        assert (
            middle == pytest.approx(own["difference"])
            or abs(own["over_seeds"][0]) == 1
            or abs(own["over_seeds"][1]) == 1
        )
        assert own["over_prompts"][0] < own["difference"] < own["over_prompts"][1]
        account = found["arms"][name]["ledger"]
        assert account["updates"] == 5
        assert account["tokens_scored_by_teacher"] > account["tokens_trained"] > 0
    same = [
        json.loads((tmp_path / "study" / "arms" / name / "seed-1" / "training.json").read_text())["config"]
        for name in ("reverse", "gkd")
    ]
    for key in ("seed", "max_steps", "per_device_train_batch_size", "dataset_name"):
        assert same[0][key] == same[1][key]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"arms": {"a": {"recipe": "gkd", "max_steps": 9}}},
            "arm a sets max_steps, so budgets would differ; set it in base",
        ),
        ({"arms": {"a": {"recipe": "gdk"}}}, "study.yaml, arm a: unknown recipe 'gdk'"),
        ({"arms": {"start": {}}}, "an arm is called start, which is the name of the run it is compared with"),
        ({"baseline": "gdk"}, "baseline: unknown arm 'gdk': expected one of gkd, reverse, start (did you mean 'gkd'?)"),
        ({"arm": {}}, "unknown key 'arm': expected one of arms, base, "),
        ({"seeds": []}, "seeds is []: Tuple should have at least 1 item"),
    ],
)
def test_a_wrong_study_gets_one_line(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(OdevalError) as caught:
        run_study(study_file(tmp_path, **changes), lambda line: None)
    assert line in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "study.yaml"))
    assert "\n" not in str(caught.value)
