"""Keeps the order of records with equal keys: each waits in line until the one before it has ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fivestage.core.admission.key_order import KeyOrder
from fivestage.dispatch.in_flight import order_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.dispatch.in_flight import InFlightQuery


class KeyLines:
    """One line for each partition and key that has a record in flight. Used on the bus loop.

    Args:
        admit: Called with the next record of a key, and the time (monotonic seconds).
        enabled: Keep the order; otherwise no record waits here.
    """

    def __init__(self, admit: Callable[[InFlightQuery, float], None], *, enabled: bool) -> None:
        self._admit = admit
        self._order: KeyOrder[tuple[str, int, bytes], InFlightQuery] | None = KeyOrder() if enabled else None
        self.length = 0
        """Records that wait, in all lines together."""

    def __repr__(self) -> str:
        return f"<KeyLines length={self.length} {self._order}>"

    def enter(self, query: InFlightQuery) -> bool:
        """Return True if a record may go on; otherwise it now waits in line."""
        if self._order is None or self._order.enter(order_key(query.record), query):
            return True
        query.in_line = True
        query.is_waiting = query.unreadable is None
        self.length += 1
        query.offsets.in_line += 1
        query.offsets.line_bytes += query.size
        return False

    def stop_waiting(self, query: InFlightQuery) -> None:
        """Count a record as no longer waiting: it is admitted, or rejected at its end-to-end deadline."""
        query.is_waiting = False
        self.length -= 1
        query.offsets.in_line -= 1
        query.offsets.line_bytes -= query.size

    def leave(self, query: InFlightQuery) -> None:
        """Admit the next record of the key in the next pass of the loop, after the events of *query*."""
        if self._order is not None and (following := self._order.leave(order_key(query.record))) is not None:
            asyncio.get_running_loop().call_soon(self._admit_next, following)

    def _admit_next(self, query: InFlightQuery) -> None:
        if query.unreadable is None and not query.is_waiting:  # rejected while it waited
            self.leave(query)
            return
        self.stop_waiting(query)
        query.in_line = False
        self._admit(query, asyncio.get_running_loop().time())
