"""Builds the status document, section by section, in slices of the bus loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import orjson

from fivestage.core.time_slice import TimeSlice
from fivestage.observability.status.figures import RECENT_SLOTS, SLOT_S
from fivestage.observability.status.summary import between, iso, percentiles, rates, series, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fivestage.observability.event_log import EventLog
    from fivestage.observability.status.model import RecentQuery, Series
    from fivestage.observability.status.readings import Readings
    from fivestage.observability.status.recent import KeptQuery

RECENT_EVERY_S: Final = 1.0
"""How often the list of recent queries is made: while everything fails, each is another one."""

Sections = dict[str, bytes]
"""The document's top-level keys, each with its value as JSON."""


class StatusDocument:
    """Makes the status document, and closes the slots of its figures. Used on the bus loop.

    Args:
        readings: The parts of the service.
        events: The last lines of the log.
    """

    def __init__(self, readings: Readings, events: EventLog) -> None:
        self._readings = readings
        self._recorder = readings.recorder
        self._events = events
        self._objective = readings.settings.admin.objective
        self._clock = asyncio.get_running_loop().time
        self._started_at = self._slot_at = self._clock()
        self._series: tuple[int, Series] | None = None
        self._recent: list[KeptQuery] = []
        self._recent_at = -RECENT_EVERY_S
        self._lock = asyncio.Lock()
        self._turn = TimeSlice(self._clock)

    async def run(self) -> None:
        """Close a slot every SLOT_S, until cancelled."""
        while True:
            await asyncio.sleep(max(0.0, self._slot_at + SLOT_S - self._clock()))
            self.close_slots()

    def close_slots(self) -> None:
        """Close the slots that are over; several, if the loop did not turn for a while."""
        now, readings = self._clock(), self._readings
        lags = readings.lags()
        while now - self._slot_at >= SLOT_S:
            self._slot_at += SLOT_S
            self._recorder.close_slot(now, running=readings.dispatcher.slots.running, lags=lags)

    async def sections(self) -> Sections:
        """Return the document as it is now. One is made at a time; others wait for theirs."""
        async with self._lock:
            self._turn = TimeSlice(self._clock)
            found: Sections = {}
            for name, build in self._builders().items():
                value = build()
                await self._rest()
                found[name] = orjson.dumps(await self._rows(value) if isinstance(value, Iterator) else value)
            return found

    async def _rows(self, rows: Iterator[Any]) -> list[Any]:
        found = []
        for row in rows:
            found.append(row)
            await self._rest()
        return found

    async def _rest(self) -> None:
        """Let the loop do other work if the slice is over."""
        if self._turn.is_over():
            await asyncio.sleep(0)
            self._turn = TimeSlice(self._clock)

    def _builders(self) -> Mapping[str, Callable[[], Any]]:
        readings, figures = self._readings, self._recorder.figures
        clock, settings = self._clock, self._readings.settings
        uptime_s = clock() - self._started_at
        recent_s = max(1.0, min(RECENT_SLOTS * SLOT_S, uptime_s))
        return {
            "schema_version": lambda: "1",
            "at": lambda: iso(self._recorder.wall_clock()),
            "service": lambda: readings.service(uptime_s),
            "objective": lambda: self._objective,
            "budget_ms": lambda: float(settings.pipeline.total_timeout_ms),
            "windows": lambda: windows(figures, objective=self._objective),
            "rates": lambda: rates(figures, clock() - self._slot_at, uptime_s),
            "latency": lambda: percentiles(figures.whole),
            "series": self._points,
            "stages": readings.stages,
            "between": lambda: between(figures),
            "nodes": lambda: readings.nodes(clock(), recent_s),
            "load": lambda: readings.load(clock()),
            "lag": lambda: readings.lag(clock()),
            "partitions": lambda: readings.partitions(clock()),
            "workers": lambda: readings.workers(clock()),
            "recent": self._recent_queries,
            "events": self._events.newest_first,
        }

    def _points(self) -> Series:
        """The series; they change when a slot is closed."""
        recorder = self._recorder
        if self._series is None or self._series[0] != recorder.closed:
            slot_started_wall = recorder.wall_clock() - (self._clock() - self._slot_at)
            self._series = recorder.closed, series(recorder.figures, slot_started_wall)
        return self._series[1]

    def _recent_queries(self) -> Iterator[RecentQuery]:
        if self._clock() - self._recent_at >= RECENT_EVERY_S:
            self._recent_at = self._clock()
            self._recent = self._recorder.recent.newest_first()
        return (kept.document() for kept in self._recent)


def as_json(sections: Sections) -> bytes:
    """Return the sections as one JSON object."""
    return b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in sections.items()) + b"}"
