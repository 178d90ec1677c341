"""A simulated service with a concurrency limit: queries arrive, wait for a slot, run, and end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import TYPE_CHECKING

from fivestage.core.admission.concurrency_limit import ConcurrencyLimiter, LimiterPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.observer import ControlChange

    Draw = Callable[[Random, float, int], float]

SEED = 3


@dataclass(eq=False)
class Call:
    """A running query."""

    started_at: float
    started_among: int
    served: bool = False
    """Whether it has one of the node's own slots."""
    ended: bool = False


@dataclass
class Service:
    """Runs queries of one node; times are in seconds.

    Args:
        draw: Random durations of the node, from the time and the number of running calls.
        slots: The node's own concurrency, beyond which calls wait inside; None for unlimited.
        max_limit: The highest limit; the lowest is an eighth of it.
        adaptive: Learn the limit.
        deadline_s: The time limit of a query.
    """

    draw: Draw
    slots: int | None = None
    max_limit: int = 256
    adaptive: bool = True
    deadline_s: float = 10.0
    now: float = 0.0
    answered: int = 0
    waited: int = 0
    """The number of queries that waited for the limit."""
    limits: list[tuple[float, int]] = field(default_factory=list)
    changes: list[ControlChange] = field(default_factory=list)

    def __post_init__(self) -> None:
        least = max(4, self.max_limit // 8) if self.adaptive else self.max_limit
        self.limiter = ConcurrencyLimiter(LimiterPolicy(self.max_limit, least))
        self._random = Random(SEED)  # noqa: S311
        self._order = count()
        self._events: list[tuple[float, int, Call]] = []
        self._deadlines: deque[Call] = deque()
        self._inside: deque[Call] = deque()
        self._busy = self._running = self._waiting = 0
        self._arrives_at = 0.0

    @property
    def limit(self) -> int:
        """Return the current limit."""
        return self.limiter.limit

    def lowest(self, since: float) -> int:
        """Return the lowest limit from then on, from which trials start."""
        reached = [limit for at, limit in self.limits if at < since]
        return min(reached[-1:] + [limit for at, limit in self.limits if at >= since])

    def run(self, until: float, rate: float, *, backlog: int = 0) -> Service:
        """Run *rate* arrivals a second, after an initial *backlog*."""
        for _ in range(backlog):
            self._arrive()
        while True:
            ends_at = self._events[0][0] if self._events else until
            cut_at = self._deadlines[0].started_at + self.deadline_s if self._deadlines else until
            self.now = min(self._arrives_at, ends_at, cut_at)
            if self.now >= until:
                self.now = until
                return self
            if self.now == cut_at:
                self._end(self._deadlines.popleft(), dropped=True)
            elif self.now == ends_at:
                self._end(heappop(self._events)[2], dropped=False)
            else:
                self._arrives_at += 1 / rate
                self._arrive()

    def _arrive(self) -> None:
        if self._waiting or self._running >= self.limit:
            self.waited += 1
            self._waiting += 1
        else:
            self._start()

    def _start(self) -> None:
        self.limiter.started(self.now)
        self._running += 1
        call = Call(self.now, self._running)
        self._deadlines.append(call)
        if self.slots is None:
            self._serve(call)
        else:
            self._inside.append(call)
            self._serve_next()

    def _serve(self, call: Call) -> None:
        call.served = True
        self._busy += 1
        ends_at = self.now + self.draw(self._random, self.now, self._running)
        heappush(self._events, (ends_at, next(self._order), call))

    def _serve_next(self) -> None:
        while self._inside and self.slots is not None and self._busy < self.slots:
            call = self._inside.popleft()
            if not call.ended:
                self._serve(call)

    def _end(self, call: Call, *, dropped: bool) -> None:
        if call.ended:
            return
        call.ended = True
        self._busy -= call.served
        self.answered += not dropped
        change = self.limiter.record(
            self.now,
            latency_s=self.now - call.started_at,
            started_among=call.started_among,
            running=self._running,
            waiting=self._waiting > 0,
            dropped=dropped,
        )
        if change is not None:
            self.changes.append(change)
        self._running -= 1
        if not self.limits or self.limits[-1][1] != self.limit:
            self.limits.append((self.now, self.limit))
        self._serve_next()
        while self._waiting and self._running < self.limit:
            self._waiting -= 1
            self._start()
