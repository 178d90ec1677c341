"""Each promise of the README, and each fault of the catalogue, has a test that ``make test`` runs."""

from __future__ import annotations

import re
from pathlib import Path

from kafka.faults.catalogue import FAULTS
from support.collected import collected

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## What is promised\n")[2]
SECTION = SECTION.partition("\n## ")[0]
ROWS = re.findall(r"^\| (.+?) \| ([^|]*) \|$", SECTION, flags=re.MULTILINE)[2:]
"""Without the title and the line below it."""


def test_promises_and_faults_are_held_by_tests_that_are_run() -> None:
    """The ids of promises and faults exist and run by default; a ``--long`` test does not count."""
    tests = collected()  # one collection for all of them
    names = {*tests, *(name.partition("[")[0] for name in tests)}
    assert len(ROWS) >= 42
    missing = {
        promise: [one for one in held_by.split(", ") if one.strip("`") not in names]
        for promise, held_by in ROWS
    }
    assert {promise: cited for promise, cited in missing.items() if cited} == {}
    others = set(re.findall(r"`(tests/[^`]+)`", SECTION)) - names
    assert [one for one in others if not (one.startswith("tests/support/") and (ROOT / one).is_file())] == []
    assert {number for marked in tests.values() for number in marked} == set(FAULTS)


def test_the_table_of_faults_is_that_of_the_catalogue() -> None:
    """docs/faults.md lists every fault with its promise, and no failure."""
    rows = re.findall(
        r"^\| (\d+) \| (.*?) \| (.*?) \| (.*?) \| (\d+) \|",
        (ROOT / "docs/faults.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert {int(number): (title, promise) for number, title, promise, _, _ in rows} == FAULTS
    assert [number for number, _, _, outcome, count in rows if outcome != "passed" or count == "0"] == []
