"""A query in flight."""

from __future__ import annotations

from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

from fivestage.core.advice import Advice
from fivestage.core.trail import Trail

if TYPE_CHECKING:
    from fivestage.context import Query
    from fivestage.core.plan import Plan


_numbers = count(1)


class Job:
    """One query on its way through the stages, shared by the bus and an executor.

    The bus makes it and alone decides when it has ended; the executor writes the trail. Times are
    monotonic seconds.
    """

    __slots__ = (
        "advice", "culprit", "deaths", "ended", "ends_at", "held_at", "number", "origin", "place", "plan",
        "query", "started_among", "started_at", "trail",
    )  # fmt: skip

    def __init__(
        self,
        query: Query,
        plan: Plan,
        *,
        started_at: float,
        ends_at: float,
        advice: Advice | None = None,
        origin: Any = None,
    ) -> None:
        self.number = next(_numbers)
        """Names the job across threads and processes; never 0."""
        self.query = query
        self.plan = plan
        self.advice = advice or Advice.neutral(plan)
        self.started_at = started_at
        self.started_among = 0
        """How many queries ran when it had started, itself included."""
        self.ends_at = ends_at
        self.origin = origin
        """Whatever the maker wants to find again at the end."""
        self.trail = Trail()
        self.ended = False
        """Set by the bus: whatever comes in later is too late."""
        self.culprit = False
        """Its code kept an event loop from turning."""
        self.held_at = -inf
        """When it was last seen waiting behind code of others that kept its loop from turning."""
        self.deaths = 0
        """How often a worker it was in died of an unknown cause."""
        self.place: Any = None
        """Where the executor runs it."""

    def __repr__(self) -> str:
        return f"<Job {self.query.query_id} {'ended' if self.ended else 'running'} {self.trail}>"

    def end(self) -> None:
        """It has ended: no further stage runs, and what comes in is dropped."""
        self.ended = self.trail.closed = True

    def move(self) -> None:
        """It goes on elsewhere, at the stage that was running."""
        self.trail = self.trail.continued()
