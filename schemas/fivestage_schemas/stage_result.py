"""StageResult: how one stage of one query went."""

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
    """Why a stage was tried: the first time, or once more."""

    FIRST = "first"
    FAILOVER = "failover"
    """Another node was tried, after one that failed or was not in time."""
    RETRY = "retry"
    """The same node was tried again, after it failed."""
    HEDGE = "hedge"
    """Another node was tried beside one that took long."""
    RESUMED = "resumed"
    """The query went on in another event loop or process, since its own was blocked or had died."""


class Attempt(Frozen):
    """One attempt at a stage: a call, or a node that could not be called."""

    node: str | None = None
    """The node that was called (processing only)."""
    kind: AttemptKind
    outcome: Outcome
    """``skipped``: given up unfinished, as the query went on elsewhere; the next one is ``resumed``."""
    duration_ms: Milliseconds = 0.0
    timeout_ms: Milliseconds = 0.0
    """The limit it was granted; 0 where nothing was called."""
    waited_ms: Milliseconds = 0.0
    """How long it waited for a thread before, which takes nothing of its limit."""


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
    attempts: list[Attempt] = Field(default_factory=list)
    """All attempts, in order, each at the place of its number; the last one is what the stage ended with. A
    stage that was skipped lists those before, mostly none."""
    duration_ms: Milliseconds = 0.0
    timeout_ms: Milliseconds = 0.0
    """The limit the stage was granted."""
    started_at: Timestamp | None = None
    """Null when the stage never started."""
    lane: Lane
