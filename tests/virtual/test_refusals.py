"""Refusals are told when there is time: a backlog of them is read first. Time is moved by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from fivestage.core.codec.decode import Unreadable, UnreadableReason
from fivestage.core.deadline import Budget
from fivestage.core.ledger import PartitionOffsets
from fivestage.core.records import PlainRecord
from fivestage.core.time_slice import SLICE_S
from fivestage.dispatch.in_flight import InFlightQuery
from fivestage.dispatch.rejections import (
    BRIEF_S,
    MAX_REMEMBERED,
    OLD_S,
    READING_S,
    Rejections,
)
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus

from .samples import KEY, FakeNode, block, finish, in_virtual_time, pipeline, query, statuses, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

TELLING_S = 0.000_1
"""How long it takes to tell one."""


def rejection(offset: int, over_s: float) -> InFlightQuery:
    """One whose time was up so long ago."""
    due_at = asyncio.get_running_loop().time() - over_s
    unreadable = Unreadable(UnreadableReason.NOT_JSON, "")  # it is not looked at
    one = InFlightQuery(PlainRecord("q", 0, offset), PartitionOffsets(1), unreadable, 0)
    one.budget = Budget(due_at, -over_s, 0.25, due_at=due_at)
    return one


class Teller:
    """Refusals that take a while to tell."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.rejections = Rejections(self._tell)

    def _tell(self, rejection: InFlightQuery) -> None:
        block(TELLING_S)
        self.told.append(rejection.record.offset)

    def add(self, count: int, over_s: float) -> None:
        """So many come in."""
        for number in range(count):
            self.rejections.add(rejection(number, over_s), asyncio.get_running_loop().time())


@pytest.mark.parametrize(("over_s", "slice_s"), [(0.0, SLICE_S), (OLD_S, SLICE_S), (OLD_S + 0.01, BRIEF_S)])
async def test_how_many_are_told_in_one_turn(over_s: float, slice_s: float) -> None:
    """Others have their turn after a millisecond; after a quarter of it while a backlog is being read."""
    teller = Teller()
    teller.add(100, over_s)
    await asyncio.sleep(0)
    assert len(teller.told) == pytest.approx(slice_s / TELLING_S, abs=1)
    await asyncio.sleep(READING_S)
    await asyncio.sleep(0)
    assert teller.told == list(range(100))


async def test_a_backlog_that_has_been_read_is_told_at_full_speed() -> None:
    """Old ones are hurried once no more of them come."""
    teller = Teller()
    teller.add(1000, OLD_S + 1)
    block(READING_S)
    await asyncio.sleep(0)
    assert len(teller.told) == pytest.approx(SLICE_S / TELLING_S, abs=1)


async def test_what_is_remembered_is_bounded() -> None:
    """With so many to be told nothing more should be read, and they are told at full speed."""
    teller = Teller()
    teller.add(MAX_REMEMBERED - 1, OLD_S + 1)
    assert not teller.rejections.is_full
    teller.add(1, OLD_S + 1)
    assert teller.rejections.is_full
    await asyncio.sleep(0)
    assert len(teller.told) == pytest.approx(SLICE_S / TELLING_S, abs=1)
    assert not teller.rejections.is_full


def tell_slowly(bus: MemoryBus) -> None:
    """Let each refusal take a while."""
    tell: Callable[[InFlightQuery], None] = bus.dispatcher.rejections._publish

    def slowly(rejection: InFlightQuery) -> None:
        block(TELLING_S)
        tell(rejection)

    bus.dispatcher.rejections._publish = slowly


async def test_a_new_query_does_not_wait_for_a_backlog_to_be_told() -> None:
    """It is answered while most of those before it in its partition have yet to be told; then all are."""
    settings = Settings.model_validate({"admission": {"query_ttl_ms": 250}})
    async with MemoryBus(pipeline(any=FakeNode()), settings=settings) as bus:
        in_virtual_time(bus)
        tell_slowly(bus)
        for number in range(2000):
            bus.put(query(f"old{number}"), timestamp=timestamp() - 60_000)
        bus.put(query("new"), timestamp=timestamp())
        while statuses(bus)["success"] == 0:
            await asyncio.sleep(0.001)
        assert statuses(bus)["expired"] < 1000
        assert len(bus.dispatcher.rejections) > 1000
        await finish(bus, 2001)
        assert statuses(bus) == {"success": 1, "expired": 2000}
    ages = {round(result.metrics.queue_ms) for result in bus.results() if result.status == "expired"}
    assert max(ages) - min(ages) < 20  # as they were read, however late they were told: that takes 200 ms


async def test_at_the_end_all_are_told() -> None:
    """A drain waits for them: what was answered behind them can be committed."""
    settings = Settings.model_validate({"admission": {"query_ttl_ms": 250}})
    async with MemoryBus(pipeline(any=FakeNode()), settings=settings) as bus:
        in_virtual_time(bus)
        tell_slowly(bus)
        for number in range(1000):
            bus.put(query(f"old{number}"), timestamp=timestamp() - 60_000)
        while not bus.dispatcher.rejections:
            await asyncio.sleep(0.001)
        bus.poller.stop()
        assert await bus.dispatcher.drain(10.0)
        offsets = bus.ledger.offsets(KEY)
        assert offsets is not None
        assert statuses(bus)["expired"] == offsets.position == offsets.next_offset
