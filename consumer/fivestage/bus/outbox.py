"""What the sink keeps until it is acknowledged."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.records import OutputRecord


class Delivery:
    """The records of one query on their way."""

    __slots__ = ("is_wanted", "on_acked", "published_at", "remaining")

    def __init__(
        self,
        remaining: int,
        on_acked: Callable[[], None],
        is_wanted: Callable[[], bool],
        published_at: float,
    ) -> None:
        self.remaining = remaining
        self.on_acked = on_acked
        self.is_wanted = is_wanted
        self.published_at = published_at


class PartitionQueue:
    """What waits for one output partition. One batch is under way at a time, so order is kept."""

    __slots__ = ("busy", "over", "partition", "pending", "sent_at", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.pending: deque[tuple[OutputRecord, Delivery]] = deque()
        self.busy = False
        self.over = False
        """No producer can publish what it holds."""
        self.sent_at: float | None = None
        """When the batch under way was sent."""
