"""Watches the limits of all calls that wait on a loop, with one timer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from fivestage._deadline_timer import DeadlineTimer

if TYPE_CHECKING:
    import asyncio

    from fivestage.pipeline.bounds import Bounds

_latest: Final = threading.local()
"""Has the LoopLimits of the loop that each thread ran last."""


def limits_on(loop: asyncio.AbstractEventLoop) -> LoopLimits:
    """The limits of calls on *loop*, which runs in this thread."""
    found: LoopLimits | None = getattr(_latest, "limits", None)
    if found is None or found.loop is not loop:
        found = _latest.limits = LoopLimits(loop)
    return found


class LoopLimits:
    """The limits of calls on one loop. The timer is cancelled when nothing is watched any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._bounds: dict[int, Bounds] = {}
        """Those with a limit that is watched, by key: a deadline keeps nothing alive that has ended."""
        self._last_key = 0
        self._deadlines: DeadlineTimer[int] = DeadlineTimer(self._bounds.__contains__, self._at_limit)

    def __repr__(self) -> str:
        return f"<LoopLimits of {len(self._bounds)} bounds>"

    def enter(self, bounds: Bounds) -> int:
        """Return the key by which limits of *bounds* are watched, until it leaves."""
        self._last_key = key = self._last_key + 1
        self._bounds[key] = bounds
        return key

    def watch(self, at: float, key: int) -> None:
        """Call ``at_limit(at)`` of the bounds with that key at that time, unless they leave before."""
        self._deadlines.watch(at, key)

    def leave(self, key: int) -> None:
        """Watch no limit of the bounds with that key any more."""
        del self._bounds[key]
        if not self._bounds:
            self._deadlines.clear()

    def _at_limit(self, set_for: float) -> None:
        until = max(set_for, self.loop.time())
        while (due := self._deadlines.pop(until)) is not None:
            at, key = due
            self._bounds[key].at_limit(at)
