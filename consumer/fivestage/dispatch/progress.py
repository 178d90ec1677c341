"""Counts the records in flight, and wakes tasks that wait for records to finish."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Progress:
    """Shared by the steps of a record between its dispatch and the acknowledgement of its events."""

    def __init__(self) -> None:
        self._finished = asyncio.Event()
        self.in_flight = 0
        """Records between dispatch and acknowledgement."""
        self.last_at = 0.0
        """When a record last finished, or arrived while none was in flight (monotonic seconds)."""

    def __repr__(self) -> str:
        return f"<Progress in_flight={self.in_flight} last_at={self.last_at}>"

    def started(self, now: float) -> None:
        """Count a record that was dispatched at *now*."""
        if not self.in_flight:
            self.last_at = now
        self.in_flight += 1

    def finished(self) -> None:
        """Count a record that is acknowledged, put back, or dropped because its partition was revoked."""
        self.in_flight -= 1
        self.last_at = asyncio.get_running_loop().time()
        self._finished.set()

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until *condition*, tested whenever a record finishes, holds; return False if it never did.

        After *timeout_s* the condition is tested a last time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._finished.clear()
                    await self._finished.wait()
        except TimeoutError:
            return condition()
        return True
