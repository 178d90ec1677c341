"""Publishes rejection events at low priority: answers come first.

After a stop the source has a backlog of queries that expired long ago. Publishing a rejection takes three
times as long as reading a record, so while more expired queries come they are only remembered, up to a bound:
the new queries behind them in the same partitions are reached in a third of the time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from fivestage.core.deadline import Budget
from fivestage.core.ledger import PartitionOffsets
from fivestage.core.records import PlainRecord
from fivestage.core.rejection_cause import RejectionCause

if TYPE_CHECKING:
    from collections.abc import Callable


MAX_REMEMBERED = 16_384
"""Half a kilobyte each, and a second's work, so that a rebalance need not leave them to be read again."""
SLICE_S = 0.001
"""How long rejections are published before the loop does anything else."""
BRIEF_S = 0.000_25
"""The same while a backlog of expired queries is read."""
OLD_S = 1.0
"""A query that had expired this long before it was read is from a backlog."""
READING_S = 0.05
"""How long after one query of a backlog the next one is expected."""


class Rejection(NamedTuple):
    """A rejected query: only what its event needs."""

    record: PlainRecord
    offsets: PartitionOffsets
    query_id: str
    lane: str
    headers: Mapping[str, str]
    budget: Budget
    cause: RejectionCause
    queue_s: float
    """How old it was when it was rejected."""
    in_line: bool
    """It waited behind another query of its key: the next of that key does not wait for it."""


class Rejections:
    """Keeps rejections until they are published. Used on the bus loop.

    Args:
        publish: Publishes one.
    """

    def __init__(self, publish: Callable[[Rejection], None]) -> None:
        self._tell = publish
        self._waiting: deque[Rejection] = deque()
        self._telling = False
        self._reading_until = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<Rejections {len(self)} waiting>"

    @property
    def is_full(self) -> bool:
        """Whether reading should pause until some are published."""
        return len(self) >= MAX_REMEMBERED

    def add(self, rejection: Rejection, now: float) -> None:
        """Publish one soon; *now* in monotonic seconds."""
        due_at = rejection.budget.due_at
        if due_at is not None and now - due_at > OLD_S:
            self._reading_until = now + READING_S
        self._waiting.append(rejection)
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell_some)

    def _tell_some(self) -> None:
        clock = asyncio.get_running_loop().time
        now = clock()
        brief = now < self._reading_until and not self.is_full
        slice_end = now + (BRIEF_S if brief else SLICE_S)
        waiting = self._waiting
        while waiting and clock() < slice_end:
            self._tell(waiting.popleft())
        self._telling = bool(self._waiting)
        if self._telling:
            asyncio.get_running_loop().call_soon(self._tell_some)
