"""Awaiting user code until a given time, and telling how it ended."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from fivestage import forks
from fivestage.core.event_json import limited_json
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

MAX_ERROR_CHARS = 512
MAX_NAME_CHARS = 128
HELD_UP_S = 0.005
"""A limit that is noticed so late is not the fault of the code that waits."""
TOO_LARGE = "result_too_large"


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


class Ending(NamedTuple):
    """How one bounded call ended."""

    outcome: Outcome
    duration_s: float
    data: Any = None
    data_json: bytes | None = None
    error: str | None = None
    error_type: str | None = None
    extended_s: float = 0.0
    """What was added to its limit, because others had kept the loop from turning."""

    @classmethod
    def of_error(cls, error: BaseException, duration_s: float) -> Ending:
        """The call raised."""
        return cls(
            Outcome.ERROR, duration_s, error=_text(error), error_type=type(error).__name__[:MAX_NAME_CHARS]
        )

    @classmethod
    def of_timeout(cls, limit_s: float, duration_s: float) -> Ending:
        """The call took longer than *limit_s*."""
        text = f"took longer than {limit_s * 1000:.0f} ms"
        return cls(Outcome.TIMEOUT, duration_s, error=text, error_type="timeout")


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

    __slots__ = ("cells", "clock", "given_up", "latest", "loop", "max_bytes", "number")

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
        self.clock = self.loop.time
        self.given_up = given_up
        self.number = number
        self.cells = (monitor or _UNWATCHED).cells
        self.max_bytes = max_bytes
        self.latest = 0.0 if latest is None else latest

    async def run(self, call: Coroutine[Any, Any, Any], ends_at: float) -> Ending:
        """Await user code until *ends_at*, its limit; its result must be JSON.

        Raises:
            asyncio.CancelledError: the caller was cancelled from outside.
        """
        started_at = self.clock()
        data, data_json, failed = None, None, None
        scope = Bounded(call, ends_at, self)
        try:
            data = await scope
            data_json = limited_json(data, self.max_bytes)
        except BaseException as raised:
            if scope.closed:
                raise
            if isinstance(raised, asyncio.CancelledError) and not scope.expired and self.given_up():
                raise
            failed = Ending.of_error(raised, 0.0)  # not the error itself: its traceback holds this frame
        ended_at = self.clock()
        task = asyncio.current_task(self.loop)
        if task is not None and task.cancelling() and not self.given_up():
            await _put_right(task)
            failed = Ending.of_error(asyncio.CancelledError("it cancelled its own task"), 0.0)
        took_s, extended_s = ended_at - started_at, scope.ends_at - ends_at
        if scope.expired or ended_at > scope.ends_at:
            return Ending.of_timeout(scope.ends_at - started_at, took_s)._replace(extended_s=extended_s)
        if failed is not None:
            return failed._replace(duration_s=took_s, extended_s=extended_s)
        if data_json is None:
            text = f"data left out: it takes more than {self.max_bytes} bytes"
            return Ending(Outcome.SUCCESS, took_s, data, None, text, TOO_LARGE, extended_s)
        return Ending(Outcome.SUCCESS, took_s, data, data_json, None, None, extended_s)


async def _put_right(task: asyncio.Task[Any]) -> None:
    """User code cancelled the task that it shares with the stages after it: undo that."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # where a cancellation is due that has not been thrown yet
    while task.cancelling():
        task.uncancel()


async def within(coro: Coroutine[Any, Any, Any], limit_s: float) -> Any:
    """What *coro* returns; None when it takes longer than *limit_s*: it is then cancelled and left behind.

    ``asyncio.wait`` rather than ``asyncio.timeout``: a task that swallows its cancellation must not hold
    the caller.
    """
    task = asyncio.ensure_future(coro)
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
    finally:
        leave_behind(task)
    return task.result() if done else None


def leave_behind(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for it no more: it may never end."""
    task.cancel()
    task.add_done_callback(_swallow)


def _swallow(task: asyncio.Future[Any]) -> None:
    """Nobody waits for the task; its exception would only be reported at its collection."""
    if not task.cancelled():
        task.exception()


def _text(error: BaseException) -> str:
    """What the exception says, as text that fits an event: file names may hold lone surrogates."""
    try:
        text = str(error)[:MAX_ERROR_CHARS]
    except Exception:  # noqa: BLE001 - its class is the user's
        text = ""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text[:MAX_ERROR_CHARS] or type(error).__name__


_UNWATCHED = StepMonitor()


class Bounded:
    """Awaits a coroutine; throws CancelledError into it at ``ends_at`` (monotonic seconds).

    ``asyncio.timeout_at`` does the same for three times the cost: it sets and clears a timer even around
    code that never waits. Here the timer is set when the code first waits, so a stage that answers at once
    pays nothing for its limit.

    Code that waits while another node keeps the loop from turning cannot help being late: it gets that time
    back, up to the bounds' *latest*. Code that itself keeps the loop beyond its limit does not.

    Afterwards ``expired`` tells whether the time ran out. As with asyncio's own timeouts the task's count of
    cancellations is put back, so that ``task.cancelling()`` tells of cancellations from outside only.
    """

    __slots__ = (
        "_bounds", "_call", "_cells", "_forks", "_task", "_timer", "_waits_since", "closed", "ends_at",
        "expired",
    )  # fmt: skip

    def __init__(self, call: Coroutine[Any, Any, Any], ends_at: float, bounds: Bounds) -> None:
        self._call = call
        self.ends_at = ends_at
        self._bounds = bounds
        self._cells = bounds.cells
        self._forks = forks.count[0]
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since = 0.0
        self.expired = False
        self.closed = False

    def __await__(self) -> Generator[Any, Any, Any]:
        call = self._call
        try:
            waiting_for = self._step(call.send, None)
        except StopIteration as finished:
            return finished.value
        loop = self._bounds.loop
        self._task = asyncio.current_task(loop)
        self._timer = loop.call_at(self.ends_at, self._expire)
        try:
            while True:
                try:
                    sent = yield waiting_for
                except GeneratorExit:  # its loop has gone: nobody will ever go on with this
                    self.closed = True
                    call.close()
                    raise
                except BaseException as thrown:  # noqa: BLE001 - whatever the task is thrown, the code gets
                    waiting_for = self._step(call.throw, thrown)
                else:
                    waiting_for = self._step(call.send, sent)
        except StopIteration as finished:
            return finished.value
        finally:
            self._timer.cancel()
            if self.expired and self._task is not None:
                self._task.uncancel()

    def _step(self, go_on: Callable[[Any], Any], value: Any) -> Any:
        """Give control to the user's code until it waits or ends."""
        cells = self._cells
        cells[0] = self._bounds.number
        cells[1] += 1
        try:
            waiting_for = go_on(value)
            self._waits_since = self._bounds.clock()
            return waiting_for
        finally:
            forks.end_if_forked(self._forks)  # first: the cells may be in memory that it shares
            cells[0] = 0

    def _expire(self) -> None:
        bounds = self._bounds
        now = bounds.clock()
        lost_s = now - self.ends_at
        if lost_s > HELD_UP_S and self._waits_since <= self.ends_at and now < bounds.latest:
            self.ends_at = min(now + lost_s, bounds.latest)
            self._timer = bounds.loop.call_at(self.ends_at, self._expire)
            return
        self.expired = True
        if self._task is not None:
            self._task.cancel()
