"""What is particular to one tool's logs: changed copies of the real ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from logs import FIXTURES, counted

from odeval.errors import OdevalError
from odeval.importers import import_file
from odeval.importers.base import ImportOptions
from odeval.importers.zipped import ZippedLog
from odeval.tasks.graders import GRADERS

NUMERIC = ImportOptions(grader=GRADERS["numeric"], grader_name="numeric")


def test_inspect_needs_no_inspect_and_tells_what_it_knows() -> None:
    found = import_file(FIXTURES / "inspect/teacher.eval")
    assert (found.model, found.task, found.grader) == ("mockllm/model", "sums", "recorded by inspect (last_word)")
    assert {key: found.sampling[key] for key in ("temperature", "top_p", "max_tokens")} == {
        "temperature": 1.0, "top_p": 1.0, "max_tokens": 64,
    }  # fmt: skip
    assert [prompt.prompt_id for prompt in found.prompts] == ["sum/1", "sum/2", "2", "3", "hard"]
    why = dict(zip(zip(found.rows["prompt_id"], found.rows["sample_id"], strict=True), found.rows["why"], strict=True))
    assert "the tool server went away" in why["sum/2", 1]
    assert why["hard", 2] == "token limit reached"
    regraded = import_file(FIXTURES / "inspect/teacher.eval", None, NUMERIC)
    assert counted(regraded)[0] == [4, 3, 4, 4, 3]  # what was not scored can be graded, what did not end cannot
    assert list(regraded.notes) == [
        "1 of 20 completions are not graded: sample error",
        "1 of 20 completions are not graded: token limit reached",
    ]


def test_inspect_summaries_are_enough_for_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odeval.importers.inspect._LARGE", 0)
    found = import_file(FIXTURES / "inspect/teacher.eval")
    assert sorted(zip(*counted(found), strict=True)) == sorted(zip([2, 3, 4, 4, 3], [2, 3, 2, 3, 3], strict=True))
    assert found.notes[0].startswith("only header and summaries were read")
    assert found.rows["completion"].isna().all()


def inspect_json(path: Path, **changes: object) -> Path:
    log = json.loads((FIXTURES / "inspect/teacher.json").read_text())
    for sample in log["samples"]:
        sample.pop("events")
    log |= changes
    path.write_text(json.dumps(log))
    return path


def test_inspect_gotchas(tmp_path: Path) -> None:
    log = inspect_json(tmp_path / "log.json", status="error")
    with pytest.raises(OdevalError, match="ended with status 'error', so prompts or epochs may be missing"):
        import_file(log)
    assert counted(import_file(log, None, ImportOptions(partial=True))) == ([2, 1], [2, 1])
    samples = json.loads(log.read_text())["samples"]
    inspect_json(log, samples=[*samples, {**samples[0], "scores": {"last_word": {"value": "I"}}}])
    assert counted(import_file(log)) == ([2, 1], [1, 1])
    assert import_file(log).notes[0] == "1 samples stand there twice; the last of each counts"
    inspect_json(log, samples=[samples[0], {**samples[0], "id": str(samples[0]["id"])}])
    with pytest.raises(OdevalError, match="cannot be told apart"):
        import_file(log)
    inspect_json(log, samples=[{**samples[0], "scores": {"last_word": {"value": "P"}}}])
    with pytest.raises(OdevalError, match=r"score 0\.5 is neither 0 nor 1"):
        import_file(log)
    inspect_json(log, samples=[{**samples[0], "scores": {"a": {"value": 1}, "b": {"value": {"x": 0, "y": 1}}}}])
    with pytest.raises(OdevalError, match="several scorers were at work; choose one with --metric: a or b"):
        import_file(log)
    assert counted(import_file(log, None, ImportOptions(metric="b/y"))) == ([1], [1])


def test_lm_eval_with_one_response_is_taken_at_its_word(tmp_path: Path) -> None:
    """Then the metric is that response's own; which one must be said where filters disagree."""
    (source,) = FIXTURES.glob("lm_eval/teacher/samples_*")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for row in rows:
        row["resps"] = [row["resps"][0][:1]]
    rows[0]["exact_match"], rows[8]["exact_match"] = 1.0, 0.0  # filters number and text, of the same document
    file = tmp_path / "samples_sums_2026-11-22T12-00-00.000000.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(OdevalError, match="choose one with --metric: exact_match,number or exact_match,text"):
        import_file(file)
    found = import_file(file, None, ImportOptions(metric="exact_match,number"))
    assert counted(found) == ([1] * 8, [1] + [0] * 7)
    assert counted(import_file(file, None, ImportOptions(metric="exact_match,text")))[1] == [0] * 8
    assert (found.task, found.sampling["temperature"], found.grader) == (
        "sums", 1.0, "recorded by lm_eval (exact_match,number)",
    )  # fmt: skip
    rows[8]["resps"] = [["other"]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(OdevalError, match=r":9: doc 0 has other responses than above"):
        import_file(file)
    rows[0]["resps"] = [[["-1.5", "False"]], [["-2.5", "False"]]]
    file.write_text(json.dumps(rows[0]))
    with pytest.raises(OdevalError, match=r":1: 'resps' is no list of sampled texts; log-likelihood tasks draw no"):
        import_file(file)


def test_the_model_of_an_lm_eval_log_stands_in_the_file_beside_it() -> None:
    (source,) = FIXTURES.glob("lm_eval/teacher/samples_*")
    assert import_file(source, None, NUMERIC).model == "./tiny"
    assert import_file(source, None, replace(NUMERIC, model="teacher")).model == "teacher"


def test_what_reasoning_gym_lost_is_told(tmp_path: Path) -> None:
    log = json.loads((FIXTURES / "reasoning_gym/teacher/leg_counting.json").read_text())
    log["results"][0]["completions"].pop()
    log["results"][1] |= {"completions": [], "error": "All completion attempts failed"}
    log["results"][2]["completions"][0]["error"] = "scorer crashed"
    (tmp_path / "leg_counting.json").write_text(json.dumps(log))
    found = import_file(tmp_path / "leg_counting.json")
    assert counted(found)[0] == [3, 0, 3, 4, 4]
    assert found.notes == [
        "4 completions are missing: their requests failed and the tool kept no trace",
        "1 of 16 completions are not graded: the model gave no completion",
        "1 of 16 completions are not graded: the scorer failed (the tool counts it as wrong)",
    ]


def test_equal_prompts_of_verl_are_merged_and_told(tmp_path: Path) -> None:
    lines = (FIXTURES / "verl/teacher/100.jsonl").read_text().splitlines()
    (tmp_path / "100.jsonl").write_text("\n".join([*lines, *lines[:4]]) + "\n")
    found = import_file(tmp_path / "100.jsonl")
    assert counted(found)[0] == [8, 4, 4, 4, 4, 4]
    assert found.notes[0].startswith("1 prompts have more than 4 completions: verl names no prompts")
    (tmp_path / "100.jsonl").write_text("\n".join([*lines, lines[0].replace('"step": 100', '"step": 101')]))
    with pytest.raises(OdevalError, match="mixes steps 100, 101; give one file a step"):
        import_file(tmp_path / "100.jsonl")


def test_chat_turns_of_trl(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}],
         "good": float(i), "note": "x", "advantage": 0.0} for i in range(2)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "completions_00001.parquet")
    found = import_file(tmp_path / "completions_00001.parquet")
    assert found.prompts[0].messages == ({"role": "user", "content": "q"},)
    assert found.rows["completion"].tolist() == ["a", "a"]
    assert counted(found) == ([2], [1])


def test_the_answers_of_a_log_can_be_graded_anew() -> None:
    """Where the log holds the expected answer, a grader agrees with what the tool recorded."""
    for name in ("verl/teacher/100.jsonl", "tinker/teacher/trajectories.jsonl"):
        assert counted(import_file(FIXTURES / name, None, NUMERIC)) == counted(import_file(FIXTURES / name))


def test_a_member_is_checked_against_its_checksum() -> None:
    with ZippedLog(FIXTURES / "inspect/teacher.eval") as log:
        assert json.loads(log.read("header.json"))["status"] == "success"
        log.members["header.json"].CRC ^= 1
        with pytest.raises(OdevalError, match=r"member header\.json: is damaged \(its checksum differs\)"):
            log.read("header.json")
        with pytest.raises(OdevalError, match=r"member absent\.json: is missing"):
            log.read("absent.json")
