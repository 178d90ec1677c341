"""Watches the limits of all calls that wait on a loop, with one timer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fivestage._deadline_timer import DeadlineTimer

if TYPE_CHECKING:
    import asyncio

    from fivestage.pipeline.bounded_call import Bounds


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
    """The limits of calls on one loop. A timer that is left behind would keep a user's loop busy: none is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._jobs: dict[int, Bounds] = {}
        """The bounds of the jobs with a limit that is watched, by key: an entry keeps no ended job alive."""
        self._last_key = 0
        self._limits: DeadlineTimer[int] = DeadlineTimer(self._jobs.__contains__, self._at_limit)

    def __repr__(self) -> str:
        return f"<LoopLimits of {len(self._jobs)} jobs>"

    def enter(self, bounds: Bounds) -> int:
        """Return the key by which limits of *bounds* are watched, until it leaves."""
        self._last_key = key = self._last_key + 1
        self._jobs[key] = bounds
        return key

    def watch(self, at: float, key: int) -> None:
        """Call ``at_limit(at)`` of the bounds with that key at that time, unless they leave before."""
        self._limits.watch(at, key)

    def leave(self, key: int) -> None:
        """Watch no limit of the bounds with that key any more."""
        del self._jobs[key]
        if not self._jobs:
            self._limits.clear()

    def _at_limit(self, set_for: float) -> None:
        until = max(set_for, self.loop.time())
        while (due := self._limits.pop(until)) is not None:
            at, key = due
            self._jobs[key].at_limit(at)
