"""Deadlines of waiting queries: one heap and one timer, in counts and virtual time."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from fivestage._deadline_timer import SWEEP_AT
from fivestage.core.codec.decode import Unreadable, UnreadableReason
from fivestage.core.deadline import Budget
from fivestage.core.ledger import PartitionOffsets
from fivestage.core.records import PlainRecord
from fivestage.core.time_slice import SLICE_S
from fivestage.dispatch.in_flight import InFlightQuery
from fivestage.dispatch.queue_deadlines import QueueDeadlines

from .samples import block

pytestmark = pytest.mark.interpreted
"""A stand-in for a query."""


class Expired:
    """An expiry callback that records its calls."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.calls: list[tuple[int, float]] = []
        """The query and the time."""
        self._takes_s = takes_s
        self.expiry = QueueDeadlines(self._expire)

    def _expire(self, candidate: InFlightQuery, now: float) -> None:
        self.calls.append((candidate.record.offset, round(now, 6)))
        candidate.is_waiting = False
        block(self._takes_s)

    def wait(self, number: int, due_at: float | None) -> InFlightQuery:
        """Add a waiting query."""
        unreadable = Unreadable(UnreadableReason.NOT_JSON, "")  # it is not looked at
        one = InFlightQuery(PlainRecord("q", 0, number), PartitionOffsets(1), unreadable, 0)
        one.budget = Budget(0.25, 0.25, 0.25, due_at=due_at)
        one.is_waiting = True
        self.expiry.watch(one)
        return one


async def test_each_at_its_deadline() -> None:
    """Each query expires at its deadline whatever the order of arrival; others are left alone."""
    seen = Expired()
    for number, due_at in enumerate((0.3, 0.1, None, 0.2, 0.1)):
        one = seen.wait(number, due_at)
        one.is_waiting = number != 3
    await asyncio.sleep(1)
    assert seen.calls == [(1, 0.1), (4, 0.1), (0, 0.3)]
    assert len(seen.expiry) == 0


async def test_an_error_in_one_expiry_does_not_stop_the_others() -> None:
    """An error in one expiry goes to the loop's handler, and the next deadline is kept."""
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))
    seen = Expired()
    for number in range(3):
        seen.wait(number, 0.1).offsets = None if number == 1 else seen  # type: ignore[assignment]
    go_on = seen.expiry._expire

    def expire(candidate: InFlightQuery, now: float) -> None:
        go_on(candidate, now)
        if candidate.offsets is None:
            raise RuntimeError

    seen.expiry._expire = expire
    await asyncio.sleep(1)
    assert ([number for number, _ in seen.calls], len(errors)) == ([0, 1, 2], 1)


async def test_many_at_once_are_dealt_with_in_slices() -> None:
    """Expiries run in slices of a millisecond."""
    seen = Expired(takes_s=SLICE_S / 10)
    for number in range(100):
        seen.wait(number, 0.1)
    turns = [0]

    def turn() -> None:
        turns.append(len(seen.calls))
        asyncio.get_running_loop().call_soon(turn)

    asyncio.get_running_loop().call_at(0.1, turn)
    while len(seen.calls) < 100:
        await asyncio.sleep(0.0001)
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 11


async def test_ended_waits_are_removed() -> None:
    """Entries that no longer wait are removed from the heap, however far their deadlines are."""
    seen = Expired()
    waiting = [seen.wait(number, 1e6) for number in range(100)]
    for number in range(10 * SWEEP_AT):
        seen.wait(number, 1e6).is_waiting = False
        assert len(seen.expiry) <= SWEEP_AT + 3 * len(waiting)
    assert sum(one.is_waiting for _, (_, one) in seen.expiry._deadlines._heap) == len(waiting)
