"""Watches the deadlines of queries that wait, for a slot or for another of their key."""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.dispatch.in_flight import Candidate

SLICE_S: Final = 0.001
"""How long deadlines that have passed are dealt with before everything else has its turn."""
FORGET_AT: Final = 1000
"""So many deadlines of queries that do not wait any more are kept, and as many again as queries wait."""


class QueueDeadlines:
    """Calls back at the deadline of each query that still waits then; one timer for all of them.

    A query costs nothing but its place in a heap, however many wait. Used on the bus loop.

    Args:
        expire: Called with a query that waits, and the time (monotonic seconds), from its deadline on.
    """

    def __init__(self, expire: Callable[[Candidate, float], None]) -> None:
        self._expire = expire
        self._deadlines: list[tuple[float, int, Candidate]] = []
        self._numbers = count()
        self._forget_at = FORGET_AT
        self._rings_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def __repr__(self) -> str:
        return f"<QueueDeadlines of {len(self)}>"

    def watch(self, candidate: Candidate) -> None:
        """Watch the deadline of a query that waits, where it has one, as long as it waits."""
        due_at = candidate.budget.due_at
        if due_at is None:
            return
        if len(self._deadlines) >= self._forget_at:
            self._forget()
        heappush(self._deadlines, (due_at, next(self._numbers), candidate))
        if due_at < self._rings_at:
            self._set_timer(due_at)

    def _forget(self) -> None:
        """Drop the deadlines of those that do not wait any more."""
        self._deadlines[:] = [one for one in self._deadlines if one[2].waits]
        heapify(self._deadlines)
        self._forget_at = FORGET_AT + 2 * len(self._deadlines)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        deadlines, clock = self._deadlines, asyncio.get_running_loop().time
        now = clock()
        slice_end = now + SLICE_S
        self._timer, self._rings_at = None, inf
        try:
            while deadlines and now < slice_end and (deadlines[0][0] <= now or not deadlines[0][2].waits):
                candidate = heappop(deadlines)[2]
                if candidate.waits:
                    self._expire(candidate, now)
                    now = clock()
        finally:  # whatever is wrong with one of them, the others have theirs
            if deadlines:
                self._set_timer(deadlines[0][0])
