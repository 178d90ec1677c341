"""Call durations: thirteen shapes of latency, each a node or two with a random number per query.

A call's duration follows from its query's draw and the state of the node (the time, the running calls,
the cache), never from the order of draws, so that runs with other settings get the same.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heapreplace
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable

SLOTS = 32
"""Queries that may run at a time, in all runs."""
LIMIT_S = 0.12
"""The configured limit of processing, the default."""
LANE = "prod"
SECONDS = 8.0

Draw = float
"""From 0 to 1, one for each query."""
Latency = Callable[[Draw], float]
Call = Callable[[Draw], "Awaitable[None]"]


class Node(NamedTuple):
    """A node of a run, with state of its own."""

    name: str
    lane: str
    call: Call


@dataclass(frozen=True)
class Shape:
    """One shape of latency."""

    name: str
    meaning: str
    capacity_per_s: float
    """Queries a second that can be answered in time without faults."""
    nodes: Callable[[], list[Node]]
    """Makes them, for one run."""
    slow_share: float = 0.0
    """The share of the queries that come in the lane ``slow``."""
    seconds: float = SECONDS
    """The duration of arrivals."""


def clock() -> float:
    """Virtual seconds since the start of the run."""
    return asyncio.get_running_loop().time()


def uniform(u: Draw) -> float:
    """20 to 40 ms."""
    return 0.02 + 0.02 * u


def bimodal(u: Draw) -> float:
    """One in 25 takes 100 ms, the others 30."""
    return 0.1 if u < 0.04 else 0.03


def exponential(u: Draw) -> float:
    """35 ms in the mean."""
    return -0.035 * math.log(1 - u)


def lognormal(u: Draw) -> float:
    """35 ms in the median."""
    return 0.035 * math.exp(0.5 * NormalDist().inv_cdf(max(u, 1e-12)))


def pareto(u: Draw) -> float:
    """At least 15 ms, with a tail of exponent 1.5; at most 10 s."""
    return min(10.0, 0.015 * math.pow(1 - u, -2 / 3))


def mean_s(latency: Latency) -> float:
    """Return the mean time that a call holds its slot, cut at the limit."""
    return fmean(min(latency((n + 0.5) / 2000), LIMIT_S) for n in range(2000))


def sleeps(latency: Latency) -> Call:
    """A node that takes what is drawn, however many run."""

    async def call(u: Draw) -> None:
        await asyncio.sleep(latency(u))

    return call


def drifting(u: Draw) -> float:
    """From 30 to 60 ms and back within a run, a tenth more or less."""
    return (0.9 + 0.2 * u) * (0.045 - 0.015 * math.cos(2 * math.pi * clock() / SECONDS))


def warming_up(u: Draw) -> float:
    """At first three times as long, as usual after 2 s."""
    return uniform(u) * max(1.0, 3 - clock())


PAUSE_EVERY_S, PAUSE_S = 2.0, 0.15


def pausing(u: Draw) -> float:
    """Every 2 s nothing goes on for 150 ms."""
    began_at = at = clock()
    left_s = uniform(u)
    number = max(1, math.ceil((at - PAUSE_S) / PAUSE_EVERY_S))
    while at + left_s > (pause_at := number * PAUSE_EVERY_S):
        left_s -= max(0.0, pause_at - at)
        at = pause_at + PAUSE_S
        number += 1
    return at + left_s - began_at


def slots_inside() -> Call:
    """A server with 8 slots of 40 ms, which does not notice abandoned calls and finishes them."""
    free_at = [0.0] * 8
    heapify(free_at)

    async def call(u: Draw) -> None:
        now = clock()
        ends_at = max(now, free_at[0]) + 0.03 + 0.02 * u
        heapreplace(free_at, ends_at)
        await asyncio.sleep(ends_at - now)

    return call


def thrashing() -> Call:
    """Up to 8 calls take 20 ms each; beyond, each takes longer with the square of how many there are."""
    running = 0

    async def call(u: Draw) -> None:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep((0.015 + 0.01 * u) * max(1.0, running / 8) ** 2)
        finally:
            running -= 1

    return call


KEYS = 300


def cached() -> Call:
    """35 ms for a cached key, else 110; the cache is emptied halfway, and abandoned calls are not cached."""
    known: dict[tuple[bool, int], bool] = {}

    async def call(u: Draw) -> None:
        key = clock() >= SECONDS / 2, int(KEYS * u**3)  # some keys are frequent
        await asyncio.sleep(0.035 if key in known else 0.11)
        known[key] = True

    return call


BAD_FROM_S, BAD_UNTIL_S = 2.0, 4.0


async def bad_for_a_while(u: Draw) -> None:
    """From 2 s to 4 s half of its calls fail after 5 ms, the others hang; else 20 to 40 ms."""
    if not BAD_FROM_S <= clock() < BAD_UNTIL_S:
        await asyncio.sleep(uniform(u))
    elif u < 0.5:
        await asyncio.sleep(0.005)
        raise ConnectionError("the bad node does not answer")
    else:
        await asyncio.sleep(60)


def _one(make: Callable[[], Call]) -> Callable[[], list[Node]]:
    return lambda: [Node("node", LANE, make())]


def _two_lanes() -> list[Node]:
    return [Node("fast", LANE, sleeps(uniform)), Node("slow", "slow", sleeps(lambda u: 0.19 + 0.02 * u))]


def _two_nodes() -> list[Node]:
    second = sleeps(lambda u: 2 * uniform(u))
    return [Node("first", LANE, bad_for_a_while), Node("second", LANE, second)]


def _drawn(name: str, meaning: str, latency: Latency) -> Shape:
    """A shape of which the latency follows from the draw alone."""
    return Shape(name, meaning, SLOTS / mean_s(latency), _one(lambda: sleeps(latency)))


BAD = "30 ms, and from 2 s to 4 s it fails or hangs; a second node takes 60"
_ALL = [
    _drawn("constant", "40 ms", lambda _: 0.04),
    _drawn("bimodal", "30 ms, every 25th 100", bimodal),
    _drawn("exponential", "35 ms in the mean", exponential),
    _drawn("lognormal", "35 ms in the median, sigma 0.5", lognormal),
    _drawn("heavy tail", "Pareto from 15 ms on, exponent 1.5: one in 23 takes more than its limit", pareto),
    Shape("drifting", "from 30 ms to 60 and back", SLOTS / 0.045, _one(lambda: sleeps(drifting))),
    Shape("pauses", "30 ms; every 2 s nothing moves for 150", SLOTS / 0.0325, _one(lambda: sleeps(pausing))),
    Shape(
        "slots inside",
        "a server with 8 slots of 40 ms, which finishes all it is given",
        200,
        _one(slots_inside),
    ),
    Shape("thrashing", "20 ms; from 8 calls on longer with the square of their number", 400, _one(thrashing)),
    Shape(
        "warm-up", "30 ms; first three times that, for 2 s", SLOTS / 0.03, _one(lambda: sleeps(warming_up))
    ),
    Shape("cold cache", "35 ms, 110 where it is not cached; emptied halfway", SLOTS / 0.038, _one(cached)),
    Shape(
        "slow lane", "30 ms; in a lane of its own one in ten, 200", SLOTS / 0.047, _two_lanes, slow_share=0.1
    ),
    Shape("bad node", BAD, SLOTS / 0.06, _two_nodes, seconds=10),
]
SHAPES = {shape.name: shape for shape in _ALL}
