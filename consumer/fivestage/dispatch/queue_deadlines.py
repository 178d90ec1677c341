"""Watches the deadlines of queries that wait for a slot or behind their key."""

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

FORGET_AT: Final = 1000
"""Stale deadlines are swept when the heap is longer than this plus twice the number of waiting queries."""


class QueueDeadlines:
    """Calls back at the deadline of each query that still waits then; one timer serves all of them.

    A query costs nothing but its place in a heap, however many wait. Used on the bus loop.

    Args:
        expire: Called from its deadline on with a query that waits, and the time (monotonic seconds).
    """

    def __init__(self, expire: Callable[[InFlightQuery, float], None]) -> None:
        self._expire = expire
        self._deadlines: list[tuple[float, int, InFlightQuery]] = []
        self._numbers = count()
        self._forget_at = FORGET_AT
        self._rings_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def __repr__(self) -> str:
        return f"<QueueDeadlines {len(self)}>"

    def watch(self, query: InFlightQuery) -> None:
        """Watch the deadline of a query, if it has one, as long as it waits."""
        due_at = query.budget.due_at
        if due_at is None:
            return
        if len(self._deadlines) >= self._forget_at:
            self._forget()
        heappush(self._deadlines, (due_at, next(self._numbers), query))
        if due_at < self._rings_at:
            self._set_timer(due_at)

    def _forget(self) -> None:
        """Drop the deadlines of queries that no longer wait."""
        self._deadlines[:] = [one for one in self._deadlines if one[2].is_waiting]
        heapify(self._deadlines)
        self._forget_at = FORGET_AT + 2 * len(self._deadlines)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        deadlines, turn = self._deadlines, TimeSlice(asyncio.get_running_loop().time)
        self._timer, self._rings_at = None, inf
        try:
            while deadlines and (deadlines[0][0] <= turn.now or not deadlines[0][2].is_waiting):
                query = heappop(deadlines)[2]
                if query.is_waiting:
                    self._expire(query, turn.now)
                    if turn.is_over():
                        break
        finally:  # an error with one query must not cost the others their deadlines
            if deadlines:
                self._set_timer(deadlines[0][0])
