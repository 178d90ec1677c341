"""Stages whose call waits for a thread.

Where all threads of the pool are busy, a ``def`` stage does not start yet. Its call is handed to the pool at
once, so that it keeps its place in the line and a thread that gets free takes it without delay; the time of
the query stands still until then.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fivestage.core.deadline import stage_grant
from fivestage.core.exception_origin import call_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.plan import StageSpec
    from fivestage.core.routing_snapshot import StageRouting
    from fivestage.pipeline.context import Query, StageContext
    from fivestage.pipeline.thread_pool import Call, Outcome, ThreadPool

MARGIN: Final = 1.1
"""Near its query's deadline a call that has waited is made only with a tenth more time than it takes."""


class Times(NamedTuple):
    """When a query started, ends, and is of no use any more (monotonic seconds)."""

    started_at: float
    ends_at: float
    due_at: float

    def later(self, waited_s: float) -> Times:
        """The same for a query that has waited; what it waits is no part of its time."""
        return Times(self.started_at + waited_s, min(self.ends_at + waited_s, self.due_at), self.due_at)


class Start(NamedTuple):
    """A thread has taken the call, so the stage starts."""

    at: float
    """Monotonic seconds."""
    times: Times
    """Of the query, without the wait."""
    granted_s: float
    refused: str | None
    """Why the stage is not worth starting; its function is not called then."""
    barred: bool = False
    """Its node is not to be called any more; its function is not called then."""


class Parked:
    """One such stage.

    Args:
        spec: The stage.
        routing: What is known of it.
        ctx: Gets the deadlines when the stage starts.
        times: Of the query, as they are now.
        now: Since when it waits (monotonic seconds).
        is_barred: Whether its node is not to be called; asked when a thread is free.
    """

    def __init__(
        self,
        spec: StageSpec,
        routing: StageRouting,
        ctx: StageContext,
        times: Times,
        now: float,
        is_barred: Callable[[], bool],
    ) -> None:
        self._spec = spec
        self._routing = routing
        self._ctx = ctx
        self._times = times
        self._since = now
        self._is_barred = is_barred
        self._notify: Callable[[], None] | None = None
        self.start: Start | None = None
        """None while it waits."""

    def __repr__(self) -> str:
        return f"<Parked {self._spec.stage_type} since {self._since:.3f} {self.start or 'waiting'}>"

    def submit(self, pool: ThreadPool, function: Callable[..., Any], query: Query) -> Call:
        """Have the stage's function called as soon as a thread is free."""
        return pool.submit(self._run, function, query, name=self._ctx.running, parked=True)

    def started(self) -> Start:
        """How the stage starts; as of now if no thread has taken its call."""
        return self.start or self._start()

    async def wait(self, call: Call) -> None:
        """Wait until a thread takes *call*; the next caller of this takes over from this one.

        Cancelling the wait abandons the call: one that still waits for a thread never runs.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits there any more
                loop.call_soon_threadsafe(_set, future)

        def receive(_: Outcome) -> None:
            """It can only end after its start; who waits for the start asks for the outcome then."""

        call.pass_to(receive)
        self._notify = notify
        if self.start is not None:  # read after the line above: the thread sets and reads the other way round
            return
        try:
            await future
        except asyncio.CancelledError:
            call.abandon(receive)
            raise

    def _run(self, function: Callable[..., Any], query: Query) -> Any:
        """In a thread: start the stage and call its function."""
        start = self._start()
        self._ctx.deadline, self._ctx.stage_deadline = start.times.ends_at, start.at + start.granted_s
        self.start = start
        if (notify := self._notify) is not None:
            notify()
        if start.barred or start.refused is not None:
            return None
        return call_in_thread(function, query, self._ctx)

    def _start(self) -> Start:
        now = self._ctx.clock()
        times = self._times.later(now - self._since)
        routing = self._routing
        granted_s, refused = stage_grant(self._spec, routing, now=now, ends_at=times.ends_at)
        left_s, needed_s = times.due_at - now - routing.reserve_s, MARGIN * routing.p50_s
        if refused is None and left_s < needed_s:  # else a line of calls would be made, each to be cut
            left, needed = f"{left_s * 1000:.0f} ms were left", f"it takes {needed_s * 1000:.0f}"
            refused = f"{left} when a thread was free, {needed}"
        return Start(now, times, granted_s, refused, self._is_barred())


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
