"""The schedule is a pure function of its seed and keeps its bounds."""

from __future__ import annotations

import pytest

from .load import record
from .schedule import (
    BROKER_REST_S,
    INSTANCES,
    MAX_INSTANCES,
    MIN_INSTANCES,
    Kind,
    Step,
    schedule,
)

SEEDS = range(50)
SECONDS = 300.0
DOWN = {Kind.KILL_BROKER, Kind.STOP_BROKER}


def test_same_seed_same_schedule() -> None:
    """A seed determines schedule and records, and another seed gives others."""
    assert schedule(7, 60) == schedule(7, 60)
    assert schedule(7, 60) != schedule(8, 60)
    assert [record(7, n) for n in range(200)] == [record(7, n) for n in range(200)]
    assert [record(7, n) for n in range(200)] != [record(8, n) for n in range(200)]


def test_every_kind_happens() -> None:
    """A run of five minutes has faults of every kind, a few seconds apart."""
    steps = schedule(1, SECONDS)
    assert {step.kind for step in steps} == set(Kind)
    assert 60 < len(steps) < 200


@pytest.mark.parametrize("seed", SEEDS)
def test_brokers_one_at_a_time(seed: int) -> None:
    """A broker returns before the end, and there is time to get in sync in between."""
    away: list[Step] = []
    last_back_s = -BROKER_REST_S
    for step in schedule(seed, SECONDS):
        if step.kind in DOWN:
            assert not away
            assert step.at_s >= last_back_s + BROKER_REST_S
            away.append(step)
        elif step.kind is Kind.START_BROKER:
            assert away.pop().target == step.target
            last_back_s = step.at_s
            assert last_back_s <= SECONDS
    assert not away


@pytest.mark.parametrize("seed", SEEDS)
def test_instances_that_are_there(seed: int) -> None:
    """Only running instances are killed, suspended or stopped; at most one is suspended; enough are left."""
    members, stopped = set(INSTANCES), set[int]()
    for step in schedule(seed, SECONDS):
        assert step.at_s <= SECONDS
        match step.kind:
            case Kind.JOIN:
                assert step.target not in members
                members.add(step.target)
            case Kind.LEAVE:
                members.remove(step.target)
            case Kind.PAUSE_INSTANCE:
                assert step.target in members
                assert not stopped
                stopped.add(step.target)
            case Kind.RESUME_INSTANCE:
                stopped.remove(step.target)
            case Kind.KILL_INSTANCE:
                assert step.target in members - stopped
        assert members >= stopped
        assert MIN_INSTANCES <= len(members) <= MAX_INSTANCES
    assert not stopped
