"""Watches the end-to-end deadlines of queries that wait for a slot or behind their key."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

from fivestage._deadline_timer import DeadlineTimer
from fivestage.core.time_slice import TimeSlice

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.dispatch.in_flight import InFlightQuery

    Numbered = tuple[int, InFlightQuery]
    """Queries themselves can't be compared."""


class QueueDeadlines:
    """Calls back at the end-to-end deadline of each query that still waits then, with one timer for all.

    Used on the bus loop.

    Args:
        expire: Called at the deadline or soon after, with the query and the time (monotonic seconds).
    """

    def __init__(self, expire: Callable[[InFlightQuery, float], None]) -> None:
        self._expire = expire
        self._deadlines: DeadlineTimer[Numbered] = DeadlineTimer(_is_waiting, self._expire_due)
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._deadlines)

    def __repr__(self) -> str:
        return f"<QueueDeadlines {len(self)}>"

    def watch(self, query: InFlightQuery) -> None:
        """Watch the end-to-end deadline of a query, if it has one, while the query waits."""
        due_at = query.budget.due_at
        if due_at is not None:
            self._deadlines.watch(due_at, (next(self._numbers), query))

    def _expire_due(self, _: float) -> None:
        """Expire queries for one time slice."""
        time_slice = TimeSlice(asyncio.get_running_loop().time)
        while (due := self._deadlines.pop(time_slice.now)) is not None:
            self._expire(due[1][1], time_slice.now)
            if time_slice.is_over():
                break


def _is_waiting(one: Numbered) -> bool:
    return one[1].is_waiting
