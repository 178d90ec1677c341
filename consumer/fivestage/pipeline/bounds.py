"""Runs coroutines of user code, each until a given time, and reports how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from math import inf
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.codec.data_json import as_json
from fivestage.core.codec.refused_event import TOO_LARGE
from fivestage.pipeline import fork_guard
from fivestage.pipeline.bounded_call import BoundedCall
from fivestage.pipeline.call_limits import LoopLimits, limits_on
from fivestage.pipeline.call_result import CallResult
from fivestage.pipeline.step_monitor import StepMonitor
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

FOREVER_S: Final = 1e6
"""Seconds: for a call without a limit, which something else ends."""
_SUCCESS: Final = Outcome.SUCCESS
_UNWATCHED: Final = StepMonitor()


class Bounds:
    """Runs the calls of one job, one after the other, each until its own limit.

    Whether time ran out is read from the timer and the clock, not from the exception: user code may raise
    its own TimeoutError, swallow its cancellation, or finish late although nothing interrupted it.

    Args:
        cancelled_outside: Whether a CancelledError comes from the caller; if not, user code has cancelled
            its own task, which is an error of that code.
        number: The job's number, for *monitor*.
        monitor: Is written before and after every step of user code.
        max_bytes: Data that takes more bytes as JSON is left out of the results.
        latest: Until when a limit may be extended because other code blocked the loop (monotonic seconds);
            0.0 = never.
    """

    __slots__ = (
        "_call", "_key", "_watch_at", "_watched_by", "cancelled_outside", "cells", "check",
        "clock", "excused", "forks", "latest", "loop", "max_bytes", "number", "retry_on", "task",
    )  # fmt: skip

    def __init__(
        self,
        cancelled_outside: Callable[[], bool],
        *,
        number: int = 0,
        monitor: StepMonitor | None = None,
        max_bytes: int | None = None,
        latest: float = 0.0,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        usual = getattr(self.loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        self.clock = time.monotonic if usual else self.loop.time  # the same clock, one call cheaper
        self.cancelled_outside = cancelled_outside
        self.number = number
        self.cells = (monitor or _UNWATCHED).cells
        self.forks = fork_guard.count[0]
        self.max_bytes = max_bytes
        self.latest = latest
        self.check: Callable[[Any], None] | None = None
        """Raises if the next call's data is not what its stage must return."""
        self.excused: tuple[type[BaseException], ...] = ()
        """Exceptions of the next call that are not failures."""
        self.retry_on: tuple[type[BaseException], ...] = ()
        """Exceptions of the next call after which it may be made again."""
        self.task: asyncio.Task[Any] | None = None
        """The task that the calls run in; user code may have cancelled it."""
        self._call: BoundedCall | None = None
        """The call that waits; at most one does."""
        self._watched_by: LoopLimits | None = None
        """None as long as no limit is watched."""
        self._watch_at = inf
        """The earliest limit that is watched: that of *_call* or an earlier one."""
        self._key = 0
        """See ``LoopLimits``."""

    def beside(self, cancelled_outside: Callable[[], bool]) -> Bounds:
        """Bounds for a call of the same job in a task of its own, beside those of this object."""
        other = Bounds(cancelled_outside, number=self.number, max_bytes=self.max_bytes, latest=self.latest)
        other.cells = self.cells
        return other

    async def run(self, call: Coroutine[Any, Any, Any], ends_at: float) -> CallResult:
        """Await user code until *ends_at* (seconds of the loop's clock); its data must be JSON.

        Raises:
            asyncio.CancelledError: the caller was cancelled from outside.
        """
        result = self.start(call, self.clock(), ends_at)
        return result if isinstance(result, CallResult) else await result

    def start(
        self, call: Coroutine[Any, Any, Any], started_at: float, ends_at: float
    ) -> CallResult | Coroutine[Any, Any, CallResult]:
        """Run the first step; returns the result, or a coroutine that returns it if the code waits.

        Most stages end in their first step, and need neither a timer nor a second coroutine.
        """
        if self.task is None:
            self.task = asyncio.current_task(self.loop)
        data, failed = None, None
        self._enter()
        try:  # not by step(): compiled, each frame that an exception passes makes a traceback
            waiting_for = call.send(None)
        except StopIteration as finished:
            self._leave()
            data = finished.value
        except BaseException as raised:
            self._leave()
            if isinstance(raised, asyncio.CancelledError) and self.cancelled_outside():
                raise
            # Not the error itself: its traceback holds this frame.
            failed = CallResult.of_error(raised, 0.0, self.excused, self.retry_on)
        else:
            self._leave()
            return self._wait(BoundedCall(call, waiting_for, ends_at, self), started_at)
        return self._result(data, failed, started_at, ends_at)

    async def _wait(self, call: BoundedCall, started_at: float) -> CallResult:
        """Await a call that did not end in its first step."""
        limit_at = call.ends_at
        data, failed = None, None
        try:
            data = await call
        except BaseException as raised:
            cancelled = isinstance(raised, asyncio.CancelledError) and not call.expired
            if call.closed or (cancelled and self.cancelled_outside()):
                raise
            failed = CallResult.of_error(raised, 0.0, self.excused, self.retry_on)
        ends_at = -inf if call.expired else call.ends_at
        result = self._result(data, failed, started_at, ends_at, call.ends_at - started_at)
        result = result if isinstance(result, CallResult) else await result
        result.extended_s = call.ends_at - limit_at
        return result

    def _result(
        self,
        data: Any,
        failed: CallResult | None,
        started_at: float,
        ends_at: float,
        limit_s: float | None = None,
    ) -> CallResult | Coroutine[Any, Any, CallResult]:
        """Make the result of a call that was to end at *ends_at*.

        *limit_s* is the limit that a timeout states; by default the time from *started_at* to *ends_at*.
        """
        data_json = None
        if failed is None:
            try:
                if self.check is not None:
                    self.check(data)
                data, data_json = as_json(data, self.max_bytes)
            except BaseException as raised:  # noqa: BLE001 - the data may be of a class of the user's own
                failed = CallResult.of_error(raised)
        ended_at = self.clock()
        took_s = ended_at - started_at
        cancelled = self.task is not None and self.task.cancelling() and not self.cancelled_outside()
        # Until Python 3.13 a TaskGroup that fails leaves its task so, though its cancellation was thrown.
        if cancelled and failed is None and getattr(self.task, "_must_cancel", True):
            failed = CallResult.of_error(asyncio.CancelledError("it cancelled its own task"))
        if ended_at > ends_at:
            result = CallResult.of_timeout(ends_at - started_at if limit_s is None else limit_s, took_s)
        elif failed is not None:
            failed.duration_s, result = took_s, failed
        elif data_json is None:
            text = f"data left out: it takes more than {self.max_bytes} bytes"
            result = CallResult(_SUCCESS, took_s, data, None, text, TOO_LARGE)
        else:
            result = CallResult(_SUCCESS, took_s, data, data_json)
        return self._undo_cancellation(result) if cancelled else result

    async def _undo_cancellation(self, result: CallResult) -> CallResult:
        """Reset the task, which the next stages share, after user code has cancelled it."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # the cancellation may not have been thrown yet
        while self.task is not None and self.task.cancelling():
            self.task.uncancel()
        return result

    def watch(self, call: BoundedCall) -> None:
        """Let *call* expire at its ``ends_at``, until ``forget``.

        Of the calls of a job most often only the first limit is watched: those of later calls are later.
        """
        self._call = call
        if call.ends_at < self._watch_at:
            self._watch(call.ends_at)

    def forget(self) -> None:
        """The call that waited has ended."""
        self._call = None

    def close(self) -> None:
        """Watch no limit any more."""
        if self._watched_by is not None:
            self._watched_by.leave(self._key)
            self._watched_by, self._watch_at = None, inf

    def _watch(self, at: float) -> None:
        self._watch_at = at
        if self._watched_by is None:
            self._watched_by = limits_on(self.loop)
            self._key = self._watched_by.enter(self)
        self._watched_by.watch(at, self._key)

    def at_limit(self, at: float) -> None:
        """End the call that waits, if this is its limit."""
        if at != self._watch_at:  # an earlier one has been watched since
            return
        self._watch_at, call = inf, self._call
        if call is not None and call.ends_at > at:  # watched for an earlier call
            self._watch(call.ends_at)
        elif call is not None:
            call.expire()
        if self._watch_at == inf:  # code that does not end is not to be kept alive
            self.close()

    def step(self, resume: Callable[[Any], Any], value: Any) -> Any:
        """Resume user code by its ``send`` or ``throw`` until it waits or ends."""
        self._enter()
        try:
            return resume(value)
        finally:
            self._leave()

    def _enter(self) -> None:
        cells = self.cells
        cells[0] = self.number
        cells[1] += 1

    def _leave(self) -> None:
        if fork_guard.count[0] != self.forks:  # first: the cells may be in memory that a fork shares
            fork_guard.end()
        self.cells[0] = 0
