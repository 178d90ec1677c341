"""The events' JSON.

Written into templates, without building the models of ``fivestage_schemas`` (a tenth of the cost); tests hold
the two together, field by field. A stage's data is encoded where it ran and embedded as it is.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from fivestage.core.records import NOT_FROM_KAFKA, Record
from fivestage_schemas import SCHEMA_VERSION, Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.outcome import Conclusion, TimeoutNote
    from fivestage.core.trail import StageRun
    from fivestage_schemas import PipelineStatus

_STAGE: Final = (
    b'{"query_id":%b%b%b,%b,"node":%b,"attempt":%d,"duration_ms":%.3f,"timeout_ms":%.3f,"started_at":%b%b'
)
_NO_ERROR: Final = b'"error":null,"error_type":null'
_RESULT: Final = (
    b'{"query_id":%b,"status":"%b","answer":%b,"confidence":%b,"degraded":%b,%b,"node":%b,"stages":[%b],'
    b'"metrics":%b,"started_at":%b,"finished_at":%b,"source":%b%b'
)
_METRICS: Final = (
    b'{"total_duration_ms":%.3f,"queue_ms":%.3f,"stage_durations":{%b},"stages_completed":%d,'
    b'"stages_failed":%d,"stages_skipped":%d,"timeout_count":%d,"budget_ms":%.3f,"within_budget":%b}'
)
_TIMEOUT: Final = (
    b'{"query_id":%b,"scope":"%b","reason":"%b","stage_type":%b,"node":%b,"limit_ms":%.3f,"elapsed_ms":%.3f,'
    b'"completed":%b,"occurred_at":%b,"source":%b%b'
)
_DURATION: Final = {stage_type: b'"%b":%%.3f' % stage_type.encode() for stage_type in StageType}
_SECOND_US: Final = 1_000_000
_BOOLS: Final = {False: b"false", True: b"true"}


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


class EventJson:
    """Writes the events of one query.

    Args:
        envelope: What they have in common.
    """

    __slots__ = ("_begun", "_begun_us", "_envelope", "_query_id", "_rest", "_source", "_wall_s")

    def __init__(self, envelope: Envelope) -> None:
        record = envelope.record
        self._envelope = envelope
        self._query_id = orjson.dumps(envelope.query_id)
        self._rest = _rest(envelope.lane)
        self._wall_s = envelope.started_wall - envelope.started_at
        second = int(envelope.started_wall)
        self._begun = _second(second)
        """The second in which it began: most of its times are in the same."""
        self._begun_us = second * _SECOND_US
        self._source = b"null"
        if record is not NOT_FROM_KAFKA:
            self._source = b'{"topic":%b,"partition":%d,"offset":%d}' % (
                _text(record.topic),
                record.partition,
                record.offset,
            )

    def time(self, monotonic: float) -> bytes:
        """When *monotonic* was, by the wall clock this query started with, as RFC 3339."""
        since = int((self._wall_s + monotonic) * 1e6) - self._begun_us
        if 0 <= since < _SECOND_US:
            return b"%b.%06dZ" % (self._begun, since)
        second, microseconds = divmod(since + self._begun_us, _SECOND_US)
        return b"%b.%06dZ" % (_second(second), microseconds)

    def _quoted_time(self, monotonic: float) -> bytes:
        return b'"%b"' % self.time(monotonic)

    def stage(self, run: StageRun) -> bytes:
        """The StageResult of one stage."""
        spec, outcome, data_json, error, error_type, node, attempt, started_at, duration_s, granted_s, _ = run
        return _STAGE % (
            self._query_id,
            _stage_constant(spec.stage_type, outcome, spec.critical),
            data_json or b"null",
            _NO_ERROR if error is None is error_type else _error(error, error_type),
            b"null" if node is None else orjson.dumps(node),
            attempt,
            _ms(duration_s),
            _ms(granted_s),
            b"null" if started_at is None else self._quoted_time(started_at),
            self._rest,
        )

    def result(self, conclusion: Conclusion, stages: Sequence[bytes]) -> bytes:
        """The PipelineResult of a query that was started; *stages* are its StageResults, as JSON."""
        envelope = self._envelope
        confidence = conclusion.confidence
        return _RESULT % (
            self._query_id,
            conclusion.status.encode(),
            conclusion.answer_json or b"null",
            b"null" if confidence is None else orjson.dumps(confidence),
            _BOOLS[conclusion.degraded],
            _error(conclusion.error, conclusion.error_type),
            _text(conclusion.node),
            b",".join(stages),
            self._metrics(conclusion),
            self._quoted_time(envelope.started_at),
            self._quoted_time(envelope.started_at + conclusion.duration_s),
            self._source,
            self._rest,
        )

    def unstarted(self, status: PipelineStatus, error: str, error_type: str) -> bytes:
        """The PipelineResult of a query that was not started."""
        envelope = self._envelope
        return _RESULT % (
            self._query_id,
            status.encode(),
            b"null",
            b"null",
            b"false",
            _error(error, error_type),
            b"null",
            b"",
            _METRICS % (0.0, _ms(envelope.queue_s), b"", 0, 0, 0, 0, 0.0, b"false"),
            b"null",
            self._quoted_time(envelope.started_at),
            self._source,
            self._rest,
        )

    def timeout(self, note: TimeoutNote, monotonic: float) -> bytes:
        """The TimeoutEvent of a stage or of the whole, as of *monotonic*."""
        return _TIMEOUT % (
            self._query_id,
            note.scope.encode(),
            note.reason.encode(),
            _text(note.spec.stage_type if note.spec else None),
            _text(note.node),
            _ms(note.limit_s),
            _ms(note.elapsed_s),
            orjson.dumps(note.completed),
            self._quoted_time(monotonic),
            self._source,
            self._rest,
        )

    def _metrics(self, conclusion: Conclusion) -> bytes:
        runs = conclusion.runs
        outcomes = [run.outcome for run in runs]
        completed, timeouts = outcomes.count(Outcome.SUCCESS), outcomes.count(Outcome.TIMEOUT)
        skipped = outcomes.count(Outcome.SKIPPED) if completed < len(runs) else 0
        durations = [
            _DURATION[run.spec.stage_type] % _ms(run.duration_s) for run in runs if run.started_at is not None
        ]
        return _METRICS % (
            _ms(conclusion.duration_s),
            _ms(self._envelope.queue_s),
            b",".join(durations),
            completed,
            len(runs) - completed - skipped,
            skipped,
            timeouts,
            _ms(conclusion.budget_s),
            _BOOLS[conclusion.within_budget],
        )


@lru_cache(maxsize=256)
def _stage_constant(stage_type: StageType, outcome: Outcome, critical: bool) -> bytes:  # noqa: FBT001
    """What a StageResult says between the query's id and the data."""
    fields = {
        "stage_type": stage_type,
        "sequence": list(StageType).index(stage_type),
        "outcome": outcome,
        "success": outcome is Outcome.SUCCESS,
        "timeout": outcome is Outcome.TIMEOUT,
        "critical": critical,
    }
    return b"," + orjson.dumps(fields)[1:-1] + b',"data":'


@lru_cache(maxsize=256)
def _rest(lane: str) -> bytes:
    """What every event ends with."""
    return b"," + orjson.dumps({"lane": lane, "schema_version": SCHEMA_VERSION})[1:]


@lru_cache(maxsize=64)
def _second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def _text(text: str | None) -> bytes:
    return b"null" if text is None else orjson.dumps(text)


def _error(error: str | None, error_type: str | None) -> bytes:
    return b'"error":%b,"error_type":%b' % (_text(error), _text(error_type))


def _ms(seconds: float) -> float:
    return seconds * 1000.0 if 0 < seconds < inf else 0.0
