"""The faults of a run with their times and targets: a pure function of the seed."""

from __future__ import annotations

import random
from enum import StrEnum
from typing import NamedTuple

INSTANCES = range(3)
"""The slots of the instances that run from the start."""
MAX_INSTANCES = 4
MIN_INSTANCES = 2
BROKERS = (1, 2, 3)
FIRST_S = 3.0
GAP_S = (2.0, 6.0)
"""The time between two faults."""
PAUSE_S = (1.0, 12.0)
"""How long an instance is suspended: shorter and longer than its session."""
AWAY_S = (3.0, 12.0)
"""How long a broker is away."""
BROKER_REST_S = 15.0
"""How long all brokers are left alone after one came back, to get in sync."""


class Kind(StrEnum):
    """The kinds of faults."""

    KILL_INSTANCE = "SIGKILL of an instance, and a new one"
    PAUSE_INSTANCE = "SIGSTOP of an instance"
    RESUME_INSTANCE = "SIGCONT of an instance"
    JOIN = "an instance joins"
    LEAVE = "an instance leaves (SIGTERM)"
    KILL_BROKER = "SIGKILL of a broker"
    STOP_BROKER = "a broker stops in good order"
    START_BROKER = "a broker comes back"


WEIGHTS = {
    Kind.KILL_INSTANCE: 3,
    Kind.PAUSE_INSTANCE: 3,
    Kind.JOIN: 2,
    Kind.LEAVE: 2,
    Kind.KILL_BROKER: 3,
    Kind.STOP_BROKER: 2,
}


class Step(NamedTuple):
    """One fault."""

    at_s: float
    """After the start."""
    kind: Kind
    target: int
    """An instance's slot, or a broker's number."""


def schedule(seed: int, seconds: float) -> list[Step]:
    """Return all steps of a run, in order; everything is running again before the end."""
    plan = _Plan(seed, seconds)
    at_s = FIRST_S
    while at_s < seconds:
        plan.add(at_s)
        at_s += plan.draw.uniform(*GAP_S)
    return sorted(plan.steps, key=lambda step: step.at_s)


class _Plan:
    """Tracks the running instances at each moment of the run."""

    def __init__(self, seed: int, seconds: float) -> None:
        self.draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.steps: list[Step] = []
        self._seconds = seconds
        self._members = set(INSTANCES)
        self._paused = (-1, 0.0)
        self._brokers_free_s = 0.0

    def add(self, at_s: float) -> None:
        """Choose a fault that is possible now."""
        slot, until_s = self._paused
        idle = sorted(self._members - ({slot} if until_s >= at_s else set()))
        possible = {Kind.KILL_INSTANCE} if idle else set()
        if until_s < at_s and idle:
            possible.add(Kind.PAUSE_INSTANCE)
        if len(self._members) < MAX_INSTANCES:
            possible.add(Kind.JOIN)
        if len(self._members) > MIN_INSTANCES and idle:
            possible.add(Kind.LEAVE)
        if at_s >= self._brokers_free_s:
            possible |= {Kind.KILL_BROKER, Kind.STOP_BROKER}
        kinds = [kind for kind in WEIGHTS if kind in possible]
        kind = self.draw.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        self._do(kind, at_s, idle)

    def _do(self, kind: Kind, at_s: float, idle: list[int]) -> None:
        match kind:
            case Kind.JOIN:
                target = min(set(range(MAX_INSTANCES)) - self._members)
                self._members.add(target)
            case Kind.KILL_BROKER | Kind.STOP_BROKER:
                target = self.draw.choice(BROKERS)
                back_s = self._back(at_s, AWAY_S)
                self.steps.append(Step(back_s, Kind.START_BROKER, target))
                self._brokers_free_s = back_s + BROKER_REST_S
            case _:
                target = self.draw.choice(idle)
        if kind is Kind.LEAVE:
            self._members.remove(target)
        if kind is Kind.PAUSE_INSTANCE:
            self._paused = (target, self._back(at_s, PAUSE_S))
            self.steps.append(Step(self._paused[1], Kind.RESUME_INSTANCE, target))
        self.steps.append(Step(at_s, kind, target))

    def _back(self, at_s: float, between: tuple[float, float]) -> float:
        return min(at_s + self.draw.uniform(*between), max(self._seconds, at_s))
