"""Awaiting user code until a given time.

``asyncio.timeout_at`` does the same for three times the cost: it sets and clears a timer even around code
that never waits. Here the timer is set when the code first waits, so a stage that answers at once pays
nothing for its limit.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator


class Bounded:
    """Awaits a coroutine; throws CancelledError into it at *ends_at* (monotonic seconds).

    Afterwards ``expired`` tells whether the time ran out. As with asyncio's own timeouts the task's count of
    cancellations is put back, so that ``task.cancelling()`` tells of cancellations from outside only.
    """

    __slots__ = ("_call", "_ends_at", "_task", "expired")

    def __init__(self, call: Coroutine[Any, Any, Any], ends_at: float) -> None:
        self._call = call
        self._ends_at = ends_at
        self._task: asyncio.Task[Any] | None = None
        self.expired = False

    def __await__(self) -> Generator[Any, Any, Any]:
        call = self._call
        try:
            waiting_for = call.send(None)
        except StopIteration as finished:
            return finished.value
        self._task = asyncio.current_task()
        timer = asyncio.get_running_loop().call_at(self._ends_at, self._expire)
        try:
            while True:
                try:
                    sent = yield waiting_for
                except BaseException as thrown:  # noqa: BLE001 - whatever the task is thrown, the code gets
                    waiting_for = call.throw(thrown)
                else:
                    waiting_for = call.send(sent)
        except StopIteration as finished:
            return finished.value
        finally:
            timer.cancel()
            if self.expired and self._task is not None:
                self._task.uncancel()

    def _expire(self) -> None:
        self.expired = True
        if self._task is not None:
            self._task.cancel()
