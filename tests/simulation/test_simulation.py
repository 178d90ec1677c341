"""Thousands of schedules of the service's Kafka side in virtual time, none of which may break a promise."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fivestage.observability.build_info import COMPILED

from .endings import ROWS
from .planted import PLANTED, planted
from .run import quiet, run
from .tampered import TAMPERED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .run import Outcome

FIXED = 100 if COMPILED else 300
"""Seeds that are always the same; 300 reach each of PATHS, which the compiled build need not reach again."""
FRESH, LONG = 300 if COMPILED else 50, 20_000
"""New seeds of each run; the compiled build takes a third of the time for one."""
SEED = "FIVESTAGE_TEST_SEED"
"""The environment variable with the first of the fresh seeds."""
TAIL = 60
"""The number of last events shown of a failing seed."""
FREQUENT = (
    "highest-finished",
    "no-seek-back",
    "acked-when-sent",
    "renumbered",
    "dropped-member",
    "one-too-far",
    "ends-late",
    "deadlines-unread",
    "traces-broken",
    *TAMPERED,
)
RARE = ("commit-not-cancelled", "stale-offsets", "kept-over-a-rebalance", "no-lock")
WITHIN, WITHIN_LONG = 300, 20_000
"""A planted mistake must be found within this many seeds."""
PATHS = frozenset(
    {
        "leaders moved",
        "consumer rebuilt",
        "producer rebuilt",
        "put back",
        "partition halted",
        "commit failed",
        "expelled",
        "started ahead",
        "taken back",
        "! damaged",
        "* kill",
        "* stop",
        "* broken",
        "* cut",
    }
)
"""Rare events: a rebuilt client, queries that a drain leaves to the next owner..."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def failure_text(outcome: Outcome) -> str:
    """Return a seed's violations, the command to repeat it, and its trace."""
    tail = "\n".join(map(str, outcome.events[-TAIL:]))
    wrong = "\n".join(outcome.violations[:10])
    return f"python -m tests.simulation --seed {outcome.seed} --trace\n{wrong}\n{tail}"


def assert_no_broken_promise(seeds: range) -> tuple[Counter[str], Counter[str]]:
    """Run seeds; count the rows of the contract's table and the kinds of events."""
    rows: Counter[str] = Counter()
    paths: Counter[str] = Counter()
    for seed in seeds:
        outcome = run(seed)
        assert not outcome.violations, failure_text(outcome)
        rows += outcome.rows
        paths += outcome.paths + Counter({"answered again": outcome.duplicates})
    return rows, paths


@pytest.mark.fault(4, 5, 7, 8, 9, 11, 13, 26, 30)
def test_no_schedule_breaks_a_promise(record_property: Callable[[str, object], None]) -> None:
    """With any delays, losses, kills, stops and faults the events are right, and committed afterwards."""
    rows, paths = assert_no_broken_promise(range(FIXED))
    record_property("schedules", FIXED)
    record_property("assignments", paths["assigned"])
    record_property("answered again", paths["answered again"])
    record_property("clients rebuilt", paths["consumer rebuilt"] + paths["producer rebuilt"])
    if COMPILED:  # fewer seeds, of the same schedules
        return
    assert rows.keys() >= ROWS, f"none ended as {ROWS - rows.keys()}"
    rare = PATHS | {"answered again"}
    assert rare <= paths.keys(), f"never happened: {rare - paths.keys()}"


def test_no_fresh_schedule_breaks_a_promise(record_property: Callable[[str, object], None]) -> None:
    """The same with new seeds from FIVESTAGE_TEST_SEED on."""
    first = int(os.environ.get(SEED) or secrets.randbelow(2**40))
    record_property("first seed", first)
    assert_no_broken_promise(range(first, first + FRESH))


@pytest.mark.long
def test_no_schedule_breaks_a_promise_in_hours(record_property: Callable[[str, object], None]) -> None:
    """The same with many more new seeds."""
    first = int(os.environ.get(SEED) or secrets.randbelow(2**40))
    record_property("first seed", first)
    assert_no_broken_promise(range(first, first + LONG))


@pytest.mark.interpreted
@pytest.mark.parametrize("name", FREQUENT)
def test_a_planted_mistake_is_found(name: str, record_property: Callable[[str, object], None]) -> None:
    """Each mistake planted in the real code breaks a promise in one of the first schedules."""
    record_property(name, seeds_until_found(name, WITHIN))


@pytest.mark.long
@pytest.mark.interpreted
@pytest.mark.parametrize("name", RARE)
def test_a_planted_race_is_found(name: str, record_property: Callable[[str, object], None]) -> None:
    """Races that need a rebalance and an error at the same moment are found in thousands of schedules."""
    record_property(name, seeds_until_found(name, WITHIN_LONG))


def test_every_planted_mistake_has_a_test() -> None:
    """Each mistake is tested here or in the long run."""
    assert set(PLANTED) == {*FREQUENT, *RARE}


def seeds_until_found(name: str, within: int) -> int:
    """Return the number of schedules until a planted mistake breaks a promise."""
    with planted(name):
        for seed in range(within):
            if run(seed).violations:
                return seed + 1
    pytest.fail(f"{name} was not found in {within} schedules")


def digest(seeds: range) -> str:
    """Return a short text of the events of some seeds."""
    events = "\n".join(str(event) for seed in seeds for event in run(seed).events)
    return hashlib.sha256(events.encode()).hexdigest()


def test_a_seed_is_the_same_schedule_everywhere() -> None:
    """A failing seed fails again, also in another process with another order of sets."""
    code = "from tests.simulation import test_simulation as t; print(t.digest(range(15)))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", f"{code}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert found.stdout.split()[-1] == digest(range(15))
