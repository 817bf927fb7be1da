"""Diversity in a comparison: matched, split, and texts read part by part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from synthetic import write_run

from odeval.completions import Completions
from odeval.measure import Measured, measure
from odeval.metrics.classes import class_counts
from odeval.metrics.diversity import matched_distinct, matched_sample
from odeval.metrics.ngrams import take_apart
from odeval.metrics.textdiversity import self_bleu
from odeval.rows import VarietySettings
from odeval.store import RunFolder, read_part, write_table
from odeval.texts import TEXT_METRICS, _prompts, measure_texts
from odeval.variety import diversity_of

KS = [1, 2, 4]
NUMBER = {"value", "low", "high", "n", "caution", "se", "degrees"}


def written(path: Path, accuracy: float, ways: int, seed: int) -> tuple[Measured, RunFolder]:
    generator = np.random.default_rng(seed)
    correct = [list(map(bool, row)) for row in generator.random((30, 10)) < accuracy]

    def steps() -> str:
        return f"go {generator.integers(ways)} then {generator.integers(ways)}"

    answers = [[steps() if right else f"w {generator.integers(5)}" for right in row] for row in correct]
    run = write_run(path, correct, answers=answers)  # type: ignore[arg-type]
    return measure(run, path.name, 0.8), run


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Measured, RunFolder]]:
    folder = tmp_path_factory.mktemp("variety")
    return [written(folder / "teacher", 0.5, 4, 1), written(folder / "student", 0.8, 2, 2)]


def entry(pair: list[tuple[Measured, RunFolder]], **settings: Any) -> dict[str, Any]:
    (teacher, one), (student, two) = pair
    return diversity_of(teacher, student, one, two, KS, VarietySettings(**settings))


def test_the_entry_of_a_comparison(pair: list[tuple[Measured, RunFolder]]) -> None:
    found = entry(pair)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["matched"]["of"] == 30
    own, other = class_counts(*(run.completions.whole() for run, _ in pair), pool="outputs")
    by_hand = matched_distinct(own, other)
    answers = found["answers"]["distinct"]
    assert answers["difference"]["n"] == found["matched"]["prompts"] == np.isfinite(by_hand[0].numerator).sum()
    assert answers["baseline"]["value"] == pytest.approx(np.nanmean(by_hand[0].numerator))
    assert answers["difference"]["value"] == pytest.approx(answers["candidate"]["value"] - answers["baseline"]["value"])
    assert answers["difference"]["high"] < 0  # two ways instead of four
    assert {"label", "unit", "direction", "source"} < answers.keys()
    assert all(answers[side].keys() == NUMBER for side in ("baseline", "candidate", "difference"))
    parts = found["split"]
    assert parts["whole"]["value"] == pytest.approx(parts["quality_control"]["value"] + parts["narrowing"]["value"])
    assert parts["narrowing"]["high"] < 0
    assert parts["fewer_wrong"]["high"] < 0
    assert all(row.keys() == NUMBER | {"label", "unit", "direction", "source"} for row in parts.values())
    among = found["among_right"]
    assert among["k"] == KS
    assert among["difference"]["value"][0] == 0  # one completion, one answer
    assert among["difference"]["n"][2] < 30


def test_texts_are_secondary_matched_and_limited(pair: list[tuple[Measured, RunFolder]]) -> None:
    found = entry(pair)["text"]
    assert found["gated"] is False
    assert found["metrics"].keys() == TEXT_METRICS.keys()
    assert found["reads"] == "token ids"
    assert found["prompts"] == found["of"] == found["metrics"]["vendi"]["difference"]["n"]
    few = entry(pair, text_prompts=7, text_samples=3)["text"]
    assert (few["prompts"], few["of"]) == (7, found["of"])
    assert few["rule"] == "at most 7 prompts in the order of a hash, and 3 right completions of either run on each"
    assert few["metrics"]["self_bleu"]["difference"]["degrees"] == 6
    assert few["metrics"]["vendi"]["baseline"]["value"] <= 3
    assert entry(pair, vocabulary=1000)["text"]["vocabulary"] == 1000


def test_texts_agree_with_a_direct_computation(pair: list[tuple[Measured, RunFolder]]) -> None:
    (teacher, folder), (student, _) = pair
    chosen = matched_sample(teacher.completions.whole(), student.completions.whole(), by="digest")[0]
    tables = pa.concat_tables(list(folder.iterate(folder.samples)))
    names, samples, ids = (tables[c].to_pylist() for c in ("prompt_id", "sample_id", "token_ids"))
    tokens = {(name, s): np.array(own) for name, s, own in zip(names, samples, ids, strict=True)}
    expected = {
        name: self_bleu(take_apart([tokens[name, s] for s in own["sample_id"]]))
        for name, own in chosen.groupby("prompt_id")
    }
    found = measure_texts(folder, chosen)
    assert dict(zip(found.prompt_ids, found.values["self_bleu"], strict=True)) == pytest.approx(expected)


def test_a_run_against_itself_differs_in_nothing(pair: list[tuple[Measured, RunFolder]]) -> None:
    found = entry([pair[0], pair[0]])
    rows = [*found["answers"].values(), *found["text"]["metrics"].values()]
    assert {row["difference"]["value"] for row in rows} == {0}
    assert {row["value"] for row in found["split"].values()} == {0}


def test_the_seed_chooses_the_samples(pair: list[tuple[Measured, RunFolder]]) -> None:
    texts = [entry(pair, seed=seed, text_samples=3)["text"]["metrics"] for seed in (0, 0, 1)]
    values = [metrics["vendi"]["baseline"]["value"] for metrics in texts]
    assert values[0] == values[1] != values[2]


def test_a_prompt_may_stand_in_several_parts(pair: list[tuple[Measured, RunFolder]], tmp_path: Path) -> None:
    """After an extension, the later samples of a block of prompts are a part of their own."""
    (teacher, folder), (student, _) = pair
    chosen = matched_sample(teacher.completions.whole(), student.completions.whole(), by="digest")[0]
    shutil.copytree(folder.path, tmp_path / "run")
    extended = RunFolder(tmp_path / "run")
    for path in extended.part_paths(extended.samples):
        table = pa.parquet.read_table(path, partitioning=None)
        for first, keep in (
            (0, pa.compute.less(table["sample_id"], 6)),
            (6, pa.compute.greater_equal(table["sample_id"], 6)),
        ):
            write_table(path.with_name(f"{path.stem[:-5]}{first:05d}.parquet"), table.filter(keep), {})
    whole, parts = measure_texts(folder, chosen), measure_texts(extended, chosen)
    assert set(whole.prompt_ids) == set(parts.prompt_ids)
    for name, metric in whole.per_prompt(100).items():
        other = dict(zip(parts.prompt_ids, parts.per_prompt(100)[name].numerator, strict=True))
        assert other == pytest.approx(dict(zip(metric.prompt_ids, metric.numerator, strict=True)))


def test_a_prompt_is_let_go_as_soon_as_it_is_whole(
    pair: list[tuple[Measured, RunFolder]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (teacher, folder), (student, _) = pair
    chosen = matched_sample(teacher.completions.whole(), student.completions.whole(), by="digest")[0]
    read, plain = [], folder.iterate

    def counted(*arguments: Any) -> Iterator[pa.Table]:
        for table in plain(*arguments):
            read.append(table.num_rows)
            yield table

    monkeypatch.setattr(folder, "iterate", counted)
    when = [len(read) for _ in _prompts(folder, chosen, None)]
    assert when[0] == 1
    assert sorted(set(when)) == list(range(1, len(read) + 1))


def test_words_stand_in_for_token_ids_that_are_unknown_or_differ(
    pair: list[tuple[Measured, RunFolder]], tmp_path: Path
) -> None:
    (teacher, one), (student, two) = pair
    foreign = replace(student, meta={**student.meta, "model": {**student.meta["model"], "vocabulary": "another"}})
    found = diversity_of(teacher, foreign, one, two, KS)["text"]
    assert found["reads"].startswith("words")
    assert found["vocabulary"] == 6  # go, then, 0, 1, 2, 3
    shutil.copytree(one.path, tmp_path / "run")
    imported = RunFolder(tmp_path / "run")
    for path in imported.part_paths(imported.samples):
        table = pa.parquet.read_table(path, partitioning=None)
        place, nothing = table.schema.get_field_index("token_ids"), pa.nulls(len(table), pa.list_(pa.int32()))
        write_table(path, table.set_column(place, "token_ids", nothing), {})
    made_from = {"samples": imported.fingerprint(imported.samples), "grader": "exact"}
    write_table(imported.grades, read_part(imported.grades), made_from)
    same = diversity_of(measure(imported, "teacher", 0.8), student, imported, two, KS)["text"]
    assert same["metrics"]["self_bleu"]["baseline"] == found["metrics"]["self_bleu"]["baseline"]
    assert same["reads"].startswith("words")


def test_nothing_right_gives_unknown_not_zero(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, [[False, False], [False, None]]) for name in ("one", "two")]
    measured = [measure(run, run.path.name, 0.8) for run in runs]
    found = diversity_of(*measured, *runs, KS)
    assert json.dumps(found, allow_nan=False)
    assert found["matched"]["prompts"] == found["text"]["prompts"] == 0
    for row in [*found["answers"].values(), *found["text"]["metrics"].values()]:
        assert row["difference"]["value"] is None
        assert "no prompt" in row["difference"]["caution"]
    assert found["split"]["whole"]["value"] == pytest.approx(0)


def test_empty_completions(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, [[True] * 4] * 3, answers=[["", "", "a b", ""]] * 3) for name in ("one", "two")]
    measured = [measure(run, run.path.name, 0.8) for run in runs]
    for run in measured:
        run.meta["model"]["vocabulary"] = ""  # forces words, so that empty texts are empty sequences
    found = diversity_of(*measured, *runs, KS)["text"]
    assert found["metrics"]["self_bleu"]["baseline"]["value"] == 0
    assert 1 < found["metrics"]["vendi"]["baseline"]["value"] < 2


def test_counts_alone_say_so(pair: list[tuple[Measured, RunFolder]]) -> None:
    (teacher, one), (student, two) = pair
    found = diversity_of(replace(teacher, completions=Completions()), student, one, two, KS)
    assert found["note"] == "teacher: counts only; which answers were given is not known"
    assert found["answers"] == {}
