"""Hands messages to another event loop, waking it once for as many as there are."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from fivestage.core.time_slice import TimeSlice

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Mailbox:
    """Calls functions on another loop, in order.

    A loop is woken only when nobody has woken it already, so a burst costs one system call, not one per
    message. Messages are taken out by slices of time: a loop looks at its timers only between callbacks, and
    a burst of endings must not make the deadlines of other queries wait.

    Args:
        loop: The other loop.
        sender: The loop that messages are put on from, where all that it puts in one turn may wait for the
            turn's end: one loop is not made to wait for the interpreter's lock after each message. Not where
            a turn may be long.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, sender: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._loop = loop
        self._sender = sender
        self._messages: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False

    def put(self, receive: Callable[..., None], *args: Any) -> None:
        """Have ``receive(*args)`` called on the other loop; nothing happens if that has ended."""
        self._messages.append((receive, args))
        if not self._woken:
            self._woken = True
            if self._sender is None:
                self._wake()
            else:
                self._sender.call_soon(self._wake)

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:  # whoever watches the loop knows
            self._woken = False

    def _drain(self) -> None:
        # Cleared before reading: a message put meanwhile wakes the loop again rather than being missed.
        self._woken = False
        messages, turn = self._messages, TimeSlice(time.monotonic)
        try:
            while messages:
                receive, args = messages.popleft()
                receive(*args)
                if messages and turn.is_over():
                    return
        finally:  # also where one raised: the others are not to blame
            if messages and not self._woken:
                self._woken = True
                self._loop.call_soon(self._drain)
