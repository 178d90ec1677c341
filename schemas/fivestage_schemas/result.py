"""PipelineResult: the single terminal event of a query."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from fivestage_schemas.base import Event, Frozen, JsonValue, Lane, Milliseconds, QueryId, Source, Timestamp
from fivestage_schemas.stage_result import StageResult


class PipelineStatus(StrEnum):
    """How a query ended."""

    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    EXPIRED = "expired"


class PipelineMetrics(Frozen):
    """Durations and counts of one query."""

    total_duration_ms: Milliseconds
    """From the start of the first stage to the end of the query, without waits for threads."""
    queue_ms: Milliseconds
    """From the record's timestamp to the start or the rejection, 0 if the clocks disagree; plus waits for
    threads."""
    stage_durations: dict[str, Milliseconds]
    """Duration by stage type, for the stages that ran."""
    stages_completed: Annotated[int, Field(ge=0, le=5)]
    stages_failed: Annotated[int, Field(ge=0, le=5)]
    """Stages that ended as ``error`` or ``timeout``."""
    stages_skipped: Annotated[int, Field(ge=0, le=5)]
    timeout_count: Annotated[int, Field(ge=0, le=5)]
    """Stages that ended as ``timeout``; attempts that another attempt followed do not count."""
    budget_ms: Milliseconds
    """The time that the query had from its start; 0 if it was not started."""
    within_budget: bool


class PipelineResult(Event):
    """The result of a query. Each query has exactly one result, however it ended."""

    query_id: QueryId
    status: PipelineStatus
    answer: JsonValue = None
    """The node's answer; null unless processing and the query succeeded, or ``partial``."""
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    degraded: bool = False
    """The query succeeded, but a non-critical stage did not, or validation rejected the answer."""
    validated: bool | None = None
    """Whether validation accepted the answer; null if it did not decide."""
    partial: bool = False
    """The answer is the last one that a node offered, not the final one: processing did not succeed."""
    error: str | None = None
    """What went wrong, for people."""
    error_type: str | None = None
    """What went wrong, for programs: ``timeout``, ``expired``, ``rejected``, ``invalid_query``,
    ``result_too_large``, ``publish_refused``... or the class name of an exception."""
    node: str | None = None
    lane: Lane
    stages: list[StageResult] = Field(default_factory=list)
    """All five stages, in order; empty if the query was not started."""
    metrics: PipelineMetrics
    started_at: Timestamp | None = None
    finished_at: Timestamp
    source: Source | None = None
    """Null if the query did not come from Kafka."""
