"""Passes messages to another event loop, which a burst of messages wakes only once."""

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

    The loop is woken only if it has not been woken already, so a burst costs one system call, not one per
    message. The loop handles messages in slices of SLICE_S, because it runs timers only between callbacks: a
    burst of finished jobs must not delay the deadlines of other queries.

    Args:
        loop: The other loop.
        sender: The loop that puts the messages. Omit it if a round of the sender may be long.
        waits_for_sender: Whether to wake the other loop only after the sender's current round now: the two do
            not compete for the interpreter lock after each message then, but messages wait for longer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        sender: asyncio.AbstractEventLoop | None = None,
        waits_for_sender: Callable[[], bool] = lambda: True,
    ) -> None:
        self._loop = loop
        self._sender = sender
        self._waits_for_sender = waits_for_sender
        self._messages: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False

    def put(self, receive: Callable[..., None], *args: Any) -> None:
        """Have ``receive(*args)`` called on the other loop; does nothing if that loop is closed."""
        self._messages.append((receive, args))
        if not self._woken:
            self._woken = True
            if self._sender is not None and self._waits_for_sender():
                self._sender.call_soon(self._wake)
            else:
                self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:  # the loop is closed: no message is handled any more
            self._woken = False

    def _drain(self) -> None:
        # Cleared before reading: a message put meanwhile wakes the loop again rather than being missed.
        self._woken = False
        messages, time_slice = self._messages, TimeSlice(time.monotonic)
        try:
            while messages:
                receive, args = messages.popleft()
                receive(*args)
                if messages and time_slice.is_over():
                    return
        finally:  # even if a receiver raised: later messages are delivered
            if messages and not self._woken:
                self._woken = True
                self._loop.call_soon(self._drain)
