"""Each promise of the README, and each fault of the catalogue, is held by a test that ``make test`` runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from faults.catalogue import FAULTS
from support.collected import collected

ROOT = Path(__file__).parent.parent
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## What is promised\n")[2]
SECTION = SECTION.partition("\n## ")[0]
ROWS = re.findall(r"^\| (.+?) \| ([^|]*) \|$", SECTION, flags=re.MULTILINE)[2:]
"""Without the title and the line below it."""


@pytest.fixture(scope="module")
def tests() -> dict[str, list[int]]:
    """All tests that are run, with the faults they are marked with."""
    return collected()


@pytest.fixture(scope="module")
def names(tests: dict[str, list[int]]) -> set[str]:
    """Their ids, with and without parameters."""
    return {*tests, *(name.partition("[")[0] for name in tests)}


def test_every_promise_names_a_test_that_is_run(names: set[str]) -> None:
    """By its id; one that is left out, as with ``--long`` only, holds nothing."""
    assert len(ROWS) >= 42
    for promise, held_by in ROWS:
        cited = held_by.split(", ")
        assert [one for one in cited if one.strip("`") not in names] == [], promise


def test_what_else_the_section_names_is_there(names: set[str]) -> None:
    """Tests by their ids, helpers of tests by their files."""
    for name in re.findall(r"`(tests/[^`]+)`", SECTION):
        assert name in names or (name.startswith("tests/support/") and (ROOT / name).is_file()), name


def test_every_fault_has_a_test(tests: dict[str, list[int]]) -> None:
    """Also without ``--long``, which is for more of the same."""
    assert {number for marked in tests.values() for number in marked} == set(FAULTS)


def test_the_table_of_faults_is_that_of_the_catalogue() -> None:
    """docs/faults.md has every fault with its promise, and saw none of them fail."""
    rows = re.findall(
        r"^\| (\d+) \| (.*?) \| (.*?) \| (.*?) \| (\d+) \|",
        (ROOT / "docs/faults.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert {int(number): (title, promise) for number, title, promise, _, _ in rows} == FAULTS
    assert [number for number, _, _, outcome, count in rows if outcome != "passed" or count == "0"] == []
