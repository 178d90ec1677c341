"""Calls of ``def`` stages that wait for a thread.

Where all threads of the pool are busy, a ``def`` stage does not start yet. Its call is queued in the pool at
once, so that the next free thread takes the call without delay. Until then the query's time stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fivestage.core.deadline import stage_grant
from fivestage.core.exception_origin import call_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.plan import StageSpec
    from fivestage.core.routing_snapshot import StageRouting
    from fivestage.pipeline.context import Query, StageContext
    from fivestage.pipeline.thread_call import Call, ValueOrError
    from fivestage.pipeline.thread_pool import ThreadPool

MARGIN: Final = 1.1
"""A call that has waited starts only if this many times its median is left before ``due_at``."""


class Times(NamedTuple):
    """The start, the deadline and the end-to-end deadline of a query (monotonic seconds)."""

    started_at: float
    ends_at: float
    due_at: float

    def later(self, waited_s: float) -> Times:
        """The times after a wait for a thread, which moves all but the end-to-end deadline."""
        return Times(self.started_at + waited_s, min(self.ends_at + waited_s, self.due_at), self.due_at)


class Start(NamedTuple):
    """How a stage starts when a thread has taken its call, or why its function is not called."""

    at: float
    """Monotonic seconds."""
    times: Times
    """The query's times, without the wait."""
    granted_s: float
    skipped: str | None
    """Why the stage is skipped; its function is not called then."""
    barred: bool = False
    """The node may not be called any more; its function is not called then."""


class Parked:
    """One call that waits for a thread.

    Args:
        spec: The stage.
        routing: The stage's limits and typical times.
        ctx: Gets the new deadlines when the stage starts.
        times: The query's times now.
        now: When the wait began (monotonic seconds).
        is_barred: Returns whether the node may not be called; called when a thread is free.
        most_s: Seconds that the call may take, if the stage does not grant less.
    """

    def __init__(
        self,
        spec: StageSpec,
        routing: StageRouting,
        ctx: StageContext,
        times: Times,
        now: float,
        is_barred: Callable[[], bool],
        most_s: float = inf,
    ) -> None:
        self._spec = spec
        self._routing = routing
        self._ctx = ctx
        self._times = times
        self._since = now
        self._is_barred = is_barred
        self._most_s = most_s
        self._notify: Callable[[], None] | None = None
        self.allow_partial = False
        """See ``stage_grant``."""
        self.start: Start | None = None
        """None while the call waits."""

    def __repr__(self) -> str:
        return f"<Parked {self._spec.stage_type} since {self._since:.3f} {self.start or 'waiting'}>"

    def submit(self, pool: ThreadPool, function: Callable[..., Any], query: Query) -> Call:
        """Queue the stage's function for the next free thread."""
        return pool.submit(self._run, function, query, name=self._ctx.running, parked=True)

    def started(self) -> Start:
        """How the stage starts; if no thread has taken the call, how it would start now."""
        return self.start or self._start()

    async def wait(self, call: Call) -> None:
        """Wait until a thread takes *call*. A later caller replaces an earlier one.

        Cancelling the wait abandons the call: if it has not started, it never runs.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_set, future)

        def receive(_: ValueOrError) -> None:
            """Ignore the outcome: the stage runner waits for it after the start."""

        call.pass_to(receive)
        self._notify = notify
        if self.start is not None:  # checked after setting _notify: the thread sets start, then reads _notify
            return
        try:
            await future
        except asyncio.CancelledError:
            call.abandon(receive)
            raise

    def _run(self, function: Callable[..., Any], query: Query) -> Any:
        """Start the stage and call its function, unless it is barred or skipped; runs in a thread."""
        start = self._start()
        self._ctx.deadline, self._ctx.stage_deadline = start.times.ends_at, start.at + start.granted_s
        self.start = start
        if (notify := self._notify) is not None:
            notify()
        if start.barred or start.skipped is not None:
            return None
        return call_in_thread(function, query, self._ctx)

    def _start(self) -> Start:
        now = self._ctx.clock()
        times = self._times.later(now - self._since)
        routing = self._routing
        granted_s, skipped = stage_grant(
            self._spec, routing, now=now, ends_at=times.ends_at, allow_partial=self.allow_partial
        )
        left_s, needed_s = times.due_at - now - routing.reserve_s, MARGIN * routing.p50_s
        if skipped is None and left_s < needed_s:  # else call after call would start and time out
            left, needed = f"{left_s * 1000:.0f} ms were left", f"it takes {needed_s * 1000:.0f}"
            skipped = f"{left} when a thread was free, {needed}"
        return Start(now, times, min(granted_s, self._most_s), skipped, self._is_barred())


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
