"""Who may import whom, and what must stay light."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "matplotlib", "transformers")


def loaded_after(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint('LOADED', *[m for m in {(*HEAVY, 'pandas')} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split("LOADED")[1].split())


def test_import_odeval_loads_nothing_heavy() -> None:
    assert loaded_after("import odeval") == set()


def test_help_loads_nothing_heavy() -> None:
    assert loaded_after("from odeval.cli import run\nrun(['--help'])") == set()


@pytest.mark.parametrize("module", ["compare", "gate", "report", "trust", "tasks"])
def test_reading_results_needs_no_torch(module: str) -> None:
    if not (ROOT / "odeval" / f"{module}.py").exists() and not (ROOT / "odeval" / module / "__init__.py").exists():
        pytest.fail(f"odeval.{module} does not exist")
    assert not loaded_after(f"import odeval.{module}") & {"torch", "transformers"}


def test_public_names_exist() -> None:
    import odeval

    for name in odeval._HOME:
        assert getattr(odeval, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = odeval.nothing


def test_running_models_without_torch_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('none here', name='torch')")
    code = f"from odeval.cli import run\nrun(['demo', '--out', {str(tmp_path / 'out')!r}])"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stderr == "odeval: this runs models and needs torch: pip install 'odeval[hf]'\n"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "lint-imports"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [program, "--no-logo", "--no-cache"], capture_output=True, text=True, cwd=folder, env=environment
    )


@pytest.mark.slow
def test_the_contracts_catch_a_planted_violation(tmp_path: Path) -> None:
    for name in ("odeval", "odkd"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    clean = lint(tmp_path)
    assert clean.returncode == 0, clean.stdout
    for planted, contract in (
        ("odeval/stats.py", "from odeval.gate import judge"),
        ("odeval/compare.py", "import odkd.train"),
        ("odeval/metrics/health.py", "import torch"),
    ):
        original = (tmp_path / planted).read_text()
        (tmp_path / planted).write_text(original + f"\n\n{contract}  # planted\n")
        assert lint(tmp_path).returncode == 1, planted
        (tmp_path / planted).write_text(original)
