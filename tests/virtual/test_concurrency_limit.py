"""The learned concurrency limit, on the memory bus."""

from __future__ import annotations

import asyncio
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from fivestage.core.observer import ControlChange, Observer
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus

from .samples import FakeNode, pipeline, query, statuses

if TYPE_CHECKING:
    from fivestage import Query, StageContext

SEED = 3
IN_NODE = {"pipeline": {"stage_timeouts_ms": {"processing": 240}}}
LLM = {"pipeline": {"total_timeout_ms": 10_000, "stage_timeouts_ms": {"processing": 9_000}}}


class LimitedNode(FakeNode):
    """Serves 16 concurrent calls in 20 ms each; further calls queue inside."""

    def __init__(self) -> None:
        super().__init__(0.02)
        self._inside = asyncio.Semaphore(16)

    async def __call__(self, query: Query, ctx: StageContext) -> str:
        async with self._inside:
            return await super().__call__(query, ctx)


class LognormalNode(FakeNode):
    """Takes a lognormal random time, independent of the concurrency."""

    def __init__(self, median_s: float) -> None:
        super().__init__()
        self._median_s = median_s
        self._random = Random(SEED)  # noqa: S311

    async def __call__(self, query: Query, _ctx: StageContext) -> str:
        await asyncio.sleep(self._median_s * self._random.lognormvariate(0, 0.5))
        return query.user_input


class Reports(Observer):
    """Records changes of controls."""

    def __init__(self) -> None:
        self.changes: list[ControlChange] = []

    def control_changed(self, change: ControlChange) -> None:
        self.changes.append(change)


class Surge(NamedTuple):
    """The results of a surge of queries."""

    answered: int
    waited: int
    lowered_at_s: float
    changes: list[ControlChange]


async def surge(node: FakeNode, options: dict[str, Any], rate: float, seconds: float) -> Surge:
    """Send queries at a fixed rate and collect the results; breakers and learned stage limits are off."""
    settings = Settings.model_validate(
        {"breaker": {"window": 10**6, "minimum_calls": 10**6}, "adaptive": {"enabled": False}, **options}
    )
    reports, lowered_at, waited = Reports(), inf, 0
    async with MemoryBus(pipeline(any=node), settings=settings, observer=reports) as bus:
        clock = asyncio.get_running_loop().time
        began = clock()
        for number in range(int(rate * seconds)):
            bus.put(query(f"q{number}"))
            await asyncio.sleep(1 / rate)
            waited += bus.dispatcher.waiting > 0
            if bus.dispatcher.slots.limit < settings.admission.max_in_flight:
                lowered_at = min(lowered_at, clock() - began)
        return Surge(statuses(bus)["success"], waited, lowered_at, reports.changes)


async def test_a_node_with_a_queue_inside_is_protected() -> None:
    """At 150 % load on a node with 16 slots of 20 ms the limit falls within 2 s and goodput rises."""
    learned = await surge(LimitedNode(), IN_NODE, 1200, 3)
    fixed = await surge(LimitedNode(), {**IN_NODE, "admission": {"adaptive_limit": False}}, 1200, 3)
    assert learned.lowered_at_s < 2
    assert learned.answered > 1.2 * fixed.answered
    assert learned.changes[0].control == "concurrency_limit"
    assert learned.changes[0].change == "lowered"
    assert "timed out" in learned.changes[0].why
    assert fixed.changes == []


@pytest.mark.parametrize(
    ("median_s", "rate", "seconds", "options"),
    [
        pytest.param(1.6, 100, 20, LLM, id=f"LLM, seed {SEED}"),
        pytest.param(0.06, 1500, 2, IN_NODE, id=f"60 ms, seed {SEED}"),
    ],
)
async def test_nothing_waits_where_there_is_room(
    median_s: float, rate: float, seconds: float, options: dict[str, Any]
) -> None:
    """Nodes of lognormal latency that need 190 and 103 concurrent calls of 256 are not throttled at start."""
    found = await surge(LognormalNode(median_s), options, rate, seconds)
    assert (found.waited, found.lowered_at_s) == (0, inf)
