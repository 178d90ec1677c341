"""Arrival times of queries: five loads, in multiples of a shape's capacity."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .controls_shapes import LANE

if TYPE_CHECKING:
    from .controls_shapes import Shape

BURST_EVERY_S, BURST_WITHIN_S = 1.0, 0.02
OF_USE_S = 0.5
"""The time after it was asked in which a query's answer is useful."""


@dataclass(frozen=True)
class Load:
    """One load."""

    name: str
    share: float
    """Of the capacity, evenly: a Poisson process."""
    burst_s: float = 0.0
    """A burst every second, within 20 ms, worth this many seconds of the capacity."""
    longer: float = 1.0
    """Its duration relative to other loads."""
    has_deadline: bool = False
    """Whether the service knows the deadline of answers (``admission.query_ttl_ms``)."""


# Beyond capacity all are answered while the queue fills, and a queue that may get longer fills for longer: it
# is what follows that is to be seen.
LOADS = {
    load.name: load
    for load in (
        Load("10 %", 0.1),
        Load("50 %", 0.5),
        Load("90 %", 0.9, has_deadline=True),
        Load("bursts", 0.3, burst_s=0.25, has_deadline=True),
        Load("150 %", 1.5, longer=2.0, has_deadline=True),
    )
}


class Asked(NamedTuple):
    """One query."""

    at: float
    """Seconds from the start of the run."""
    draw: float
    lane: str


def queries(shape: Shape, load: Load, seed: int) -> list[Asked]:
    """All queries of a run in the order they arrive: the same for every column of a cell."""
    rng = random.Random(f"{shape.name} {load.name} {seed}")  # noqa: S311 - repeatable on purpose
    moments = []
    at = rng.expovariate(load.share * shape.capacity_per_s)
    while at < shape.seconds * load.longer:
        moments.append(at)
        at += rng.expovariate(load.share * shape.capacity_per_s)
    size = round(load.burst_s * shape.capacity_per_s)
    for second in range(1, int(shape.seconds)):
        moments += [second * BURST_EVERY_S + rng.uniform(0, BURST_WITHIN_S) for _ in range(size)]
    moments.sort()
    lanes = ("slow", LANE)
    return [Asked(at, rng.random(), lanes[rng.random() >= shape.slow_share]) for at in moments]
