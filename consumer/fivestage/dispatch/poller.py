"""Polls the source as fast as records can be processed, and no faster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from fivestage.core.time_slice import TimeSlice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.observer import Observer
    from fivestage.core.records import CorruptRecord, Record
    from fivestage.dispatch.back_pressure import BackPressure
    from fivestage.dispatch.dispatcher import Dispatcher

LONG_WAIT_S: Final = 1.0
"""Seconds of back-pressure after which the source is paused; until then it is only not polled."""


class RecordSource(Protocol):
    """What the poller needs of a source."""

    async def fetch(self, max_records: int) -> Sequence[Record | CorruptRecord]:
        """Return the next records; an empty list if none come within a short wait."""

    def pause(self) -> None:
        """Fetch no records until ``resume``; ``fetch`` is still called."""

    def resume(self) -> None:
        """Undo ``pause``."""


class Poller:
    """Polls records for a dispatcher.

    Args:
        dispatcher: Takes the records.
        back_pressure: Decides when to poll, and how many records.
        observer: Receives the number of records polled.
    """

    _time_slice: TimeSlice

    def __init__(self, dispatcher: Dispatcher, back_pressure: BackPressure, observer: Observer) -> None:
        self._dispatcher = dispatcher
        self.back_pressure = back_pressure
        self._observer = observer
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Poller {self.back_pressure}>"

    async def run(self, source: RecordSource) -> None:
        """Poll and dispatch until ``stop``; an error of the source ends it."""
        self._time_slice = TimeSlice(asyncio.get_running_loop().time)
        while not self._stopping:
            if not self.back_pressure.has_room():
                await self._wait_for_room(source)
                continue
            await self._dispatch_all(await source.fetch(self.back_pressure.room()))

    def stop(self) -> None:
        """Poll no more; records in flight go on."""
        self._stopping = True

    async def _dispatch_all(self, fetched: Sequence[Record | CorruptRecord]) -> None:
        """Dispatch by time slices: decoding must not delay the deadlines of the queries in flight.

        Nor must a series of fetches that find their records ready, as each with room for one record may. So
        the loop turns once after a fetch that took longer than a slice, also if it only waited.
        """
        if self._time_slice.is_over():
            await self._let_others_run()
        if fetched:
            self._observer.received(len(fetched))
        for item in fetched:
            self._dispatcher.dispatch(item)
            if self._time_slice.is_over():
                await self._let_others_run()

    async def _let_others_run(self) -> None:
        await asyncio.sleep(0)
        self._time_slice = TimeSlice(asyncio.get_running_loop().time)

    async def _wait_for_room(self, source: RecordSource) -> None:
        """Wait for room. A long wait pauses the source but goes on polling it, to stay in the group."""
        has_room = self.back_pressure.has_room
        if await self._dispatcher.progress.wait_until(has_room, LONG_WAIT_S):
            return
        source.pause()
        while not (has_room() or self._stopping):
            # A rebalance may have delivered records before the pause was applied.
            await self._dispatch_all(await source.fetch(1))
        source.resume()
