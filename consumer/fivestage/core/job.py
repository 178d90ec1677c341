"""A query in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivestage.core.trail import Trail

if TYPE_CHECKING:
    from fivestage.context import Query
    from fivestage.core.plan import Plan


class Job:
    """One query on its way through the stages, shared by the bus and an executor.

    The bus makes it and alone decides when it has ended; the executor writes the trail.
    """

    __slots__ = ("ended", "ends_at", "origin", "plan", "query", "started_at", "task", "timer", "trail")

    def __init__(
        self, query: Query, plan: Plan, *, started_at: float, ends_at: float, origin: Any = None
    ) -> None:
        self.query = query
        self.plan = plan
        self.started_at = started_at
        self.ends_at = ends_at
        self.origin = origin
        """Whatever the maker wants to find again at the end."""
        self.trail = Trail()
        self.ended = False
        """Set by the bus: whatever comes in later is too late."""
        self.timer: Any = None
        """The bus's deadline timer."""
        self.task: Any = None
        """The executor's task."""

    def __repr__(self) -> str:
        return f"<Job {self.query.query_id} {'ended' if self.ended else 'running'} {self.trail}>"
