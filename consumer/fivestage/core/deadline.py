"""Deadlines: absolute, monotonic, made once at the edge, and only ever shortened."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fivestage.core.tuples import new

if TYPE_CHECKING:
    from datetime import datetime

    from fivestage.core.plan import StageSpec
    from fivestage.core.routing_snapshot import StageRouting


class Budget(NamedTuple):
    """What a query may take.

    ``ends_at`` is on the monotonic clock; ``total_s`` is the most that it may take. Where the producer or
    the service said until when the answer is of use, ``due_at`` is that moment on the monotonic clock, and
    ``of_use_ms`` how long that is from the record's timestamp.
    """

    ends_at: float
    granted_s: float
    total_s: float
    of_use_ms: float | None = None
    due_at: float | None = None

    @property
    def expired(self) -> bool:
        """There is nothing left: do not start."""
        return self.granted_s <= 0

    def started(self, now: float) -> Budget:
        """What is left when it begins *now*, maybe later than it was read, however the wall clock was set."""
        granted_s = self.total_s if self.due_at is None else min(self.total_s, self.due_at - now)
        return new(Budget, (now + granted_s, granted_s, self.total_s, self.of_use_ms, self.due_at))


def grant(
    *,
    now: float,
    wall_now: float,
    total_s: float,
    budget_ms: int | None = None,
    deadline: datetime | None = None,
    expiry_time: datetime | None = None,
    written_at: float | None = None,
    ttl_ms: int = 0,
) -> Budget:
    """Work out a query's deadline: the earliest of all that bound it.

    Args:
        now: Monotonic seconds.
        wall_now: Seconds since the epoch; used only to read absolute deadlines.
        total_s: The service's total limit.
        budget_ms: The producer's limit from the start on.
        deadline: ``deadline`` of the query.
        expiry_time: The header ``ce_expirytime``.
        written_at: The record's timestamp, seconds since the epoch.
        ttl_ms: How long after its timestamp a record is of use; 0 = for ever.
    """
    if written_at is not None:
        written_at = min(written_at, wall_now)  # a producer's clock that runs ahead gains it nothing
    total = total_s if budget_ms is None else min(total_s, budget_ms / 1000)
    ends = [when.timestamp() for when in (deadline, expiry_time) if when is not None]
    if ttl_ms and written_at is not None:
        ends.append(written_at + ttl_ms / 1000)
    if not ends:
        return new(Budget, (now + total, total, total, None, None))
    end = min(ends)
    granted = min(total, end - wall_now)
    of_use_ms = max(0.0, end - (wall_now if written_at is None else written_at)) * 1000
    return Budget(now + granted, granted, total, of_use_ms, now + (end - wall_now))


def stage_grant(
    spec: StageSpec, routing: StageRouting, *, now: float, ends_at: float
) -> tuple[float, str | None]:
    """Share out what remains: a stage gets its limit, or what later critical stages leave.

    Returns what it may take, in seconds, and why it is not worth starting, if it is not.

    Where not even the critical ones can have what they need, they share what remains in proportion to
    their needs. A stage that is not critical is not started when it would not finish, more likely than not.
    """
    remaining_s = ends_at - now
    available_s = remaining_s - routing.reserve_s
    if spec.critical:
        p95_s = routing.p95_s or routing.limit_s
        if available_s < p95_s:
            available_s = max(available_s, remaining_s * p95_s / (p95_s + routing.reserve_s))
    elif 0 < available_s < routing.p50_s:
        text = f"{available_s * 1000:.0f} ms were left, it takes {routing.p50_s * 1000:.0f}"
        return available_s, text
    granted_s = min(routing.limit_s, available_s)
    return granted_s, None if granted_s > 0 else "no time left"
