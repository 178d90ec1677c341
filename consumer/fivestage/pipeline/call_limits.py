"""Watches the limits of all calls that wait on a loop, with one timer."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from fivestage.pipeline.bounded_call import Bounds

SWEEP_AT: Final = 1000
"""Heap entries, besides two for each job, above which those of ended jobs are swept."""


class CallLimits:
    """The limits of calls, each watched on the loop that it runs on."""

    def __init__(self) -> None:
        self._latest: LoopLimits | None = None

    def __repr__(self) -> str:
        return f"<CallLimits, latest {self._latest}>"

    def on(self, loop: asyncio.AbstractEventLoop) -> LoopLimits:
        """The limits on *loop*. Jobs that share them share one timer, except while several loops run jobs."""
        limits = self._latest
        if limits is None or limits.loop is not loop:
            limits = self._latest = LoopLimits(loop)
        return limits


class LoopLimits:
    """The limits of calls on one loop.

    Nearly all calls end long before their limits: one timer for all costs a query a sixth of what a timer of
    its own does.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._jobs: dict[int, Bounds] = {}
        """The bounds of the jobs with a limit that is watched, by key."""
        self._limits: list[tuple[float, int]] = []
        """A heap of limits and keys, some of calls that have ended."""
        self._last_key = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf

    def __repr__(self) -> str:
        return f"<LoopLimits of {len(self._jobs)} jobs>"

    def watch(self, bounds: Bounds, at: float) -> None:
        """Call ``at_limit(at)`` of *bounds* at that time, until ``drop``."""
        if not bounds.key:
            self._last_key = bounds.key = self._last_key + 1
            self._jobs[bounds.key] = bounds
        heappush(self._limits, (at, bounds.key))
        if at < self._timer_at:
            self._set_timer(at)

    def drop(self, bounds: Bounds) -> None:
        """No call of *bounds* follows."""
        del self._jobs[bounds.key]
        bounds.key = 0
        if not self._jobs:
            self._limits.clear()
            self._stop_timer()
        elif len(self._limits) > SWEEP_AT + 2 * len(self._jobs):
            self._limits[:] = [(one.watched_at, one.key) for one in self._jobs.values()]
            heapify(self._limits)

    def _set_timer(self, at: float) -> None:
        self._stop_timer()
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._at_limit)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, inf

    def _at_limit(self) -> None:
        limits, until = self._limits, max(self._timer_at, self.loop.time())
        self._timer, self._timer_at = None, inf
        while limits and (limits[0][0] <= until or limits[0][1] not in self._jobs):
            at, key = heappop(limits)
            bounds = self._jobs.get(key)
            if bounds is not None:
                bounds.at_limit(at)
        if limits and limits[0][0] < self._timer_at:
            self._set_timer(limits[0][0])
