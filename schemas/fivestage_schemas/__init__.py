"""The events of fivestage as pydantic models, for programs that write queries or read results.

Depends on pydantic only, so that a reader of results does not need fivestage or a Kafka client:

>>> from fivestage_schemas import PipelineResult
>>> PipelineResult.model_validate_json(record_value).answer  # doctest: +SKIP
22
"""

from fivestage_schemas.base import SCHEMA_VERSION, Event, JsonValue, QueryId, Source
from fivestage_schemas.query import MAX_USER_INPUT_BYTES, QueryEvent
from fivestage_schemas.result import PipelineMetrics, PipelineResult, PipelineStatus
from fivestage_schemas.stage_result import Attempt, AttemptKind, Outcome, StageResult, StageType
from fivestage_schemas.timeout import TimeoutEvent, TimeoutReason, TimeoutScope

__all__ = [
    "MAX_USER_INPUT_BYTES",
    "SCHEMA_VERSION",
    "Attempt",
    "AttemptKind",
    "Event",
    "JsonValue",
    "Outcome",
    "PipelineMetrics",
    "PipelineResult",
    "PipelineStatus",
    "QueryEvent",
    "QueryId",
    "Source",
    "StageResult",
    "StageType",
    "TimeoutEvent",
    "TimeoutReason",
    "TimeoutScope",
]
