"""Each promise in docs/guarantees.md, and each fault of the catalogue, has a test that ``make test`` runs."""

from __future__ import annotations

import re

from kafka.faults.catalogue import FAULTS
from support.collected import collected
from support.documents import ROOT, text_of

GUARANTEES = text_of("docs/guarantees.md")
ROWS = [
    (promise, tests)
    for promise, tests in re.findall(r"^\| (.+?) \| ([^|]*) \|$", GUARANTEES, flags=re.MULTILINE)
    if (promise, tests) != ("promise", "tests") and set(promise) != {"-"}
]


def test_promises_and_faults_are_held_by_tests_that_are_run() -> None:
    """Each id is one of a collected test; a test that runs with ``--long`` only does not count."""
    tests = collected()  # one collection for all of them
    names = {*tests, *(name.partition("[")[0] for name in tests)}
    assert len(ROWS) >= 55
    missing = {
        promise: [one for one in held_by.split(", ") if one.strip("`") not in names]
        for promise, held_by in ROWS
    }
    assert {promise: cited for promise, cited in missing.items() if cited} == {}
    others = set(re.findall(r"`(tests/[^`]+)`", GUARANTEES)) - names
    assert [one for one in others if not (one.startswith("tests/support/") and (ROOT / one).is_file())] == []
    assert {number for marked in tests.values() for number in marked} == set(FAULTS)


def test_the_table_of_faults_is_that_of_the_catalogue() -> None:
    """docs/faults.md lists every fault with its promise, and no failure."""
    rows = re.findall(
        r"^\| (\d+) \| (.*?) \| (.*?) \| (.*?) \| (\d+) \|",
        text_of("docs/faults.md"),
        flags=re.MULTILINE,
    )
    assert {int(number): (title, promise) for number, title, promise, _, _ in rows} == FAULTS
    assert [number for number, _, _, outcome, count in rows if outcome != "passed" or count == "0"] == []
