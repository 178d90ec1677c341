"""Awaits a call of user code that has waited once, until its limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Generator

    from fivestage.pipeline.bounds import Bounds

LATE_S = 0.005
"""A timer that fires later than this was delayed by other code on the loop."""
TURN_S = 0.02
"""How long a busy loop may take to resume code whose wait is over."""


class BoundedCall:
    """Awaits a coroutine that has waited once; throws CancelledError into it at ``ends_at``.

    ``asyncio.timeout_at`` does the same for three times the cost: it sets and clears a timer around
    each call, even of code that never waits.

    Where other code has blocked the loop, the limit is extended by the time lost, up to ``Bounds.latest``:
    the code could not have been on time. Code that itself blocks the loop past its limit gets no extension.
    Code whose wait was over in time, and that only waits for the loop to resume it, gets TURN_S, once.

    Afterwards ``expired`` says whether time ran out. As with asyncio's own timeouts, the task's count of
    cancellations is restored, so that ``task.cancelling()`` counts cancellations from outside only.
    """

    __slots__ = (
        "_bounds", "_call", "_had_turn", "_waiting_for", "_waits_since", "closed", "ends_at", "expired",
    )  # fmt: skip

    def __init__(
        self, call: Coroutine[Any, Any, Any], waiting_for: Any, ends_at: float, bounds: Bounds
    ) -> None:
        self._call = call
        self._waiting_for = waiting_for
        self.ends_at = ends_at
        self._bounds = bounds
        self._waits_since = bounds.clock()
        self._had_turn = False
        self.expired = False
        self.closed = False
        bounds.watch(self)

    def __await__(self) -> Generator[Any, Any, Any]:
        call, bounds, task = self._call, self._bounds, self._bounds.task
        try:
            while True:
                try:
                    sent = yield self._waiting_for
                except GeneratorExit:  # the loop is closed and will not resume this
                    self.closed = True
                    call.close()
                    raise
                except BaseException as thrown:  # noqa: BLE001 - user code gets whatever its task is thrown
                    self._waiting_for = bounds.step(call.throw, thrown)
                else:
                    # Resumed after its limit, but before the timer had its turn.
                    if bounds.clock() > self.ends_at and not self.expired:
                        self._extend()
                    self._waiting_for = bounds.step(call.send, sent)
                self._waits_since = bounds.clock()
        except StopIteration as finished:
            return finished.value
        finally:
            self._waiting_for = None
            bounds.forget()
            if self.expired and task is not None:
                task.uncancel()

    def expire(self) -> None:
        """Cancel the task, unless the limit is extended."""
        bounds = self._bounds
        # Where the job was cancelled already, a second cancellation would cut its clean-up short.
        if bounds.cancelled_outside() or self._extend():
            return
        self.expired = True
        if bounds.task is not None:
            bounds.task.cancel()

    def _extend(self) -> bool:
        """Move the limit by the time lost to other code; False if none was lost."""
        bounds = self._bounds
        now = bounds.clock()
        lost_s = now - self.ends_at
        waited = self._waits_since <= self.ends_at and now < bounds.latest
        more_s = lost_s if lost_s > LATE_S else 0.0
        if waited and not self._had_turn and _is_done(self._waiting_for):
            self._had_turn, more_s = True, max(more_s, TURN_S)
        if not waited or not more_s:
            return False
        self.ends_at = min(now + more_s, bounds.latest)
        bounds.watch(self)
        return True


def _is_done(waiting_for: Any) -> bool:
    """Whether what a task waits for is done; a bare yield (None) waits for the next turn of the loop only."""
    done = getattr(waiting_for, "done", None)
    return waiting_for is None or (callable(done) and bool(done()))


async def as_coroutine(awaitable: Awaitable[Any]) -> Any:
    """Wrap any awaitable in a coroutine."""
    return await awaitable
