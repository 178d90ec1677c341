"""Watches the end-to-end deadlines of queries that wait for a slot or behind their key."""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Final

from fivestage.core.time_slice import TimeSlice

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.dispatch.in_flight import InFlightQuery

SWEEP_AT: Final = 1000
"""Heap entries, besides two for each query that the last sweep left, at which the next sweep comes."""


class QueueDeadlines:
    """Calls back at the end-to-end deadline of each query that still waits then, with one timer for all.

    Used on the bus loop.

    Args:
        expire: Called at the deadline or soon after, with the query and the time (monotonic seconds).
    """

    def __init__(self, expire: Callable[[InFlightQuery, float], None]) -> None:
        self._expire = expire
        self._deadlines: list[tuple[float, int, InFlightQuery]] = []
        self._numbers = count()
        self._sweep_at = SWEEP_AT
        self._timer_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def __repr__(self) -> str:
        return f"<QueueDeadlines {len(self)}>"

    def watch(self, query: InFlightQuery) -> None:
        """Watch the end-to-end deadline of a query, if it has one, while the query waits."""
        due_at = query.budget.due_at
        if due_at is None:
            return
        if len(self._deadlines) >= self._sweep_at:
            self._sweep()
        heappush(self._deadlines, (due_at, next(self._numbers), query))
        if due_at < self._timer_at:
            self._set_timer(due_at)

    def _sweep(self) -> None:
        """Drop the deadlines of queries that no longer wait."""
        self._deadlines[:] = [one for one in self._deadlines if one[2].is_waiting]
        heapify(self._deadlines)
        self._sweep_at = SWEEP_AT + 2 * len(self._deadlines)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._at_deadline)

    def _at_deadline(self) -> None:
        deadlines, time_slice = self._deadlines, TimeSlice(asyncio.get_running_loop().time)
        self._timer, self._timer_at = None, inf
        try:
            while deadlines and (deadlines[0][0] <= time_slice.now or not deadlines[0][2].is_waiting):
                query = heappop(deadlines)[2]
                if query.is_waiting:
                    self._expire(query, time_slice.now)
                    if time_slice.is_over():
                        break
        finally:  # an error with one query must not cost the others their deadlines
            if deadlines:
                self._set_timer(deadlines[0][0])
