"""The examples of README and docs print what they say."""

from __future__ import annotations

import doctest
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples(page: Path) -> None:
    results = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


def test_the_generate_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Trained shortly, the letters are not right yet; with caches they are the same."""
    example = runpy.run_path(str(ROOT / "docs" / "examples" / "generate.py"))
    assert example["main"](steps=4, count=12)
    assert "the same letters as without a cache: True" in capsys.readouterr().out


def test_readme_has_an_example() -> None:
    assert len(doctest.DocTestParser().get_examples((ROOT / "README.md").read_text())) >= 10
