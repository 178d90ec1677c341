"""TimeoutEvent: something was not in time."""

from enum import StrEnum

from pydantic import Field

from fivestage_schemas.base import Event, Lane, Milliseconds, QueryId, Source, Timestamp
from fivestage_schemas.stage_result import StageType


class TimeoutScope(StrEnum):
    """What ran out of time."""

    STAGE = "stage"
    PIPELINE = "pipeline"
    QUEUE = "queue"


class TimeoutReason(StrEnum):
    """Why."""

    STAGE_TIMEOUT = "stage_timeout"
    PIPELINE_TIMEOUT = "pipeline_timeout"
    EXPIRED_BEFORE_START = "expired_before_start"
    WOULD_EXPIRE = "would_expire"


class TimeoutEvent(Event):
    """One per stage timeout, per pipeline timeout, per query that expired before it started.

    Each attempt at a stage that was not in time has its own, also where a later one answered.
    """

    query_id: QueryId
    scope: TimeoutScope
    reason: TimeoutReason
    stage_type: StageType | None = None
    """The stage that was running; null in the queue."""
    node: str | None = None
    limit_ms: Milliseconds
    """What was granted; for ``queue`` the time the answer was still of use when the record was written."""
    elapsed_ms: Milliseconds
    completed: list[StageType] = Field(default_factory=list)
    """The stages that had finished."""
    lane: Lane
    occurred_at: Timestamp
    source: Source | None = None
