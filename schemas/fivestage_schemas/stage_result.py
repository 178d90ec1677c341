"""StageResult: how one stage of one query ended."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from fivestage_schemas.base import Event, Frozen, JsonValue, Lane, Milliseconds, QueryId, Timestamp


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


class AttemptKind(StrEnum):
    """Why a stage was attempted."""

    FIRST = "first"
    FAILOVER = "failover"
    """Another node, after one that failed or timed out."""
    RETRY = "retry"
    """The same node again, after it failed."""
    HEDGE = "hedge"
    """Another node in parallel to one that was slow; the first answer counts."""
    RESUMED = "resumed"
    """The same stage on another event loop or process, because the first was blocked or had died."""


class Attempt(Frozen):
    """One attempt at a stage: a call of a node, or a node that could not be called."""

    node: str | None = None
    """The node that was called (processing only)."""
    kind: AttemptKind
    outcome: Outcome
    """``skipped``: abandoned because the query continued elsewhere, the next attempt is ``resumed``; or given
    up because the call beside it had answered, where one of the two is a ``hedge``."""
    duration_ms: Milliseconds = 0.0
    timeout_ms: Milliseconds = 0.0
    """The time that the attempt was granted; 0 if nothing was called."""
    waited_ms: Milliseconds = 0.0
    """How long the attempt waited before it started: for a thread, for a slot of its node, or before a retry;
    not part of its limit. Of a ``hedge``: since the start of the call that it runs beside."""


class StageResult(Event):
    """How one stage of one query ended; a query that was started has five of them."""

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
    """Whether the query fails if this stage does."""
    data: JsonValue = None
    """What the stage returned; null unless it succeeded, or if the data was too large."""
    error: str | None = None
    """What went wrong, why stage or data are missing, or why validation rejected the answer, for people."""
    error_type: str | None = None
    """The same for programs: ``timeout``, ``skipped``, ``node_busy``, ``result_too_large``... or the class
    name of an exception."""
    node: str | None = None
    """The node that ran (processing only)."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """The number of the attempt that the stage ended with, counted from 1."""
    attempts: list[Attempt] = Field(default_factory=list)
    """All attempts in order, but last the one that the stage ended with, also if a hedge of it started later.
    For a skipped stage, the attempts before the skip, usually none."""
    duration_ms: Milliseconds = 0.0
    timeout_ms: Milliseconds = 0.0
    """The time that the stage was granted."""
    started_at: Timestamp | None = None
    """Null if the stage did not start."""
    lane: Lane
