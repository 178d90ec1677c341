"""Thousands of schedules of the service's bus side, in virtual time, none of which may break a promise."""

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

FIXED = 300 if COMPILED else 1000
FRESH, LONG = 300, 20_000
SEED = "FIVESTAGE_TEST_SEED"
"""The environment variable that names the first of the fresh seeds."""
TAIL = 60
"""How many of the last events of a failing seed are shown."""
FREQUENT = (
    "highest-finished",
    "no-seek-back",
    "acked-when-sent",
    "numbered-anew",
    "no-lock",
    "dropped-member",
    "one-too-far",
    "ends-late",
    "deadlines-unread",
    "traces-broken",
    *TAMPERED,
)
RARE = ("commit-not-cancelled", "closed-books", "kept-over-a-rebalance")
WITHIN, WITHIN_LONG = 300, 20_000
"""In so many seeds a planted mistake must be found."""
PATHS = frozenset(
    {
        "leaders moved",
        "consumer rebuilt",
        "producer rebuilt",
        "put back",
        "partition halted",
        "commit failed",
        "expelled",
        "! damaged",
        "* kill",
        "* stop",
        "* broken",
        "* cut",
    }
)
"""What happens seldom: a rebuilt client, queries that a drain leaves to the next reader..."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def failure_text(outcome: Outcome) -> str:
    """What is wrong with a seed, how to run it once more, and how it came to be."""
    tail = "\n".join(map(str, outcome.events[-TAIL:]))
    wrong = "\n".join(outcome.violations[:10])
    return f"python -m tests.simulation --seed {outcome.seed} --trace\n{wrong}\n{tail}"


def none_breaks_a_promise(seeds: range) -> tuple[Counter[str], Counter[str]]:
    """Run seeds; count the rows of the contract's table and what happened on the way."""
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
    """Whatever is late, lost, killed, stopped, broken: what is published is right, and committed after."""
    rows, paths = none_breaks_a_promise(range(FIXED))
    for name, count in (rows + paths).items():
        record_property(name, count)
    if COMPILED:  # fewer seeds, of the same schedules
        return
    assert rows.keys() >= ROWS, f"none ended as {ROWS - rows.keys()}"
    rare = PATHS | {"answered again"}
    assert rare <= paths.keys(), f"never happened: {rare - paths.keys()}"


def test_no_fresh_schedule_breaks_a_promise(record_property: Callable[[str, object], None]) -> None:
    """Seeds that no run before this one had; FIVESTAGE_TEST_SEED names the first of them."""
    first = int(os.environ.get(SEED) or secrets.randbelow(2**40))
    record_property("first seed", first)
    none_breaks_a_promise(range(first, first + FRESH))


@pytest.mark.long
def test_no_schedule_breaks_a_promise_in_hours(record_property: Callable[[str, object], None]) -> None:
    """The same with many more fresh seeds."""
    first = int(os.environ.get(SEED) or secrets.randbelow(2**40))
    record_property("first seed", first)
    none_breaks_a_promise(range(first, first + LONG))


@pytest.mark.interpreted
@pytest.mark.parametrize("name", FREQUENT)
def test_a_planted_mistake_is_found(name: str, record_property: Callable[[str, object], None]) -> None:
    """Each mistake that is put into the real code breaks a promise, in one of the first schedules."""
    record_property(name, seeds_until_found(name, WITHIN))


@pytest.mark.long
@pytest.mark.interpreted
@pytest.mark.parametrize("name", RARE)
def test_a_planted_race_is_found(name: str, record_property: Callable[[str, object], None]) -> None:
    """Races that take a rebalance and an error at the same moment are found, in thousands of schedules."""
    record_property(name, seeds_until_found(name, WITHIN_LONG))


def test_every_planted_mistake_is_looked_for() -> None:
    """Here or in the long run."""
    assert set(PLANTED) == {*FREQUENT, *RARE}


def seeds_until_found(name: str, within: int) -> int:
    """How many schedules it takes until a planted mistake breaks a promise."""
    with planted(name):
        for seed in range(within):
            if run(seed).violations:
                return seed + 1
    pytest.fail(f"{name} was not found in {within} schedules")


def digest(seeds: range) -> str:
    """What happened in some seeds, as one short text."""
    events = "\n".join(str(event) for seed in seeds for event in run(seed).events)
    return hashlib.sha256(events.encode()).hexdigest()


def test_a_seed_is_the_same_schedule_everywhere() -> None:
    """A seed that failed once fails always: also in another process, where sets have another order."""
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
