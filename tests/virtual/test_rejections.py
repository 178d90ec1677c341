"""Rejection events are published at low priority, after a backlog was read. Time is moved by hand."""

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

PUBLISH_S = 0.000_1
"""The time to publish one rejection event."""


def rejection(offset: int, over_s: float) -> InFlightQuery:
    """Build a rejection that expired this long ago."""
    due_at = asyncio.get_running_loop().time() - over_s
    unreadable = Unreadable(UnreadableReason.NOT_JSON, "")  # it is not looked at
    one = InFlightQuery(PlainRecord("q", 0, offset), PartitionOffsets(1), unreadable, 0)
    one.budget = Budget(due_at, -over_s, 0.25, due_at=due_at)
    return one


class SlowPublisher:
    """A slow publisher of rejection events."""

    def __init__(self) -> None:
        self.published: list[int] = []
        self.rejections = Rejections(self._publish)

    def _publish(self, rejection: InFlightQuery) -> None:
        block(PUBLISH_S)
        self.published.append(rejection.record.offset)

    def add(self, count: int, over_s: float) -> None:
        """Add a number of rejections."""
        for number in range(count):
            self.rejections.add(rejection(number, over_s), asyncio.get_running_loop().time())


@pytest.mark.parametrize(("over_s", "slice_s"), [(0.0, SLICE_S), (OLD_S, SLICE_S), (OLD_S + 0.01, BRIEF_S)])
async def test_rejections_are_published_in_slices(over_s: float, slice_s: float) -> None:
    """Other tasks run after a millisecond, or a quarter of it while a backlog is being read."""
    publisher = SlowPublisher()
    publisher.add(100, over_s)
    await asyncio.sleep(0)
    assert len(publisher.published) == pytest.approx(slice_s / PUBLISH_S, abs=1)
    await asyncio.sleep(READING_S)
    await asyncio.sleep(0)
    assert publisher.published == list(range(100))


async def test_a_backlog_is_published_at_full_speed_once_it_was_read() -> None:
    """Old rejections are published at full speed once no more arrive."""
    publisher = SlowPublisher()
    publisher.add(1000, OLD_S + 1)
    block(READING_S)
    await asyncio.sleep(0)
    assert len(publisher.published) == pytest.approx(SLICE_S / PUBLISH_S, abs=1)


async def test_kept_rejections_are_bounded() -> None:
    """Beyond a bound of kept rejections reading stops, and they are published at full speed."""
    publisher = SlowPublisher()
    publisher.add(MAX_REMEMBERED - 1, OLD_S + 1)
    assert not publisher.rejections.is_full
    publisher.add(1, OLD_S + 1)
    assert publisher.rejections.is_full
    await asyncio.sleep(0)
    assert len(publisher.published) == pytest.approx(SLICE_S / PUBLISH_S, abs=1)
    assert not publisher.rejections.is_full


def publish_slowly(bus: MemoryBus) -> None:
    """Make each rejection slow to publish."""
    publish: Callable[[InFlightQuery], None] = bus.dispatcher.rejections._publish

    def slowly(rejection: InFlightQuery) -> None:
        block(PUBLISH_S)
        publish(rejection)

    bus.dispatcher.rejections._publish = slowly


async def test_a_new_query_does_not_wait_for_rejection_events() -> None:
    """A new query is answered while most earlier rejections of its partition wait; then all are published."""
    settings = Settings.model_validate({"admission": {"query_ttl_ms": 250}})
    async with MemoryBus(pipeline(any=FakeNode()), settings=settings) as bus:
        in_virtual_time(bus)
        publish_slowly(bus)
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
    assert max(ages) - min(ages) < 20  # times of the decision, although publishing takes 200 ms


async def test_a_drain_publishes_all_rejections() -> None:
    """A drain publishes all rejections, so that later answers can be committed."""
    settings = Settings.model_validate({"admission": {"query_ttl_ms": 250}})
    async with MemoryBus(pipeline(any=FakeNode()), settings=settings) as bus:
        in_virtual_time(bus)
        publish_slowly(bus)
        for number in range(1000):
            bus.put(query(f"old{number}"), timestamp=timestamp() - 60_000)
        while not bus.dispatcher.rejections:
            await asyncio.sleep(0.001)
        bus.poller.stop()
        assert await bus.dispatcher.drain(10.0)
        offsets = bus.ledger.offsets(KEY)
        assert offsets is not None
        assert statuses(bus)["expired"] == offsets.position == offsets.next_offset
