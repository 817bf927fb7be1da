"""The README is true: tables are those of the stored results, commands print what it says, links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import readme  # noqa: E402

TEXT = readme.README.read_text(encoding="utf-8")
_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?")


def same(expected: str, found: str) -> bool:
    """Equal words, and numbers within what another processor's rounding does to sampled figures."""
    if _NUMBER.sub("#", expected).split() != _NUMBER.sub("#", found).split():
        return False
    pairs = zip(_NUMBER.findall(expected), _NUMBER.findall(found), strict=True)
    return all(close(*(float(text.replace(",", "")) for text in pair)) for pair in pairs)


def close(a: float, b: float) -> bool:
    return abs(a - b) <= max(0.03, 0.03 * abs(a)) or (abs(a - b) <= 1.5 and max(abs(a), abs(b)) > 1)


def test_close_tells_rounding_from_another_result() -> None:
    assert same("pass@1 +17.5 points [+0.41, +0.44]", "pass@1 +17.9 points [+0.42, +0.45]")
    assert not same("pass@1 +17.5 points", "pass@1 +14.5 points")
    assert not same("✓ PASS  0.50", "✕ FAIL  0.50")
    assert not same("0.50", "0.60")


def test_tables_are_those_of_the_stored_results() -> None:
    assert set(re.findall(r"<!-- table: (\w+) -->", TEXT)) == set(readme.TABLES)
    assert readme.with_tables(TEXT) == TEXT, "run python benchmarks/readme.py --tables"


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_commands_print_what_the_readme_says(tmp_path: Path) -> None:
    commands = list(readme.steps(TEXT))
    assert len(commands) >= 6
    for step in commands:
        found = readme.run(step, tmp_path)
        for expected, line in zip(step.output.splitlines(), found.splitlines(), strict=True):
            assert same(expected, line), f"{step.command}\nREADME: {expected}\nnow:    {line}"
