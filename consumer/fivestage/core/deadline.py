"""Computes the budget of a query, and how much of it each stage is granted.

A budget is computed at arrival, and made an absolute deadline at the start. Deadlines are monotonic
seconds. Only waits in the executor move them after that: for a slot (``dispatch.enqueued_jobs``) or a thread
(``pipeline.waiting_calls``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fivestage.core.tuples import new
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from datetime import datetime

    from fivestage.core.plan import StageSpec
    from fivestage.core.routing_snapshot import StageRouting

DEADLINE_HEADER: Final = "x-envoy-upstream-rq-timeout-ms"
"""Passes the deadline on to a called service: Envoy ends a request after that many milliseconds."""


class Budget(NamedTuple):
    """The time that a query may take.

    ``granted_s`` is the time until ``ends_at`` (monotonic seconds), at most ``total_s``; not above 0 if the
    query is expired. With an end-to-end deadline, set by the producer or by ``query_ttl_ms``, ``due_at`` is
    that deadline in monotonic seconds, and ``of_use_ms`` the time from the record's timestamp to it.
    """

    ends_at: float
    granted_s: float
    total_s: float
    of_use_ms: float | None = None
    due_at: float | None = None

    @property
    def expired(self) -> bool:
        """Whether no time is left: the query must not start."""
        return self.granted_s <= 0

    @property
    def read_at(self) -> float:
        """When it was computed (monotonic seconds)."""
        return self.ends_at - self.granted_s

    def started(self, now: float) -> Budget:
        """The budget of a query that starts at *now*; the wall clock may have changed since its arrival."""
        granted_s = self.total_s if self.due_at is None else min(self.total_s, self.due_at - now)
        return new(Budget, (now + granted_s, granted_s, self.total_s, self.of_use_ms, self.due_at))


def budget_of(
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
    """Compute the budget of a query from the earliest of its limits.

    Args:
        now: Monotonic seconds.
        wall_now: Seconds since the epoch; used only to convert absolute deadlines.
        total_s: The service's total limit.
        budget_ms: The producer's limit, from the start.
        deadline: The field ``deadline`` of the query.
        expiry_time: The header ``ce_expirytime``.
        written_at: The record's timestamp, seconds since the epoch.
        ttl_ms: How long after its timestamp a record is worth answering; 0 = no limit.
    """
    if written_at is not None:
        written_at = min(written_at, wall_now)  # a producer gains no time by a clock that runs ahead
    total = total_s if budget_ms is None else min(total_s, budget_ms / 1000)
    ends = [when.timestamp() for when in (deadline, expiry_time) if when is not None]
    if ttl_ms and written_at is not None:
        ends.append(written_at + ttl_ms / 1000)
    if not ends:
        return new(Budget, (now + total, total, total, None, None))
    end = min(ends)
    granted = min(total, end - wall_now)
    of_use_ms = max(0.0, end - (wall_now if written_at is None else written_at)) * 1000
    return new(Budget, (now + granted, granted, total, of_use_ms, now + (end - wall_now)))


LATER_STAGES_S: Final = 0.005
"""Least seconds that processing leaves to validation and reflection, besides what they usually take, if the
query allows partial answers: else the last offer would often come too late to be checked."""
LATER_SHARE: Final = 0.02
"""The share of the time left that it leaves to them if that is more. Where answers take a second, a loop may
well be busy for 10 ms at their end, and an offer lost costs more than 20 ms of its answer."""
MAX_LEFT_SHARE: Final = 0.1
"""The largest share of the time left that it leaves to them."""
_PROCESSING: Final = StageType.PROCESSING


def stage_grant(
    spec: StageSpec, routing: StageRouting, *, now: float, ends_at: float, allow_partial: bool = False
) -> tuple[float, str | None]:
    """Grant a stage its limit, or less, to leave the later critical stages their p95.

    Returns the time in seconds, and the reason for not starting the stage, if there is one.

    If the time is too short for all critical stages, they share it in proportion to their p95. A stage that
    is not critical is not started if it would probably not finish. With *allow_partial* processing leaves
    some time for the later stages to run on an offered answer.
    """
    remaining_s = ends_at - now
    if allow_partial and spec.stage_type is _PROCESSING and remaining_s > 0:
        left_s = max(LATER_STAGES_S, LATER_SHARE * remaining_s) + routing.later_s
        remaining_s -= min(left_s, MAX_LEFT_SHARE * remaining_s)
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
