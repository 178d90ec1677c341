"""Publishes the events of rejected queries at low priority: answers come first.

After an outage the source has a backlog of expired queries. Publishing a rejection takes three times as long
as reading the record. While more expired records are being read, rejections are therefore only remembered, up
to a bound: fresh queries behind them in the same partitions are reached in a third of the time.
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
"""Half a kilobyte each, and a second's work, so that a rebalance need not leave them to be read again."""
BRIEF_S: Final = 0.000_25
"""The length of a time slice while a backlog is being read."""
OLD_S: Final = 1.0
"""A query that had expired for longer when it was read belongs to a backlog."""
READING_S: Final = 0.05
"""How long after the last old query more of them are expected."""


class Rejections:
    """Remembers rejected queries until their events are published. Used on the bus loop.

    Args:
        publish: Publishes the events of one.
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
        """Whether no more records should be read until some are published."""
        return len(self) >= MAX_REMEMBERED

    def add(self, query: InFlightQuery, now: float) -> None:
        """Have the events of a rejected query published soon; *now* in monotonic seconds."""
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
        turn = TimeSlice(clock, BRIEF_S if is_backlog_read else SLICE_S)
        waiting = self._waiting
        while waiting and not turn.is_over():
            self._publish(waiting.popleft())
        self._is_scheduled = bool(waiting)
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._publish_slice)
