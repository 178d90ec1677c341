"""Bounds the queries that run, and the bytes of their events: received queries wait for a slot."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from fivestage.core.admission.lanes import LaneQueues, LaneShares

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.admission.concurrency_limit import ConcurrencyLimiter
    from fivestage.core.observer import ControlChange

T = TypeVar("T")
HAND_OVER_S: Final = 0.008
"""Seconds, in a busy process, from the end of a query in the executor until a next one runs that the bus loop
starts."""
MAX_ENQUEUED: Final = 16
"""The most queries that wait in the executor."""
MAX_HELD_BYTES = 64 * 1024 * 1024
"""Bytes of unacknowledged events at which no more queries start, and of these and received records together
at which the poller stops. Running queries go on."""


class Slots(Generic[T]):
    """The running queries, the queues of those that wait for a slot, and the choice of the next one.

    Args:
        limiter: Limits how many may run.
        shares: The weights of the lanes.
        max_held_bytes: Bytes of unacknowledged events at which no query starts: large answers would fill the
            memory long before their number reaches a limit.
    """

    __slots__ = (
        "_limiter", "_max_held_bytes", "_mean_s", "_queues", "_running", "enqueued", "held_bytes",
        "input_bytes", "running",
    )  # fmt: skip

    def __init__(
        self, limiter: ConcurrencyLimiter, shares: LaneShares, *, max_held_bytes: int = MAX_HELD_BYTES
    ) -> None:
        self._limiter = limiter
        self._max_held_bytes = max_held_bytes
        self.held_bytes = 0
        """Bytes of events and dead letters that are not acknowledged yet."""
        self.input_bytes = 0
        """Bytes of received records that are not answered, rejected or dropped yet."""
        self._queues: LaneQueues[T] = LaneQueues(shares)
        self._running: Counter[str] = Counter()
        """How many run in each lane, or wait in the executor."""
        self.running = 0
        self.enqueued = 0
        """Queries in the executor that wait there for the next slot."""
        self._mean_s = inf
        """How long queries run; infinite before the first has ended."""

    def __repr__(self) -> str:
        return f"<Slots {self.running} of {self.limit} taken, {self.waiting} waiting>"

    @property
    def limit(self) -> int:
        """How many may run."""
        return self._limiter.limit

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queues)

    @property
    def is_contended(self) -> bool:
        """Whether queries wait for a slot, here or in the executor."""
        return bool(self._queues or self.enqueued)

    @property
    def is_free(self) -> bool:
        """Whether a query may start now: a slot is free, no query waits, and bytes are left."""
        return not (self._queues or self.enqueued) and self.may_run

    @property
    def has_memory(self) -> bool:
        """Whether the bytes of events and received records allow more records."""
        return self.held_bytes + self.input_bytes < self._max_held_bytes

    @property
    def may_run(self) -> bool:
        """Whether a slot is free, and bytes are left."""
        return self.running < self._limiter.limit and self.held_bytes < self._max_held_bytes

    @property
    def most_enqueued(self) -> int:
        """How many may wait in the executor: as many as usually end while the bus loop starts one."""
        ending = self.limit * HAND_OVER_S / max(self._mean_s, HAND_OVER_S)
        return min(self.limit // 2, MAX_ENQUEUED, round(ending))

    @property
    def may_enqueue(self) -> bool:
        """Whether a query may be handed to the executor before a slot is free."""
        fits = self.running <= self.limit and self.held_bytes < self._max_held_bytes
        return fits and self.enqueued < self.most_enqueued

    def wait(self, lane: str, item: T) -> None:
        """Append an item to the queue of its lane."""
        self._queues.put(lane, item)

    def next(self, *, or_enqueue: bool = False) -> T | None:
        """Remove and return the item that may run now; None when none waits or none may start.

        Args:
            or_enqueue: Whether to return one for which no slot is free, but which may wait in the executor.
        """
        if not (self._queues and (self.may_run or (or_enqueue and self.may_enqueue))):
            return None
        found = self._queues.take(self._running)
        return None if found is None else found[1]

    def oldest(self) -> list[T]:
        """Return the oldest waiting item of each lane."""
        return self._queues.oldest()

    def give_up(self, predicate: Callable[[T], bool]) -> list[T]:
        """Remove the waiting items for which *predicate* is true, and return them."""
        return self._queues.remove_if(predicate) if self._queues else []

    def remove(self, lane: str, item: T) -> None:
        """Remove one waiting item."""
        self._queues.remove(lane, item)

    def hold(self, count: int) -> None:
        """Count bytes of events that are about to be published."""
        self.held_bytes += count

    def let_go(self, count: int) -> bool:
        """Release the bytes of acknowledged events; return True if queries may start again."""
        was_full = self.held_bytes >= self._max_held_bytes
        self.held_bytes -= count
        return was_full and self.held_bytes < self._max_held_bytes

    def occupy(self, lane: str, now: float) -> int:
        """Take a slot at *now* (monotonic seconds); return how many are taken, this one included."""
        self._limiter.started(now)
        self.running += 1
        self._running[lane] += 1
        return self.running

    def reserve(self, lane: str) -> None:
        """Count a query that waits in the executor for the next slot."""
        self.enqueued += 1
        self._running[lane] += 1

    def withdraw(self, lane: str) -> None:
        """Count a query no more that has waited in the executor."""
        self.enqueued -= 1
        self.running += 1  # until its release, which counts the lane
        self.release(lane)

    def release(self, lane: str) -> None:
        """Free a slot."""
        self.running -= 1
        self._running[lane] -= 1
        if not self._running[lane]:
            del self._running[lane]

    def learn(
        self, now: float, *, duration_s: float, started_among: int, dropped: bool
    ) -> ControlChange | None:
        """Learn from a query that ran and has ended; called before its slot is released.

        Args:
            now: Monotonic seconds.
            duration_s: How long it ran.
            started_among: What ``occupy`` returned for it.
            dropped: It ended at its deadline.

        Returns:
            A change of the limit to report, or None.
        """
        self._mean_s = duration_s if self._mean_s == inf else self._mean_s + (duration_s - self._mean_s) / 16
        return self._limiter.record(
            now,
            latency_s=duration_s,
            started_among=started_among,
            running=self.running,
            waiting=bool(self._queues or self.enqueued),
            dropped=dropped,
        )
