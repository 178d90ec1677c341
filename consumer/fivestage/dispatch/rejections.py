"""Publishes the events of rejected queries at low priority: answers come first.

After an outage the source has a backlog of expired queries. Publishing a rejection takes three times as long
as reading the record. While a backlog is read, most rejections are therefore kept for later, up to a bound:
fresh queries behind the backlog in the same partitions are reached in a third of the time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from fivestage.core.time_slice import SLICE_S, TimeSlice

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.dispatch.in_flight import InFlightQuery

MAX_REMEMBERED: Final = 16_384
"""Rejections kept: half a kilobyte each, and together a second's work, for which a rebalance can wait."""
BRIEF_S: Final = 0.000_25
"""Seconds of a time slice while a backlog is read."""
OLD_S: Final = 1.0
"""Seconds after its end-to-end deadline from which on a rejected query belongs to a backlog."""
READING_S: Final = 0.05
"""Seconds after a query of a backlog for which more are expected."""


class Rejections:
    """Keeps rejected queries until their events are published. Used on the bus loop.

    Args:
        publish: Publishes the events of one rejected query.
    """

    def __init__(self, publish: Callable[[InFlightQuery], None]) -> None:
        self._publish = publish
        self._waiting: deque[InFlightQuery] = deque()
        self._is_scheduled = False
        self._reading_until = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<Rejections {len(self)} to publish>"

    @property
    def is_full(self) -> bool:
        """Whether no more records should be polled until some rejections are published."""
        return len(self) >= MAX_REMEMBERED

    def add(self, query: InFlightQuery, now: float) -> None:
        """Schedule the events of a rejected query; *now* in monotonic seconds."""
        due_at = query.budget.due_at
        if due_at is not None and now - due_at > OLD_S:
            self._reading_until = now + READING_S
        self._waiting.append(query)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._publish_slice)

    def _publish_slice(self) -> None:
        clock = asyncio.get_running_loop().time
        is_backlog_read = clock() < self._reading_until and not self.is_full
        time_slice = TimeSlice(clock, BRIEF_S if is_backlog_read else SLICE_S)
        waiting = self._waiting
        while waiting and not time_slice.is_over():
            self._publish(waiting.popleft())
        self._is_scheduled = bool(waiting)
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._publish_slice)
