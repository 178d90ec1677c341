"""A query in flight."""

from __future__ import annotations

from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from fivestage.core.routing_snapshot import RoutingSnapshot
from fivestage.core.stage_history import StageHistory

if TYPE_CHECKING:
    from fivestage.core.plan import Plan
    from fivestage.pipeline.context import Query


_numbers = count(1)


class Watcher(Protocol):
    """What follows whether a job runs, or waits for a thread. Called on the bus loop."""

    def waits(self, job: Job, history: StageHistory, pool: object) -> None:
        """The job waits for a thread of *pool*."""

    def goes_on(self, job: Job, history: StageHistory, started_at: float, ends_at: float) -> None:
        """A thread has taken its call; the times of the job, without the wait (monotonic seconds)."""

    def moves(self, job: Job) -> None:
        """A job that waits is about to go on elsewhere, where it may wait again."""


class Job:
    """One query on its way through the stages, shared by the bus and an executor.

    The bus makes it and alone decides when it has ended; the executor writes the trail. Times are
    monotonic seconds.
    """

    __slots__ = (
        "deaths",
        "due_at",
        "ended",
        "ends_at",
        "held_at",
        "history",
        "is_blocking",
        "number",
        "origin",
        "place",
        "plan",
        "pool",
        "query",
        "routing",
        "started_among",
        "started_at",
        "waits_since",
        "watcher",
    )  # fmt: skip

    def __init__(
        self,
        query: Query,
        plan: Plan,
        *,
        started_at: float,
        ends_at: float,
        due_at: float | None = None,
        routing: RoutingSnapshot | None = None,
        origin: Any = None,
    ) -> None:
        self.number = next(_numbers)
        """Names the job across threads and processes; never 0."""
        self.query = query
        self.plan = plan
        self.routing = routing or RoutingSnapshot.neutral(plan)
        self.started_at = started_at
        self.started_among = 0
        """How many queries ran when it had started, itself included."""
        self.ends_at = ends_at
        """When its time is up; later by what it has waited for threads, but not later than ``due_at``."""
        self.due_at = inf if due_at is None else due_at
        """When an answer is of no use any more; infinite where nothing says so."""
        self.origin = origin
        """Whatever the maker wants to find again at the end."""
        self.history = StageHistory()
        self.ended = False
        """Set by the bus: whatever comes in later is too late."""
        self.is_blocking = False
        """Its code kept an event loop from turning."""
        self.held_at = -inf
        """When it was last seen waiting behind code of others that kept its loop from turning."""
        self.deaths = 0
        """How often a worker it was in died of an unknown cause."""
        self.place: Any = None
        """Where the executor runs it."""
        self.waits_since: float | None = None
        """Since when it waits for a thread, as far as the bus knows; None while it runs."""
        self.pool: object = None
        """The pool of threads that it waits for."""
        self.watcher: Watcher | None = None

    def __repr__(self) -> str:
        return f"<Job {self.query.query_id} {'ended' if self.ended else 'running'} {self.history}>"

    def end(self) -> None:
        """It has ended: no further stage runs, and what comes in is dropped."""
        self.ended = self.history.closed = True

    def ends_after_wait(self, until: float) -> float:
        """When its time is up if a thread takes its call at *until*; ``ends_at`` if it does not wait."""
        if self.waits_since is None:
            return self.ends_at
        return min(self.ends_at + max(0.0, until - self.waits_since), self.due_at)

    def move(self) -> None:
        """It goes on elsewhere, at the stage that was running."""
        if self.waits_since is not None and self.watcher is not None:
            self.watcher.moves(self)
        self.history = self.history.continued()
