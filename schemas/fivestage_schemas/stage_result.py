"""StageResult: how one stage of one query went."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from fivestage_schemas.base import Event, JsonValue, Lane, Milliseconds, QueryId, Timestamp


class StageType(StrEnum):
    """The five stages, in the order they run."""

    INTENT = "intent"
    DECISION = "decision"
    PROCESSING = "processing"
    VALIDATION = "validation"
    REFLECTION = "reflection"


class Outcome(StrEnum):
    """How a stage ended."""

    SUCCESS = "success"
    TIMEOUT = "timeout"
    ERROR = "error"
    SKIPPED = "skipped"


class StageResult(Event):
    """One stage of one query; every query that started has five of them."""

    query_id: QueryId
    stage_type: StageType
    sequence: Annotated[int, Field(ge=0, le=4)]
    """0 for intent to 4 for reflection."""
    outcome: Outcome
    success: bool
    """Same as ``outcome == "success"``."""
    timeout: bool
    """Same as ``outcome == "timeout"``."""
    critical: bool
    """Whether the query fails when this stage does."""
    data: JsonValue = None
    """What the stage returned; null unless it succeeded."""
    error: str | None = None
    """For people: what went wrong, or why the stage was skipped."""
    error_type: str | None = None
    """For programs: ``timeout``, ``skipped``, or the class name of the exception."""
    node: str | None = None
    """The node that ran (processing only)."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Counts from 1."""
    duration_ms: Milliseconds = 0.0
    timeout_ms: Milliseconds = 0.0
    """The limit the stage was granted."""
    started_at: Timestamp | None = None
    """Null when the stage never started."""
    lane: Lane
