"""Deadlines: absolute, monotonic, made once at the edge, and only ever shortened."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from fivestage.core.plan import StageSpec


class Budget(NamedTuple):
    """What a query may take.

    ``ends_at`` is on the monotonic clock. ``of_use_ms`` is how long the answer was of use counted from
    the record's timestamp, where the producer or the service said so.
    """

    ends_at: float
    granted_s: float
    of_use_ms: float | None = None

    @property
    def expired(self) -> bool:
        """There is nothing left: do not start."""
        return self.granted_s <= 0


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
    total = total_s if budget_ms is None else min(total_s, budget_ms / 1000)
    ends = [when.timestamp() for when in (deadline, expiry_time) if when is not None]
    if ttl_ms and written_at is not None:
        ends.append(written_at + ttl_ms / 1000)
    if not ends:
        return Budget(now + total, total)
    end = min(ends)
    granted = min(total, end - wall_now)
    of_use_ms = max(0.0, end - (wall_now if written_at is None else written_at)) * 1000
    return Budget(now + granted, granted, of_use_ms)


def stage_grant(spec: StageSpec, *, now: float, ends_at: float, reserve_s: float = 0.0) -> float:
    """Seconds a stage is granted: its limit, or what remains after *reserve_s* for later critical stages."""
    return min(spec.limit_s, ends_at - now - reserve_s)
