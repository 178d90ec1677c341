"""Awaiting user code until a given time, and telling how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from math import inf
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.codec.data_json import as_json
from fivestage.pipeline import fork_guard
from fivestage.pipeline.call_result import CallResult
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

STALLED_S = 0.005
"""A limit that is noticed so late is not the fault of the code that waits."""
TURN_S = 0.02
"""How long a busy loop may take to come to code that need not wait any longer."""
TOO_LARGE = "result_too_large"
_SUCCESS: Final = Outcome.SUCCESS


class StepMonitor:
    """Tells others, in another thread or process, which job's code has control of the loop now.

    Two cells, written around every step of user code: the number of the job (0 = none), and a count of steps.
    Seeing both unchanged for a while means that one step has not given control back.
    """

    __slots__ = ("cells",)

    def __init__(self, cells: memoryview | list[int] | None = None) -> None:
        self.cells: Any = [0, 0] if cells is None else cells

    def __repr__(self) -> str:
        return f"<StepMonitor job={self.cells[0]} step={self.cells[1]}>"

    def seen(self) -> tuple[int, int]:
        """Job and step as they are now."""
        return self.cells[0], self.cells[1]


class Bounds:
    """What the bounded calls of one job have in common.

    Whether time ran out is asked of the scope and the clock, not of the exception: user code may raise
    its own TimeoutError, swallow its cancellation, or finish late although nothing interrupted it.

    Args:
        given_up: Whether a cancellation comes from outside; else user code cancelled its own task, an error.
        number: The job's number for *monitor*.
        monitor: Told of every step.
        max_bytes: Results that take more as JSON are left out of the endings.
        latest: How far a limit may be put off when others have kept the loop from turning (seconds of the
            running loop's clock); not at all if None.
    """

    __slots__ = (
        "cells",
        "check",
        "clock",
        "excused",
        "forks",
        "given_up",
        "latest",
        "loop",
        "max_bytes",
        "number",
        "task",
    )

    def __init__(
        self,
        given_up: Callable[[], bool],
        *,
        number: int = 0,
        monitor: StepMonitor | None = None,
        max_bytes: int | None = None,
        latest: float | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        usual = getattr(self.loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        self.clock = time.monotonic if usual else self.loop.time  # the same, less a method around it
        self.given_up = given_up
        self.number = number
        self.cells = (monitor or _UNWATCHED).cells
        self.forks = fork_guard.count[0]
        self.max_bytes = max_bytes
        self.latest = 0.0 if latest is None else latest
        self.check: Callable[[Any], None] | None = None
        """Raises what is wrong with a call's result, where there are demands on it."""
        self.excused: tuple[type[BaseException], ...] = ()
        """What a call may raise without having failed."""
        self.task: asyncio.Task[Any] | None = None
        """The one that the calls run in, which user code may have cancelled itself."""

    async def run(self, call: Coroutine[Any, Any, Any], ends_at: float) -> CallResult:
        """Await user code until *ends_at*, its limit; its result must be JSON.

        Raises:
            asyncio.CancelledError: the caller was cancelled from outside.
        """
        ending = self.begin(call, self.clock(), ends_at)
        return ending if isinstance(ending, CallResult) else await ending

    def begin(
        self, call: Coroutine[Any, Any, Any], started_at: float, ends_at: float
    ) -> CallResult | Coroutine[Any, Any, CallResult]:
        """The same as far as it goes without waiting: the ending, or what is left, to be awaited.

        Most stages answer at once, and pay neither for a timer nor for a coroutine around theirs.
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
            if isinstance(raised, asyncio.CancelledError) and self.given_up():
                raise
            # Not the error itself: its traceback holds this frame.
            failed = CallResult.of_error(raised, excused=self.excused)
        else:
            self._leave()
            return self._wait(BoundedCall(call, waiting_for, ends_at, self), started_at)
        return self._judge(data, failed, started_at, ends_at)

    async def _wait(self, scope: BoundedCall, started_at: float) -> CallResult:
        """Go on with a call that had to wait."""
        limit_at = scope.ends_at
        data, failed = None, None
        try:
            data = await scope
        except BaseException as raised:
            given_up = isinstance(raised, asyncio.CancelledError) and not scope.expired and self.given_up()
            if scope.closed or given_up:
                raise
            failed = CallResult.of_error(raised, excused=self.excused)
        ends_at = -inf if scope.expired else scope.ends_at
        ending = self._judge(data, failed, started_at, ends_at, scope.ends_at - started_at)
        ending = ending if isinstance(ending, CallResult) else await ending
        ending.extended_s = scope.ends_at - limit_at
        return ending

    def _judge(
        self,
        data: Any,
        failed: CallResult | None,
        started_at: float,
        ends_at: float,
        limit_s: float | None = None,
    ) -> CallResult | Coroutine[Any, Any, CallResult]:
        """How a call ended that was to end at *ends_at*; *limit_s* is what it is told that it had."""
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
        cancelled = self.task is not None and self.task.cancelling() and not self.given_up()
        # Until Python 3.13 a TaskGroup that fails leaves its task so, though its cancellation was thrown.
        if cancelled and failed is None and getattr(self.task, "_must_cancel", True):
            failed = CallResult.of_error(asyncio.CancelledError("it cancelled its own task"))
        if ended_at > ends_at:
            ending = CallResult.of_timeout(ends_at - started_at if limit_s is None else limit_s, took_s)
        elif failed is not None:
            failed.duration_s, ending = took_s, failed
        elif data_json is None:
            text = f"data left out: it takes more than {self.max_bytes} bytes"
            ending = CallResult(_SUCCESS, took_s, data, None, text, TOO_LARGE)
        else:
            ending = CallResult(_SUCCESS, took_s, data, data_json)
        return self._put_right(ending) if cancelled else ending

    async def _put_right(self, ending: CallResult) -> CallResult:
        """User code cancelled the task that it shares with the stages after it: undo that."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # where a cancellation is due that has not been thrown yet
        while self.task is not None and self.task.cancelling():
            self.task.uncancel()
        return ending

    def step(self, go_on: Callable[[Any], Any], value: Any) -> Any:
        """Give control to the user's code until it waits or ends."""
        self._enter()
        try:
            return go_on(value)
        finally:
            self._leave()

    def _enter(self) -> None:
        cells = self.cells
        cells[0] = self.number
        cells[1] += 1

    def _leave(self) -> None:
        if fork_guard.count[0] != self.forks:  # first: the cells may be in memory that it shares
            fork_guard.end()
        self.cells[0] = 0


_UNWATCHED = StepMonitor()


class BoundedCall:
    """Awaits a coroutine that waits; throws CancelledError into it at ``ends_at`` (monotonic seconds).

    ``asyncio.timeout_at`` does the same for three times the cost: it sets and clears a timer even around
    code that never waits. Here the timer is set when the code has waited once, so a stage that answers at
    once pays nothing for its limit.

    Code that waits while another node keeps the loop from turning cannot help being late: it gets that time
    back, up to the bounds' *latest*. Code that itself keeps the loop beyond its limit does not. Code that has
    got what it waited for, and only waits for its turn, gets that, once.

    Afterwards ``expired`` tells whether the time ran out. As with asyncio's own timeouts the task's count of
    cancellations is put back, so that ``task.cancelling()`` tells of cancellations from outside only.
    """

    __slots__ = (
        "_bounds", "_call", "_had_turn", "_timer", "_waiting_for", "_waits_since", "closed", "ends_at",
        "expired",
    )  # fmt: skip

    def __init__(
        self, call: Coroutine[Any, Any, Any], waiting_for: Any, ends_at: float, bounds: Bounds
    ) -> None:
        self._call = call
        self._waiting_for = waiting_for
        self.ends_at = ends_at
        self._bounds = bounds
        self._waits_since = bounds.clock()
        self._timer = bounds.loop.call_at(ends_at, self._expire)
        self._had_turn = False
        self.expired = False
        self.closed = False

    def __await__(self) -> Generator[Any, Any, Any]:
        call, bounds, task = self._call, self._bounds, self._bounds.task
        try:
            while True:
                try:
                    sent = yield self._waiting_for
                except GeneratorExit:  # its loop has gone: nobody will ever go on with this
                    self.closed = True
                    call.close()
                    raise
                except BaseException as thrown:  # noqa: BLE001 - whatever the task is thrown, the code gets
                    self._waiting_for = bounds.step(call.throw, thrown)
                else:
                    if (
                        bounds.clock() > self.ends_at and not self.expired
                    ):  # it waited for its turn: the timer has not had one yet
                        self._put_off()
                    self._waiting_for = bounds.step(call.send, sent)
                self._waits_since = bounds.clock()
        except StopIteration as finished:
            return finished.value
        finally:
            self._waiting_for = None
            self._timer.cancel()
            if self.expired and task is not None:
                task.uncancel()

    def _expire(self) -> None:
        bounds = self._bounds
        if bounds.given_up() or self._put_off():  # a second cancellation would cut its clean-up
            return
        self.expired = True
        if bounds.task is not None:
            bounds.task.cancel()

    def _put_off(self) -> bool:
        """Move the end by what the code has lost to others, if it has lost something."""
        bounds = self._bounds
        now = bounds.clock()
        lost_s = now - self.ends_at
        waited = self._waits_since <= self.ends_at and now < bounds.latest
        more_s = lost_s if lost_s > STALLED_S else 0.0
        if waited and not self._had_turn and _is_done(self._waiting_for):
            self._had_turn, more_s = True, max(more_s, TURN_S)
        if not waited or not more_s:
            return False
        self.ends_at = min(now + more_s, bounds.latest)
        self._timer.cancel()
        self._timer = bounds.loop.call_at(self.ends_at, self._expire)
        return True


def _is_done(waiting_for: Any) -> bool:
    """Whether what a task waits for is there; a bare yield (None) waits for nothing but its turn."""
    done = getattr(waiting_for, "done", None)
    return waiting_for is None or (callable(done) and bool(done()))
