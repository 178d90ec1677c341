"""Thousands of schedules of the service's bus side, in virtual time, none of which may break a promise."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fivestage.version import COMPILED

from .planted import PLANTED, planted
from .run import quiet, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .run import Outcome

SEEDS = 500 if COMPILED else 2000
"""What is compiled does the same; that it does is all that is to be seen."""
TAIL = 60
"""How many of the last events of a failing seed are shown."""
FREQUENT = (
    "highest-finished",
    "no-seek-back",
    "acked-when-sent",
    "numbered-anew",
    "no-lock",
    "dropped-member",
)
RARE = ("commit-not-cancelled", "closed-books", "kept-over-a-rebalance", "drained-for-ever")
WITHIN, WITHIN_LONG = 1000, 20_000
"""In so many seeds a planted mistake must be found."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def told(outcome: Outcome) -> str:
    """What is wrong with a seed, and how it came to be."""
    tail = "\n".join(map(str, outcome.events[-TAIL:]))
    wrong = "\n".join(outcome.violations[:10])
    return f"python -m tests.simulation --seed {outcome.seed} --trace\n{wrong}\n{tail}"


@pytest.mark.fault(4, 5, 7, 8, 9, 11, 13, 26, 30)
def test_no_schedule_breaks_a_promise(record_property: Callable[[str, object], None]) -> None:
    """Whatever is late, lost, killed, stopped, broken: answered, in time, committed only when answered."""
    generations = duplicates = rebuilds = 0
    for seed in range(SEEDS):
        outcome = run(seed)
        assert not outcome.violations, told(outcome)
        generations += outcome.rebalances
        duplicates += outcome.duplicates
        rebuilds += outcome.rebuilds
    record_property("schedules", SEEDS)
    record_property("rebalances", generations)
    record_property("answered again", duplicates)
    record_property("clients made anew", rebuilds)


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
    code = "from tests.simulation import test_simulation as t; print(t.digest(range(25)))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", f"{code}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout.split()[-1] == digest(range(25))
