"""Lanes share slots, and nothing else: each has its own learned state."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from fivestage.core.adaptive.lane_state import MAX_LANES, OTHER_LANES
from fivestage.core.records import Output
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import StageType

from .samples import (
    FakeNode,
    Listening,
    ask_for_a_second,
    ask_in_turn,
    ask_many,
    finish,
    pipeline,
    query,
    statuses,
)

SLOTS, TAKES_S = 20, 0.02


def lanes(shares: Any, **admission: Any) -> Settings:
    """Settings with these lanes."""
    options = {"max_in_flight": SLOTS, "adaptive_limit": False, **admission}
    return Settings.model_validate({"lanes": shares, "admission": options, "adaptive": {"enabled": False}})


async def running_in(shares: Any, arrivals: list[str]) -> tuple[set[tuple[int, ...]], Listening]:
    """Return the highest concurrency of each lane while all lanes waited, and the answers."""
    listening, seen = Listening(), set()
    settings = lanes(shares)
    async with MemoryBus(pipeline(any=FakeNode(TAKES_S)), settings=settings, observer=listening) as bus:
        for number, lane in enumerate(arrivals):
            bus.put(query(f"q{number}", lane=lane))
        await asyncio.sleep(3.5 * TAKES_S)
        slots = bus.dispatcher.slots
        while all(lane in slots._queues._queues for lane in settings.lanes):
            seen.add(tuple(slots._running[lane] for lane in settings.lanes))
            await asyncio.sleep(TAKES_S)
        await finish(bus, len(arrivals))
    return seen, listening


async def test_saturated_lanes_have_their_shares() -> None:
    """Two saturated lanes get 18 and 2 of 20 slots, also when both start with equal queues."""
    arrivals = [*["prod", "canary"] * 42, *[*["prod"] * 9, "canary"] * 92]
    seen, listening = await running_in({"prod": 0.9, "canary": 0.1}, arrivals)
    assert seen == {(18, 2)}
    assert listening.answered == {"prod": 870, "canary": 134}


@pytest.mark.parametrize("shares", [["prod", "canary"], {"prod": 7, "canary": 7}])
async def test_a_list_of_lanes_means_equal_shares(shares: Any) -> None:
    """Names alone, or equal weights of any size, give each lane half of the slots."""
    seen, _ = await running_in(shares, ["prod", "canary"] * 400)
    assert seen == {(10, 10)}


async def test_a_lane_alone_has_all_slots() -> None:
    """A lane may use all slots while no other lane wants more."""
    node = FakeNode(TAKES_S)
    async with MemoryBus(pipeline(any=node), settings=lanes({"prod": 0.9, "canary": 0.1})) as bus:
        await ask_many(bus, "q", 200, lane="canary")
        assert asyncio.get_running_loop().time() == pytest.approx(200 / SLOTS * TAKES_S)
    assert node.highest == SLOTS


async def test_a_lane_that_comes_back_has_its_share_at_once() -> None:
    """A burst of the large lane gets every freed slot until it has its share."""
    async with MemoryBus(
        pipeline(any=FakeNode(TAKES_S)), settings=lanes({"prod": 0.9, "canary": 0.1})
    ) as bus:
        for number in range(60):
            bus.put(query(f"canary{number}", lane="canary"))
        await asyncio.sleep(TAKES_S / 2)
        for number in range(24):
            bus.put(query(f"prod{number}", lane="prod"))
        await asyncio.sleep(TAKES_S)
        slots = bus.dispatcher.slots
        assert (slots._running["prod"], slots._running["canary"]) == (18, 2)
        await finish(bus, 84)


async def test_a_lane_that_is_not_listed_is_refused() -> None:
    """A query of an unlisted lane gets an error event and becomes a dead letter."""
    node = FakeNode()
    async with MemoryBus(pipeline(any=node), settings=lanes({"prod": 0.9, "canary": 0.1})) as bus:
        refused = await bus.ask("any", lane="staging")
        assert str((await bus.ask("any")).status) == "success"
    assert (str(refused.status), refused.error_type, refused.stages) == ("error", "invalid_query", [])
    assert len(bus.sink.of(Output.DEAD_LETTERS)) == 1
    assert len(node.calls) == 1


async def test_each_lane_has_its_own_breakers_and_limits() -> None:
    """A node that fails and slows down in one lane keeps its breaker and limit in the other."""
    node = FakeNode(0.01)
    async with MemoryBus(pipeline(any=node)) as bus:
        await ask_in_turn(bus, 150, lane="canary")
        node.fails = True
        await ask_for_a_second(bus, 101, lane="canary")
        node.fails = False
        canary, prod = await bus.ask("any", lane="canary"), await bus.ask("any", lane="prod")
        lanes = bus.dispatcher.learned.lanes
        assert set(lanes) == {"canary", "prod"}
        limits = {name: lane.limits[2].limit_s for name, lane in lanes.items()}
    assert (canary.error_type, str(prod.status)) == ("breaker_open", "success")
    assert limits == {"canary": pytest.approx(0.06, abs=1e-3), "prod": 0.12}
    assert prod.stages[2].timeout_ms == 120


async def test_lanes_without_number_share_one_policy() -> None:
    """At most 32 invented lanes have their own state; the others share one breaker."""
    node = FakeNode()
    async with MemoryBus(pipeline(any=node)) as bus:
        for number in range(MAX_LANES):
            bus.put(query(f"q{number}", lane=f"lane{number}"))
        await finish(bus, MAX_LANES)
        node.fails = True
        for number in range(31):
            bus.put(query(f"r{number}", lane=f"more{number}"))
            await asyncio.sleep(1.001 / 30)
        await finish(bus, MAX_LANES + 31)
        node.fails = False
        late = await bus.ask("any", lane="late")
        early = await bus.ask("any", lane="lane0")
        learned = bus.dispatcher.learned
        assert len(learned.lanes) == MAX_LANES + 1
        assert learned.lane("late") is learned.lane("more3") is learned.lanes[OTHER_LANES]
    assert (late.error_type, late.lane, str(early.status)) == ("breaker_open", "late", "success")


async def test_the_lane_of_queries_that_name_none() -> None:
    """Queries without a lane share the slots and the state of the default lane."""
    async with MemoryBus(pipeline(any=FakeNode(0.01)), settings=lanes({"prod": 1, "b": 1})) as bus:
        bus.put(orjson.dumps({"query_id": "q", "user_input": "any"}))
        await asyncio.sleep(0.005)
        assert bus.dispatcher.slots._running["prod"] == 1
        await finish(bus, 1)
    assert statuses(bus) == {"success": 1}
    assert bus.dispatcher.learned.lane("prod").nodes.keys() == {"any"}
    assert [str(stage.stage_type) for stage in bus.results()[0].stages] == list(StageType)
