"""What became of a query, to the records that say so.

Writes the JSON of ``fivestage_schemas`` without building the models (a fifth of the cost); tests hold the
two together, field by field. A stage's data is encoded where it ran and embedded as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from fivestage.core.decode import MAX_DETAIL_CHARS, MAX_HEADER_BYTES, MAX_KEY_BYTES
from fivestage.core.records import NOT_FROM_KAFKA, Output, OutputRecord
from fivestage_schemas import SCHEMA_VERSION, Outcome, PipelineStatus, TimeoutReason, TimeoutScope
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from fivestage.core.deadline import Budget
    from fivestage.core.decode import Unreadable
    from fivestage.core.outcome import Conclusion, TimeoutNote
    from fivestage.core.records import Record
    from fivestage.core.trail import StageRun

_RFC3339: Final = orjson.OPT_UTC_Z
MAX_KEY_AND_HEADER_BYTES: Final = MAX_KEY_BYTES + 16 * MAX_HEADER_BYTES
_TOO_LARGE: Final = "result_too_large"
_NULL: Final = orjson.Fragment(b"null")


@dataclass(frozen=True, slots=True)
class Envelope:
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


class Encoder:
    """Encodes events.

    Args:
        source: CloudEvents ``source`` of this service, a URI reference such as ``/fivestage/GROUP``.
        max_record_bytes: The largest record the output topics take, key and headers included.
    """

    def __init__(self, *, source: str, max_record_bytes: int) -> None:
        self._max_record_bytes = max_record_bytes
        self._constant = [(h.CE_SPECVERSION, b"1.0"), (h.CE_SOURCE, source.encode())]

    def concluded(self, envelope: Envelope, conclusion: Conclusion) -> list[OutputRecord]:
        """The events of a query that was started: five stage results, one result, its timeouts."""
        finished = envelope.wall(envelope.started_at + conclusion.duration_s)
        common = self._common_headers(envelope, finished)
        stages = [stage_json(envelope, run) for run in conclusion.runs]
        records = [
            self._stage_record(envelope, run, value, common)
            for run, value in zip(conclusion.runs, stages, strict=True)
        ]
        records.append(self._result_record(envelope, conclusion, stages, finished, common))
        records += [self._timeout_record(envelope, note, finished, common) for note in conclusion.timeouts]
        return records

    def expired(self, envelope: Envelope, budget: Budget, reason: TimeoutReason) -> list[OutputRecord]:
        """The events of a query that was not started because its answer would come too late."""
        now = datetime.fromtimestamp(envelope.started_wall, UTC)
        common = self._common_headers(envelope, now)
        result = self._unstarted_result(envelope, now, PipelineStatus.EXPIRED, _EXPIRED[reason], "expired")
        timeout: dict[str, Any] = {
            "query_id": envelope.query_id,
            "scope": TimeoutScope.QUEUE,
            "reason": reason,
            "stage_type": None,
            "node": None,
            "limit_ms": _ms((budget.of_use_ms or 0.0) / 1000),
            "elapsed_ms": _ms(envelope.queue_s),
            "completed": [],
        }
        return [
            self._record(Output.RESULTS, envelope, result, common, "result", (h.STATUS, b"expired")),
            self._record(
                Output.TIMEOUTS, envelope, self._timeout_json(envelope, timeout, now), common, "timeout"
            ),
        ]

    def unreadable(self, envelope: Envelope, unreadable: Unreadable) -> list[OutputRecord]:
        """The dead letter of a record that is no query, and its terminal event where its id is known."""
        records = [self._dead_letter(envelope.record, unreadable)]
        if unreadable.query_id is not None:
            now = datetime.fromtimestamp(envelope.started_wall, UTC)
            common = self._common_headers(envelope, now)
            text = f"{unreadable.reason}: {unreadable.detail}"
            value = self._unstarted_result(envelope, now, PipelineStatus.ERROR, text, "invalid_query")
            records.append(
                self._record(Output.RESULTS, envelope, value, common, "result", (h.STATUS, b"error"))
            )
        return records

    # Records

    def _record(
        self,
        output: Output,
        envelope: Envelope,
        value: bytes,
        common: list[tuple[str, bytes]],
        kind: str,
        *extra: tuple[str, bytes],
    ) -> OutputRecord:
        record = envelope.record
        ce_id = f"{record.topic}/{record.partition}/{record.offset}/{kind}".encode()
        headers = [(h.CE_ID, ce_id), (h.CE_TYPE, _CE_TYPES[output]), *common, *extra]
        return OutputRecord(output, output_key(record, envelope.query_id), value, headers)

    def _fits(self, record: OutputRecord) -> bool:
        # Keys and headers are bounded on the way in, so nearly every record is settled by its value alone.
        room = self._max_record_bytes - len(record.value or b"")
        return room >= MAX_KEY_AND_HEADER_BYTES or record.size <= self._max_record_bytes

    def _stage_record(
        self, envelope: Envelope, run: StageRun, value: bytes, common: list[tuple[str, bytes]]
    ) -> OutputRecord:
        kind = f"stage_result/{run.spec.sequence}"
        record = self._record(Output.STAGE_RESULTS, envelope, value, common, kind)
        if self._fits(record):
            return record
        return record._replace(value=stage_json(envelope, _without_data(run)))

    def _result_record(
        self,
        envelope: Envelope,
        conclusion: Conclusion,
        stages: list[bytes],
        finished: datetime,
        common: list[tuple[str, bytes]],
    ) -> OutputRecord:
        """The result whole; else without the stages' data (the stage results have it); else an error."""
        value = _result_json(envelope, conclusion, stages, finished)
        record = self._record(Output.RESULTS, envelope, value, common, "result", _status(conclusion))
        if self._fits(record):
            return record
        bare = [stage_json(envelope, _without_data(run)) for run in conclusion.runs]
        record = record._replace(value=_result_json(envelope, conclusion, bare, finished))
        if self._fits(record):
            return record
        text = f"the result has {len(value)} bytes, the topic takes {self._max_record_bytes}"
        failed = conclusion._replace(
            status=PipelineStatus.ERROR,
            answer_json=None,
            confidence=None,
            degraded=False,
            error=text,
            error_type=_TOO_LARGE,
        )
        value = _result_json(envelope, failed, bare, finished)
        return self._record(Output.RESULTS, envelope, value, common, "result", _status(failed))

    def _timeout_record(
        self, envelope: Envelope, note: TimeoutNote, finished: datetime, common: list[tuple[str, bytes]]
    ) -> OutputRecord:
        timeout = {
            "query_id": envelope.query_id,
            "scope": note.scope,
            "reason": note.reason,
            "stage_type": note.spec.stage_type if note.spec else None,
            "node": note.node,
            "limit_ms": _ms(note.limit_s),
            "elapsed_ms": _ms(note.elapsed_s),
            "completed": note.completed,
        }
        staged = note.scope is TimeoutScope.STAGE and note.spec is not None
        kind = f"timeout/{note.spec.sequence}" if staged and note.spec else "timeout"
        value = self._timeout_json(envelope, timeout, finished)
        return self._record(Output.TIMEOUTS, envelope, value, common, kind)

    def _dead_letter(self, record: Record, unreadable: Unreadable) -> OutputRecord:
        headers = [
            (h.DLQ_REASON, unreadable.reason.encode()),
            (h.DLQ_DETAIL, unreadable.detail[:MAX_DETAIL_CHARS].encode()),
            (h.DLQ_TOPIC, record.topic.encode()),
            (h.DLQ_PARTITION, str(record.partition).encode()),
            (h.DLQ_OFFSET, str(record.offset).encode()),
            (h.DLQ_TIMESTAMP, str(record.timestamp).encode()),
        ]
        letter = OutputRecord(Output.DEAD_LETTERS, record.key, record.value, headers)
        if letter.size <= self._max_record_bytes:  # its key is as large as the producer made it
            return letter
        return letter._replace(key=None, value=None, headers=[*headers, ("dlq.truncated", b"true")])

    def _common_headers(self, envelope: Envelope, when: datetime) -> list[tuple[str, bytes]]:
        record = envelope.record
        causation = envelope.causation_id or f"{record.topic}/{record.partition}/{record.offset}"
        query_id = envelope.query_id.encode()
        correlation = envelope.correlation_id.encode() if envelope.correlation_id else query_id
        return [
            *self._constant,
            (h.CE_SUBJECT, query_id),
            (h.CE_TIME, when.isoformat().encode()),
            (h.CE_CORRELATION_ID, correlation),
            (h.CE_CAUSATION_ID, causation.encode()),
            (h.CONTENT_TYPE, b"application/json"),
            *envelope.trace_headers,
            (h.LANE, envelope.lane.encode()),
        ]

    # Values

    def _unstarted_result(
        self, envelope: Envelope, now: datetime, status: PipelineStatus, error: str, error_type: str
    ) -> bytes:
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
                "metrics": _metrics_json(envelope, (), 0.0, 0.0, within_budget=False),
                "started_at": None,
                "finished_at": now,
                "source": _source_json(envelope.record),
                "schema_version": SCHEMA_VERSION,
            },
            option=_RFC3339,
        )

    def _timeout_json(self, envelope: Envelope, timeout: dict[str, Any], when: datetime) -> bytes:
        timeout |= {
            "lane": envelope.lane,
            "occurred_at": when,
            "source": _source_json(envelope.record),
            "schema_version": SCHEMA_VERSION,
        }
        return orjson.dumps(timeout, option=_RFC3339)


_EXPIRED: Final = {
    TimeoutReason.EXPIRED_BEFORE_START: "its deadline had passed before it could be started",
    TimeoutReason.WOULD_EXPIRE: "less time was left than an answer takes",
}
_CE_TYPES: Final = {
    Output.STAGE_RESULTS: h.STAGE_RESULT_TYPE.encode(),
    Output.RESULTS: h.RESULT_TYPE.encode(),
    Output.TIMEOUTS: h.TIMEOUT_TYPE.encode(),
}
_STATUS_HEADERS: Final = {status: (h.STATUS, status.encode()) for status in PipelineStatus}


def output_key(record: Record, query_id: str) -> bytes:
    """The input's key; the query's id where it has none, or one too large to repeat six times."""
    key = record.key
    return key if key and len(key) <= MAX_KEY_BYTES else query_id.encode()


def _status(conclusion: Conclusion) -> tuple[str, bytes]:
    return _STATUS_HEADERS[conclusion.status]


def stage_json(envelope: Envelope, run: StageRun) -> bytes:
    """The StageResult of one stage, as JSON."""
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
        option=_RFC3339,
    )


def result_json(envelope: Envelope, conclusion: Conclusion) -> bytes:
    """The PipelineResult of a query, as JSON."""
    stages = [stage_json(envelope, run) for run in conclusion.runs]
    finished = envelope.wall(envelope.started_at + conclusion.duration_s)
    return _result_json(envelope, conclusion, stages, finished)


def _result_json(
    envelope: Envelope, conclusion: Conclusion, stages: list[bytes], finished: datetime
) -> bytes:
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
            "metrics": _metrics_json(
                envelope,
                conclusion.runs,
                conclusion.duration_s,
                conclusion.budget_s,
                within_budget=conclusion.within_budget,
            ),
            "started_at": envelope.wall(envelope.started_at),
            "finished_at": finished,
            "source": _source_json(envelope.record),
            "schema_version": SCHEMA_VERSION,
        },
        option=_RFC3339,
    )


def _metrics_json(
    envelope: Envelope, runs: tuple[StageRun, ...], duration_s: float, budget_s: float, *, within_budget: bool
) -> dict[str, Any]:
    outcomes = [run.outcome for run in runs]
    timeouts = outcomes.count(Outcome.TIMEOUT)
    return {
        "total_duration_ms": _ms(duration_s),
        "queue_ms": _ms(envelope.queue_s),
        "stage_durations": {
            run.spec.stage_type.value: _ms(run.duration_s) for run in runs if run.started_at is not None
        },
        "stages_completed": outcomes.count(Outcome.SUCCESS),
        "stages_failed": timeouts + outcomes.count(Outcome.ERROR),
        "stages_skipped": outcomes.count(Outcome.SKIPPED),
        "timeout_count": timeouts,
        "budget_ms": _ms(budget_s),
        "within_budget": within_budget,
    }


def _source_json(record: Record) -> dict[str, Any] | None:
    if record is NOT_FROM_KAFKA:
        return None
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}


def _without_data(run: StageRun) -> StageRun:
    """The run with its data left out; a successful one says so."""
    if run.data_json is None:
        return run
    text = f"data left out: {len(run.data_json)} bytes are more than the topic takes"
    return run._replace(data_json=None, error=text, error_type=_TOO_LARGE)


def _fragment(json: bytes | None) -> orjson.Fragment:
    return _NULL if json is None else orjson.Fragment(json)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3) if seconds > 0 else 0.0
