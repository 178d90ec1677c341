"""The intake: takes records from the source as fast as they can be dealt with, and no faster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from fivestage.core.admission.slots import Gate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.observer import Observer
    from fivestage.core.records import CorruptRecord, Record
    from fivestage.dispatch.dispatcher import Dispatcher

SLICE_S = 0.001
"""How long records are taken in before everything else has its turn."""
LONG_WAIT_S = 1.0
"""A gate closed for longer pauses the source; before that it is only not asked for more."""
MIN_TAKEN_IN = 1024
"""Acknowledgements take their time, whatever the number of slots: so much may be under way at least."""
TAKEN_IN_PER_SLOT = 4


class RecordSource(Protocol):
    """What the intake needs of a source."""

    async def fetch(self, max_records: int) -> Sequence[Record | CorruptRecord]:
        """What came; an empty list after a short wait."""

    def pause(self) -> None:
        """Fetch nothing until resumed; ``fetch`` is still called."""

    def resume(self) -> None:
        """Undo pause."""


class Poller:
    """Fetches records for a dispatcher.

    Args:
        dispatcher: Gets the records.
        max_in_flight: How many queries may run: a few times as many records are taken in, so that slots
            neither wait for the source nor for acknowledgements.
        max_waiting: How many may wait for a slot. What waits for a thread does not count, so that queries
            that need none get past it; it is bounded by what is taken in. Nor does what waits for another of
            its key, so that other keys get past it; that has a bound for each partition (``core/ledger.py``).
        observer: Counts the records that are read.
    """

    def __init__(
        self, dispatcher: Dispatcher, *, max_in_flight: int, max_waiting: int, observer: Observer
    ) -> None:
        self._dispatcher = dispatcher
        self._observer = observer
        unfinished = max(MIN_TAKEN_IN, TAKEN_IN_PER_SLOT * max_in_flight, 2 * max_waiting)
        self._gate = Gate(unfinished)
        self._max_waiting = max_waiting
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Poller {self._gate} of {self._dispatcher}>"

    async def run(self, source: RecordSource) -> None:
        """Fetch and dispatch until ``stop``; whatever the source raises ends it."""
        while not self._stopping:
            if not self._has_room():
                await self._wait_for_room(source)
                continue
            await self._dispatch_all(await source.fetch(self._room()))

    def stop(self) -> None:
        """Fetch no more; what is in flight goes on."""
        self._stopping = True

    def _has_room(self) -> bool:
        dispatcher = self._dispatcher
        open_ = self._gate.update(dispatcher.taken_in) and dispatcher.has_memory
        return open_ and dispatcher.queued < self._max_waiting and not dispatcher.rejections.is_full

    def _room(self) -> int:
        dispatcher = self._dispatcher
        unfinished = self._gate.room(dispatcher.taken_in)
        return max(1, min(unfinished, dispatcher.free_slots + self._max_waiting - dispatcher.queued))

    async def _dispatch_all(self, fetched: Sequence[Record | CorruptRecord]) -> None:
        """Dispatch in slices: parsing must not hold back the deadlines of the queries in flight."""
        if fetched:
            self._observer.received(len(fetched))
        clock = asyncio.get_running_loop().time
        slice_end = clock() + SLICE_S
        for item in fetched:
            self._dispatcher.dispatch(item)
            if clock() > slice_end:
                await asyncio.sleep(0)
                slice_end = clock() + SLICE_S

    async def _wait_for_room(self, source: RecordSource) -> None:
        """Wait until there is room. A long wait pauses the source and goes on calling it, to stay in."""
        if await self._dispatcher.progressed(self._has_room, LONG_WAIT_S):
            return
        source.pause()
        while not (self._has_room() or self._stopping):
            # A rebalance may have delivered before the pause was applied.
            await self._dispatch_all(await source.fetch(1))
        source.resume()
