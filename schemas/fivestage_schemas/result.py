"""PipelineResult: the one terminal event of a query."""

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
    """Figures of one query."""

    total_duration_ms: Milliseconds
    """From the start of the first stage to the end."""
    queue_ms: Milliseconds
    """From the record's timestamp to the start (0 when clocks disagree)."""
    stage_durations: dict[str, Milliseconds]
    """By stage type, for the stages that ran."""
    stages_completed: Annotated[int, Field(ge=0, le=5)]
    stages_failed: Annotated[int, Field(ge=0, le=5)]
    """Ended as ``error`` or ``timeout``."""
    stages_skipped: Annotated[int, Field(ge=0, le=5)]
    timeout_count: Annotated[int, Field(ge=0, le=5)]
    """Stages that ended as ``timeout``; attempts that were followed by another one do not count."""
    budget_ms: Milliseconds
    """What the query was granted in all."""
    within_budget: bool


class PipelineResult(Event):
    """What became of a query. Exactly one per query, whatever happened to it."""

    query_id: QueryId
    status: PipelineStatus
    answer: JsonValue = None
    """The node's answer; null unless processing succeeded and the query did too."""
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    degraded: bool = False
    """A non-critical stage did not succeed, or validation rejected the answer; the answer stands."""
    validated: bool | None = None
    """Validation's verdict on the answer: true, false, or null where it reached none."""
    error: str | None = None
    """For people."""
    error_type: str | None = None
    """For programs: ``timeout``, ``expired``, ``rejected``, ``invalid_query``, ``result_too_large``,
    ``publish_refused``... or a class name."""
    node: str | None = None
    lane: Lane
    stages: list[StageResult] = Field(default_factory=list)
    """In order; the one that was running at the deadline included. Empty when nothing was started."""
    metrics: PipelineMetrics
    started_at: Timestamp | None = None
    finished_at: Timestamp
    source: Source | None = None
    """Null when the query did not come from Kafka."""
