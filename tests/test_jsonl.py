"""Prompts files: every mistake is one line that names file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odeval.errors import OdevalError
from odeval.store import parse_prompt, prompt_line
from odeval.tasks import TASKS, grader_of, load_task
from odeval.tasks.jsonl import load
from odeval.types import Prompt

GOOD = '{"prompt": "2 + 2 =", "answer": "4"}'


def write(tmp_path: Path, *lines: str | bytes) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def test_a_good_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        b"\xef\xbb\xbf" + GOOD.encode(),  # a byte order mark, as Windows editors write it
        "",
        '{"messages": [{"role": "system", "content": "Hm"}, {"role": "user", "content": "é"}], "answer": 5, "id": 7}\r',
        '{"prompt": "line\u2028separator", "answer": 1.5, "id": "x", "cluster": "c"}',
        "   ",
    )
    task = load(path, "exact", max_tokens=9)
    assert [p.text for p in task.prompts] == ["2 + 2 =", None, "line\u2028separator"]
    assert [p.answer for p in task.prompts] == ["4", "5", "1.5"]
    assert [p.prompt_id for p in task.prompts] == [task.prompts[0].content, "7", "x"]
    assert task.prompts[1].messages == ({"role": "system", "content": "Hm"}, {"role": "user", "content": "é"})
    assert task.prompts[2].cluster == "c"
    assert (task.name, task.grader, task.max_tokens) == (str(path), "exact", 9)
    assert len(load(path, "exact", limit=2).prompts) == 2
    assert task.grade(task.prompts[0], " 4 ").correct is True


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", r"is no JSON \(Expecting property name enclosed in double quotes at column 2\)"),
        ("{} {}", r"is no JSON \(Extra data at column 4\)"),
        ("[1]", "is a list, expected an object with `prompt` and `answer`"),
        ("null", "is a NoneType, expected an object"),
        ('{"prompt": "a"}', "field `answer` is missing; the grader 'exact' compares with it"),
        ('{"answer": "a"}', r"needs exactly one of `prompt` \(text\) and `messages` \(chat turns\)"),
        ('{"prompt": "a", "messages": [], "answer": "a"}', "needs exactly one of `prompt`"),
        ('{"promt": "a", "answer": "a"}', r"unknown field 'promt': expected one of .* \(did you mean 'prompt'\?\)"),
        ('{"prompt": "a", "answer": "a", "Answer": "b"}', r"unknown field 'Answer': .* \(did you mean 'answer'\?\)"),
        ('{"prompt": "a", "answer": "a", "answer": "b"}', "field `answer` stands there twice"),
        ('{"prompt": "", "answer": "a"}', "`prompt` is '', expected a text that is not empty"),
        ('{"prompt": 5, "answer": "a"}', "`prompt` is 5, expected a text"),
        ('{"prompt": null, "answer": "a"}', "`prompt` is None, expected a text"),
        ('{"prompt": "a", "answer": null}', "`answer` is a NoneType, expected text or a number"),
        ('{"prompt": "a", "answer": true}', "`answer` is a bool, expected text or a number"),
        ('{"prompt": "a", "answer": ["a"]}', "`answer` is a list, expected text or a number"),
        ('{"prompt": "a", "answer": NaN}', "`answer` is nan, expected text or a finite number"),
        ('{"prompt": "a", "answer": 1e999}', "`answer` is inf, expected text or a finite number"),
        ('{"prompt": "a", "answer": "a", "id": null}', "`id` is a NoneType, expected text or a number"),
        ('{"prompt": "a", "answer": "a", "cluster": {}}', "`cluster` is a dict, expected text or a number"),
        ('{"messages": [], "answer": "a"}', '`messages` must be a list of {"role": text, "content": text}'),
        ('{"messages": "hi", "answer": "a"}', "`messages` must be a list of"),
        (
            '{"messages": [{"role": "user"}], "answer": "a"}',
            'turn 1 of `messages` must be {"role": text, "content": text}',
        ),
        ('{"messages": [{"role": "user", "content": 5}], "answer": "a"}', "turn 1 of `messages` must be"),
        (
            '{"messages": [{"role": "user", "content": "a", "name": "b"}], "answer": "a"}',
            "turn 1 of `messages` has `name`; only role and content are used",
        ),
        ('{"prompt": "\\ud800", "answer": "a"}', r"holds half a character \(a lone surrogate\), which is no text"),
        (f'{{"prompt": "a", "answer": {"1" * 5000}}}', r"cannot be read as JSON \(Exceeds the limit"),
        ("[" * 100_000, r"cannot be read as JSON \("),
        (b'{"prompt": "\xff", "answer": "a"}', r"is not UTF-8 text \(byte 49 of the file\)"),
        (GOOD, "prompt and answer already stands on line 1; every prompt needs a place of its own"),
    ],
)
def test_a_malformed_row_gets_one_line_with_its_number(tmp_path: Path, line: str | bytes, text: str) -> None:
    path = write(tmp_path, GOOD, line, GOOD.replace("4", "5"))
    with pytest.raises(OdevalError, match=rf"mine\.jsonl:2: {text}") as caught:
        load(path, "exact")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("grader", "answer", "text"),
    [
        ("numeric", '"twelve"', "answer 'twelve' is no number, which the grader 'numeric' needs"),
        ("choice", '"AB"', "answer 'AB' is no single letter, which the grader 'choice' needs"),
        ("regex", '"["', "is no regular expression"),
    ],
)
def test_an_answer_the_grader_cannot_use(tmp_path: Path, grader: str, answer: str, text: str) -> None:
    path = write(tmp_path, "", f'{{"prompt": "a", "answer": {answer}}}')
    with pytest.raises(OdevalError, match=rf"mine\.jsonl:2: .*{text}"):
        load(path, grader)


def test_two_rows_with_one_id(tmp_path: Path) -> None:
    path = write(tmp_path, '{"prompt": "a", "answer": "a", "id": 1}', "", '{"prompt": "b", "answer": "b", "id": "1"}')
    with pytest.raises(
        OdevalError, match=r"mine\.jsonl:3: id '1' already stands on line 1; .* give them different ids"
    ):
        load(path, "exact")
    twins = write(tmp_path, '{"prompt": "a", "answer": "a", "id": 1}', '{"prompt": "a", "answer": "a", "id": 2}')
    assert len(load(twins, "exact").prompts) == 2


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    for content in ("", "\n\n", "\ufeff"):
        with pytest.raises(
            OdevalError, match=r"mine\.jsonl: holds no prompts; write one JSON object a line with `prompt`"
        ):
            load(write(tmp_path, content), "exact")
    with pytest.raises(OdevalError, match=r"gone\.jsonl: cannot be read \(No such file or directory\)"):
        load(tmp_path / "gone.jsonl", "exact")
    with pytest.raises(OdevalError, match=r"cannot be read \(Is a directory\)"):
        load(tmp_path, "exact")
    with pytest.raises(OdevalError, match=r"mine\.jsonl:1: is not UTF-8 text \(byte 0 of the file\)"):
        load(write(tmp_path, GOOD.encode("utf-16")), "exact")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_file_makes_it_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    path.write_bytes(content)
    with pytest.raises(OdevalError):
        load(path, "exact")


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1), st.text(), st.text(), st.text())
def test_what_a_run_folder_writes_reads_back(text: str, answer: str, own_id: str, cluster: str) -> None:
    prompt = Prompt(text=text, answer=answer, id=own_id, cluster=cluster)
    try:
        line = prompt_line(prompt)
        line.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate, which `load` does not let in
    assert "\n" not in line
    again = parse_prompt(json.loads(line))
    assert (again.content, again.prompt_id, again.cluster) == (prompt.content, prompt.prompt_id, cluster)


def test_tasks_are_found_by_name_or_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert load_task(str(path), grader="exact").max_tokens == 1024
    assert load_task(str(path), grader="exact", max_tokens=3).max_tokens == 3
    built_in = load_task("graph_paths", limit=3)
    assert len(built_in.prompts) == 3
    assert load_task("graph_paths", limit=3, max_tokens=2).max_tokens == 2
    cases = {
        (
            "graph_path",
        ): r"unknown task 'graph_path': .*did you mean 'graph_paths'\?\); or give the path of a prompts file",
        ("graph_paths", "exact"): "task 'graph_paths' grades with its own program; leave out grader 'exact'",
        (str(path),): r"mine\.jsonl: a prompts file needs a grader; pass --grader exact, numeric, choice or regex",
        (str(path), "exakt"): r"unknown grader 'exakt': .*did you mean 'exact'",
        (str(path), "exact", 0): "limit 0: at least 1 prompt is needed",
        (str(path), "exact", None, 0): "max_tokens 0: must be >= 1",
    }
    for arguments, text in cases.items():
        with pytest.raises(OdevalError, match=text):
            load_task(*arguments)  # type: ignore[arg-type]


def test_a_runs_grader_is_found_again() -> None:
    name, grade = grader_of({"name": "graph_paths", "grader": "graph_paths"})
    assert (name, grade) == ("graph_paths", TASKS["graph_paths"](1).grade)
    assert grader_of({"name": "mine.jsonl", "grader": "exact"})[0] == "exact"
    assert grader_of({"name": "mine.jsonl", "grader": "exact"}, "numeric")[0] == "numeric"
    with pytest.raises(OdevalError, match="task 'graph_paths' grades with its own program; leave out grader 'exact'"):
        grader_of({"name": "graph_paths", "grader": "graph_paths"}, "exact")
