"""What is taken in, and what may run.

Two bounds: the *gate* on records taken in and not yet acknowledged, which the source waits for, and the
*slots* of queries that run, which records taken in wait for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from fivestage.core.admission.lanes import LaneQueues, LaneShares

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.admission.concurrency_limit import ConcurrencyLimiter
    from fivestage.core.observer import ControlChange

T = TypeVar("T")
MAX_HELD_BYTES = 64 * 1024 * 1024
"""So much may wait for the broker's acknowledgement before no more queries start; those that run then end.
Together with the records that were taken in, it is also the most before no more records are taken in."""


@dataclass(frozen=True, slots=True)
class InFlightLimit:
    """The gate closes at *high* and opens again at *low*.

    Closing and opening at the same figure would pause and resume the source for every record, and each
    pause throws away what was fetched ahead.
    """

    high: int
    low: int

    @classmethod
    def of(cls, max_in_flight: int) -> InFlightLimit:
        """Close when full, open again when a quarter is free."""
        return cls(max_in_flight, max_in_flight - max(1, max_in_flight // 4))

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"need 0 <= low < high, got low={self.low} high={self.high}")


class Gate:
    """The state of an InFlightLimit."""

    __slots__ = ("is_open", "limit")

    def __init__(self, limit: InFlightLimit) -> None:
        self.limit = limit
        self.is_open = True

    def __repr__(self) -> str:
        return f"<Gate {'open' if self.is_open else 'closed'} {self.limit}>"

    def update(self, in_flight: int) -> bool:
        """Take the number in flight into account; return whether the gate is open."""
        threshold = self.limit.high if self.is_open else self.limit.low + 1
        self.is_open = in_flight < threshold
        return self.is_open

    def room(self, in_flight: int) -> int:
        """How many more may be admitted now."""
        return max(0, self.limit.high - in_flight) if self.is_open else 0


class Slots(Generic[T]):
    """Who runs, who waits for a slot, and who gets the next one.

    Args:
        limiter: How many may run.
        shares: Of the lanes.
        max_held_bytes: Nobody gets a slot while answers of so many bytes are held: large ones would fill the
            memory long before their number says so.
    """

    __slots__ = ("_limiter", "_max_held_bytes", "_room", "_running", "held_bytes", "input_bytes", "running")

    def __init__(
        self, limiter: ConcurrencyLimiter, shares: LaneShares, *, max_held_bytes: int = MAX_HELD_BYTES
    ) -> None:
        self._limiter = limiter
        self._max_held_bytes = max_held_bytes
        self.held_bytes = 0
        """Of events and dead letters that are not acknowledged yet."""
        self.input_bytes = 0
        """Of records that were taken in and have not ended yet."""
        self._room: LaneQueues[T] = LaneQueues(shares)
        self._running: Counter[str] = Counter()
        self.running = 0

    def __repr__(self) -> str:
        return f"<Slots {self.running} of {self.limit} taken, {self.waiting} waiting>"

    @property
    def limit(self) -> int:
        """How many may run."""
        return self._limiter.limit

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._room)

    @property
    def is_free(self) -> bool:
        """Somebody who comes now may run at once: there is room, and nobody was there before."""
        return not self._room and self._may_run()

    @property
    def has_memory(self) -> bool:
        """Whether more records may be taken in, by the bytes of those before them."""
        return self.held_bytes + self.input_bytes < self._max_held_bytes

    def _may_run(self) -> bool:
        return self.running < self.limit and self.held_bytes < self._max_held_bytes

    def running_in(self, lane: str) -> int:
        """How many of a lane run."""
        return self._running[lane]

    def wait(self, lane: str, item: T) -> None:
        """Take a place at the end of the lane's line."""
        self._room.put(lane, item)

    def next(self) -> T | None:
        """Who may run now; None when nobody waits or no slot is free."""
        if not (self._room and self._may_run()):
            return None
        found = self._room.take(self._running)
        return None if found is None else found[1]

    def give_up(self, predicate: Callable[[T], bool]) -> list[T]:
        """Take out of the lines those the predicate says."""
        return self._room.remove_if(predicate) if self._room else []

    def remove(self, lane: str, item: T) -> None:
        """Take one item out of the line of its lane."""
        self._room.remove(lane, item)

    def hold(self, count: int) -> None:
        """So many bytes are to be published."""
        self.held_bytes += count

    def let_go(self, count: int) -> bool:
        """They are; whether somebody may be next who might not before."""
        was_full = self.held_bytes >= self._max_held_bytes
        self.held_bytes -= count
        return was_full and self.held_bytes < self._max_held_bytes

    def occupy(self, lane: str, now: float) -> int:
        """Take a slot at *now* (monotonic seconds); return how many are taken with it."""
        self._limiter.started(now)
        self.running += 1
        self._running[lane] += 1
        return self.running

    def release(self, lane: str) -> None:
        """A slot is free again."""
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
            dropped: It was not in time.

        Returns:
            What is to be reported about the limit, or None.
        """
        return self._limiter.record(
            now,
            latency_s=duration_s,
            started_among=started_among,
            running=self.running,
            waiting=bool(self._room),
            dropped=dropped,
        )
