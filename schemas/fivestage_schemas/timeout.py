"""TimeoutEvent: a stage or a query exceeded its time limit."""

from enum import StrEnum

from pydantic import Field

from fivestage_schemas.base import Event, Lane, Milliseconds, QueryId, Source, Timestamp
from fivestage_schemas.stage_result import StageType


class TimeoutScope(StrEnum):
    """What exceeded its time limit: a stage, the whole query, or the wait before its start."""

    STAGE = "stage"
    PIPELINE = "pipeline"
    QUEUE = "queue"


class TimeoutReason(StrEnum):
    """Why the event was published."""

    STAGE_TIMEOUT = "stage_timeout"
    PIPELINE_TIMEOUT = "pipeline_timeout"
    EXPIRED_BEFORE_START = "expired_before_start"
    WOULD_EXPIRE = "would_expire"


class TimeoutEvent(Event):
    """Published for each stage or query that timed out, and each query that was rejected before its start.

    Each attempt at a stage that timed out has its own event, even if a later attempt succeeded.
    """

    query_id: QueryId
    scope: TimeoutScope
    reason: TimeoutReason
    stage_type: StageType | None = None
    """The stage that was running; null if none was."""
    node: str | None = None
    limit_ms: Milliseconds
    """The time limit; for ``queue``, the record's age at the end-to-end deadline, if there is one."""
    elapsed_ms: Milliseconds
    completed: list[StageType] = Field(default_factory=list)
    """The stages that had succeeded."""
    lane: Lane
    occurred_at: Timestamp
    source: Source | None = None
