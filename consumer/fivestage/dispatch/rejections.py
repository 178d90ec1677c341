"""Those who are refused: told so when there is time, since nobody gains by hearing it sooner than an answer.

After a stop the source has a backlog of queries whose time is long up. Telling each takes three times as long
as reading it, so while there are more of them to come they are only remembered, up to a bound: new queries,
which are behind them in the same partitions, are reached in a third of the time.
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
"""How long they are told before everything else has its turn."""
BRIEF_S = 0.000_25
"""The same while old ones are being read."""
OLD_S = 1.0
"""A query that was over for so long when it was read is from a backlog."""
READING_S = 0.05
"""How long after the last old one more of them are expected."""


class Rejection(NamedTuple):
    """A query that is refused: only what telling it takes."""

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
    """It stands behind another of its key: the next of that key does not wait for it."""


class Rejections:
    """Remembers refusals until they are told. Used on the bus loop.

    Args:
        tell: Publishes one.
    """

    def __init__(self, tell: Callable[[Rejection], None]) -> None:
        self._tell = tell
        self._waiting: deque[Rejection] = deque()
        self._telling = False
        self._reading_until = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<Rejections {len(self)} to be told>"

    @property
    def is_full(self) -> bool:
        """No more should be read until some are told."""
        return len(self) >= MAX_REMEMBERED

    def add(self, rejection: Rejection, now: float) -> None:
        """Have one told, soon; *now* in monotonic seconds."""
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
