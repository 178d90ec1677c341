"""The events' JSON.

Written without building the models of ``fivestage_schemas`` (a fifth of the cost); tests hold the two
together, field by field. A stage's data is encoded where it ran and embedded as it is.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from fivestage.core.records import NOT_FROM_KAFKA
from fivestage_schemas import SCHEMA_VERSION, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.outcome import Conclusion, TimeoutNote
    from fivestage.core.records import Record
    from fivestage.core.trail import StageRun
    from fivestage_schemas import PipelineStatus

_OPTIONS: Final = orjson.OPT_UTC_Z
_NULL: Final = orjson.Fragment(b"null")


class Envelope(NamedTuple):
    """What all events of one query say about where they come from."""

    record: Record
    query_id: str
    lane: str
    correlation_id: str | None = None
    causation_id: str | None = None
    trace_headers: tuple[tuple[str, bytes], ...] = ()
    started_wall: float = 0.0
    """Seconds since the epoch at ``started_at``."""
    started_at: float = 0.0
    """Monotonic seconds."""
    queue_s: float = 0.0
    """From the record's timestamp to the start; 0 when clocks disagree."""

    def wall(self, monotonic: float) -> datetime:
        """When *monotonic* was, by the wall clock this query started with."""
        return datetime.fromtimestamp(self.started_wall + monotonic - self.started_at, UTC)


def to_json(data: Any) -> bytes:
    """Any JSON value, integers of any size included.

    Raises:
        TypeError, ValueError: *data* is no JSON value.
    """
    try:
        return orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        if "Integer exceeds" not in str(error):
            raise
        return json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def limited_json(data: Any, max_bytes: int | None) -> bytes | None:
    """The same; None for what takes more than *max_bytes*.

    Text that is too long is seen without encoding it, which would keep the interpreter for tens of
    milliseconds.

    Raises:
        TypeError, ValueError: *data* is no JSON value.
    """
    if max_bytes is None:
        return to_json(data)
    for part in data.values() if isinstance(data, dict) else (data,):
        if isinstance(part, str) and len(part) > max_bytes:
            return None
    encoded = to_json(data)
    return encoded if len(encoded) <= max_bytes else None


def stage_json(envelope: Envelope, run: StageRun) -> bytes:
    """The StageResult of one stage."""
    spec, outcome = run.spec, run.outcome
    return orjson.dumps(
        {
            "query_id": envelope.query_id,
            "stage_type": spec.stage_type,
            "sequence": spec.sequence,
            "outcome": outcome,
            "success": outcome is Outcome.SUCCESS,
            "timeout": outcome is Outcome.TIMEOUT,
            "critical": spec.critical,
            "data": _fragment(run.data_json),
            "error": run.error,
            "error_type": run.error_type,
            "node": run.node,
            "attempt": run.attempt,
            "duration_ms": _ms(run.duration_s),
            "timeout_ms": _ms(run.granted_s),
            "started_at": None if run.started_at is None else envelope.wall(run.started_at),
            "lane": envelope.lane,
            "schema_version": SCHEMA_VERSION,
        },
        option=_OPTIONS,
    )


def result_json(envelope: Envelope, conclusion: Conclusion, stages: Sequence[bytes]) -> bytes:
    """The PipelineResult of a query that was started; *stages* are its StageResults, as JSON."""
    return orjson.dumps(
        {
            "query_id": envelope.query_id,
            "status": conclusion.status,
            "answer": _fragment(conclusion.answer_json),
            "confidence": conclusion.confidence,
            "degraded": conclusion.degraded,
            "error": conclusion.error,
            "error_type": conclusion.error_type,
            "node": conclusion.node,
            "lane": envelope.lane,
            "stages": [orjson.Fragment(stage) for stage in stages],
            "metrics": _metrics(envelope, conclusion),
            "started_at": envelope.wall(envelope.started_at),
            "finished_at": envelope.wall(envelope.started_at + conclusion.duration_s),
            "source": _source(envelope.record),
            "schema_version": SCHEMA_VERSION,
        },
        option=_OPTIONS,
    )


def unstarted_json(envelope: Envelope, status: PipelineStatus, error: str, error_type: str) -> bytes:
    """The PipelineResult of a query that was not started."""
    return orjson.dumps(
        {
            "query_id": envelope.query_id,
            "status": status,
            "answer": None,
            "confidence": None,
            "degraded": False,
            "error": error,
            "error_type": error_type,
            "node": None,
            "lane": envelope.lane,
            "stages": [],
            "metrics": {**_NO_METRICS, "queue_ms": _ms(envelope.queue_s)},
            "started_at": None,
            "finished_at": envelope.wall(envelope.started_at),
            "source": _source(envelope.record),
            "schema_version": SCHEMA_VERSION,
        },
        option=_OPTIONS,
    )


def timeout_json(envelope: Envelope, note: TimeoutNote, when: datetime) -> bytes:
    """The TimeoutEvent of a stage or of the whole."""
    return orjson.dumps(
        {
            "query_id": envelope.query_id,
            "scope": note.scope,
            "reason": note.reason,
            "stage_type": note.spec.stage_type if note.spec else None,
            "node": note.node,
            "limit_ms": _ms(note.limit_s),
            "elapsed_ms": _ms(note.elapsed_s),
            "completed": note.completed,
            "lane": envelope.lane,
            "occurred_at": when,
            "source": _source(envelope.record),
            "schema_version": SCHEMA_VERSION,
        },
        option=_OPTIONS,
    )


_NO_METRICS: Final[dict[str, Any]] = {
    "total_duration_ms": 0.0,
    "queue_ms": 0.0,
    "stage_durations": {},
    "stages_completed": 0,
    "stages_failed": 0,
    "stages_skipped": 0,
    "timeout_count": 0,
    "budget_ms": 0.0,
    "within_budget": False,
}


def _metrics(envelope: Envelope, conclusion: Conclusion) -> dict[str, Any]:
    runs = conclusion.runs
    outcomes = [run.outcome for run in runs]
    timeouts = outcomes.count(Outcome.TIMEOUT)
    return {
        "total_duration_ms": _ms(conclusion.duration_s),
        "queue_ms": _ms(envelope.queue_s),
        "stage_durations": {
            run.spec.stage_type.value: _ms(run.duration_s) for run in runs if run.started_at is not None
        },
        "stages_completed": outcomes.count(Outcome.SUCCESS),
        "stages_failed": timeouts + outcomes.count(Outcome.ERROR),
        "stages_skipped": outcomes.count(Outcome.SKIPPED),
        "timeout_count": timeouts,
        "budget_ms": _ms(conclusion.budget_s),
        "within_budget": conclusion.within_budget,
    }


def _source(record: Record) -> dict[str, Any] | None:
    if record is NOT_FROM_KAFKA:
        return None
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}


def _fragment(encoded: bytes | None) -> orjson.Fragment:
    return _NULL if encoded is None else orjson.Fragment(encoded)


def _ms(seconds: float) -> float:
    """Milliseconds to the microsecond; a third of what ``round(x, 3)`` costs, and called 18 times a query."""
    return int(seconds * 1e6 + 0.5) / 1e3 if seconds > 0 else 0.0
