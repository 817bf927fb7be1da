"""Prompts and sums that stay on disk until they are asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import write_run

from odeval.errors import CannotJudge, OdevalError
from odeval.questions import Questions
from odeval.sums import Sums
from odeval.types import PerPrompt, Prompt


def test_prompts_are_found_by_id_as_they_were_written(tmp_path: Path) -> None:
    prompts = [
        Prompt(text="zwölf\u2028Zeilen", answer="12", id="z", cluster="odd", chance=0.25),
        Prompt(messages=({"role": "user", "content": "hm"},), answer="", id="b"),
        Prompt(text="without a name", answer="x"),
        Prompt(text="last", answer="y", id="a", cluster="odd"),
    ]
    found = Questions(write_run(tmp_path / "run", [[True]] * 4, prompts=prompts))
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    assert list(found) == found.ids.tolist() == sorted(by_id)
    assert dict(found) == {name: replace(prompt, id=name) for name, prompt in by_id.items()}
    assert found["z"].chance == 0.25
    assert [content.decode() for content in found.contents] == [by_id[name].content for name in found.ids]
    assert [x for x in found.chances if not np.isnan(x)] == [0.25]
    assert found.chat
    assert found.num_clusters == 3
    assert found.clusters is not None
    assert found.clusters[found.ids == "z"] == found.clusters[found.ids == "a"]
    with pytest.raises(KeyError):
        found["c"]
    alone = Questions(write_run(tmp_path / "alone", [[True]] * 3))
    assert alone.clusters is None
    assert alone.num_clusters == 3
    assert not alone.chat
    (tmp_path / "alone" / "prompts.jsonl").write_text("{")
    with pytest.raises(CannotJudge, match="it changed while it was read"):
        alone["p00001"]


def test_sums_are_read_back_as_they_were_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, generator = np.array([f"p{i:03d}" for i in range(30)], dtype=object), np.random.default_rng(0)
    curve = PerPrompt(names, generator.random((30, 3)), generator.random((30, 3)), (1.0, 2.0, 4.0))
    plain = PerPrompt(names, generator.random(30), generator.random(30))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sums = Sums(names)
    for rows in np.array_split(generator.permutation(30), 4)[1:]:
        for name, own in (("curve", curve), ("plain", plain)):
            sums.put({name: PerPrompt(names[rows], own.numerator[rows], own.denominator[rows], own.grid)})
    for name, own in (("curve", curve), ("plain", plain)):
        found = sums[name]
        there = found.denominator.reshape(30, -1)[:, 0] > 0
        assert there.sum() == 22
        np.testing.assert_array_equal(found.numerator[there], own.numerator[there])
        np.testing.assert_array_equal(found.denominator[there], own.denominator[there])
        assert not found.numerator[~there].any()
        assert (found.grid, found.prompt_ids.tolist()) == (own.grid, names.tolist())
    assert list(sums) == ["curve", "plain"]
    with pytest.raises(ValueError, match="plain: sums of a prompt that the run was not asked"):
        sums.put({"plain": PerPrompt(np.array(["zebra"]), np.ones(1), np.ones(1))})
    assert len(list(tmp_path.glob("odeval-*"))) == 1
    del sums
    assert not list(tmp_path.glob("odeval-*"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OdevalError, match=r"nowhere: cannot hold what is compared .*set TMPDIR to a folder"):
        Sums(names).put({"plain": plain})
