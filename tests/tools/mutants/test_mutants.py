"""The list of planted mistakes, and the verdicts on mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .mutant import ROOT, Mutant, MutantError, load
from .run import Fate, judge

if TYPE_CHECKING:
    from pathlib import Path

MUTANTS = load()
FEWEST = 30
MODULE = "def double(n: int) -> int:\n    return 2 * n\n"
TESTS = "from product import double\n\n\ndef test_two():\n    assert double({number}) == {doubled}\n"


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mistake_can_be_planted(mutant: Mutant) -> None:
    """Its old text is in its file once, the new one is valid Python, and its tests exist."""
    changed = mutant.changed(ROOT)
    assert changed != (ROOT / mutant.file).read_text(encoding="utf-8")
    if mutant.file.endswith(".py"):
        compile(changed, mutant.file, "exec")
    for test in mutant.tests:
        path, *names = test.partition("[")[0].split("::")
        text = (ROOT / path).read_text(encoding="utf-8") if names else ""
        assert (ROOT / path).exists(), test
        assert names[-1:] == ["runTest"] or all(f"def {name}(" in text for name in names), test


def test_there_are_enough_mistakes_with_unique_names() -> None:
    """There are at least FEWEST mistakes, each with a unique name."""
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= FEWEST


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Create a product of one module, with a test that catches a wrong factor and one that does not."""
    (tmp_path / "consumer").mkdir()
    (tmp_path / "consumer" / "product.py").write_text(MODULE)
    (tmp_path / "test_good.py").write_text(TESTS.format(number=3, doubled=6))
    (tmp_path / "test_weak.py").write_text(TESTS.format(number=0, doubled=0))
    return tmp_path


@pytest.mark.parametrize(
    ("new", "tests", "fate"),
    [
        ("3 * n", ("test_good.py", "test_weak.py"), Fate.CAUGHT),
        ("3 * n", ("test_weak.py",), Fate.SURVIVED),
        ("3 *", ("test_good.py",), Fate.BROKEN),
    ],
)
def test_verdicts_on_a_mistake(project: Path, new: str, tests: tuple[str, ...], fate: Fate) -> None:
    """It is caught where a test fails, survives where all pass, and is broken where none can run."""
    mutant = Mutant("factor", "consumer/product.py", "2 * n", new, tests)
    (project / mutant.file).write_text(mutant.changed(project))
    verdict = judge(mutant, project)
    assert verdict.fate is fate, verdict.output


@pytest.mark.parametrize("old", ["n", "4 * n"])
def test_a_mistake_that_does_not_fit(project: Path, old: str) -> None:
    """A text that occurs twice, or not at all, is an error that says what to change."""
    with pytest.raises(MutantError, match=r"change mutants\.toml"):
        Mutant("factor", "consumer/product.py", old, "3", ("test_good.py",)).changed(project)
