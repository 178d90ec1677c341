"""The job of a query that runs, shared by the bus loop and an executor."""

from __future__ import annotations

from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from fivestage.core.routing_snapshot import RoutingSnapshot
from fivestage.core.stage_history import StageHistory

if TYPE_CHECKING:
    from fivestage.core.plan import Plan
    from fivestage.core.trace_context import TraceContext
    from fivestage.pipeline.context import Query


_numbers = count(1)


class Watcher(Protocol):
    """Callbacks for jobs that wait in the executor. Called on the bus loop."""

    def waits(self, job: Job, history: StageHistory, pool: object) -> None:
        """The job starts to wait for a thread of *pool*."""

    def goes_on(self, job: Job, history: StageHistory, started_at: float, ends_at: float) -> None:
        """A thread has taken the job's call, or the executor has started an enqueued job.

        Its new start and end are moved by the wait (monotonic seconds).
        """

    def moves(self, job: Job) -> None:
        """A waiting job is about to move, or to give up its call; after that it may wait again."""


class Job:
    """One query on its way through the stages.

    The bus loop creates a job and alone ends it; the executor writes the stage history. Times are monotonic
    seconds.
    """

    __slots__ = (
        "allow_partial", "deaths", "due_at", "ended", "ends_at", "held_at", "history", "is_blocking",
        "number", "origin", "place", "plan", "pool", "query", "routing", "started_among", "started_at",
        "trace", "waits_since", "watcher",
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
        trace: TraceContext | None = None,
        allow_partial: bool | None = None,
    ) -> None:
        self.number = next(_numbers)
        """Identifies the job across threads and processes; never 0."""
        self.query = query
        self.plan = plan
        self.allow_partial = plan.allow_partial if allow_partial is None else allow_partial
        """Whether later stages may run on an offered answer; the plan's choice if None is given."""
        self.routing = routing or RoutingSnapshot.neutral(plan)
        self.started_at = started_at
        self.started_among = 0
        """Queries that ran when this one last took a slot, itself included."""
        self.ends_at = ends_at
        """The deadline; extended by waits in the executor, up to ``due_at``."""
        self.due_at = inf if due_at is None else due_at
        """The end-to-end deadline; infinite if none was set."""
        self.origin = origin
        """What the creator of the job needs at its end."""
        self.trace = trace
        """The trace that the code of the job continues; None if it has none."""
        self.history = StageHistory()
        self.ended = False
        """Set by the bus loop when the query ends; later results are dropped."""
        self.is_blocking = False
        """Code of this job has blocked an event loop."""
        self.held_at = -inf
        """When other code was last seen to block the event loop of this job."""
        self.deaths = 0
        """Failures, for an unknown reason, of workers that ran this job."""
        self.place: Any = None
        """The worker that runs the job; set by the executor."""
        self.waits_since: float | None = None
        """When the job started to wait for a slot or for a thread; None while it runs."""
        self.pool: object = None
        """The pool of threads that the job waits for; None if it waits for a slot."""
        self.watcher: Watcher | None = None

    def __repr__(self) -> str:
        return f"<Job {self.query.query_id} {'ended' if self.ended else 'running'} {self.history}>"

    @property
    def is_enqueued(self) -> bool:
        """Whether it waits in the executor for a slot; its code has not run."""
        return self.waits_since is not None and self.pool is None

    def end(self) -> None:
        """End the job: no further stage runs, and later results are dropped."""
        self.ended = self.history.closed = True

    def ends_after_wait(self, until: float) -> float:
        """The deadline if the wait ends at *until*; ``ends_at`` if the job does not wait."""
        if self.waits_since is None:
            return self.ends_at
        return min(self.ends_at + max(0.0, until - self.waits_since), self.due_at)

    def move(self) -> None:
        """Continue with a new stage history: what the old worker or call still writes has no effect."""
        if self.waits_since is not None and self.watcher is not None:
            self.watcher.moves(self)
        self.history = self.history.continued()
