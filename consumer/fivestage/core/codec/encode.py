"""Encodes the outcome of a record: the headers and values of its events, or its dead letter.

Data that make an event too large for its topic are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.core.codec.decode import (
    KNOWN_HEADERS,
    MAX_DETAIL_CHARS,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_KEY_BYTES,
)
from fivestage.core.codec.event_json import EventJson
from fivestage.core.codec.record_format import header, sized, varint
from fivestage.core.codec.refused_event import TOO_LARGE
from fivestage.core.outcome import QueryOutcome, TimeoutNote
from fivestage.core.records import Output, OutputRecord
from fivestage.core.tuples import new
from fivestage_schemas import PipelineStatus, TimeoutScope
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.codec.decode import Unreadable
    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.deadline import Budget
    from fivestage.core.records import Record
    from fivestage.core.rejection_cause import RejectionCause
    from fivestage.core.stage_run import StageRun

MAX_KEY_AND_HEADER_BYTES: Final = MAX_KEY_BYTES + 16 * MAX_HEADER_BYTES
_IN_STAGE_RESULT: Final = "data left out for the result to fit its topic; the stage result has it"
_DATA_TOO_LARGE: Final = "data left out: it does not fit the topic"
_TYPE_HEADERS: Final = {
    Output.STAGE_RESULTS: header(h.CE_TYPE, h.STAGE_RESULT_TYPE.encode()),
    Output.RESULTS: header(h.CE_TYPE, h.RESULT_TYPE.encode()),
    Output.TIMEOUTS: header(h.CE_TYPE, h.TIMEOUT_TYPE.encode()),
}
_STAGE_RESULTS: Final = Output.STAGE_RESULTS
_RESULTS: Final = Output.RESULTS
_QUEUE: Final = TimeoutScope.QUEUE
_STAGE_KINDS: Final = tuple(b"stage_result/%d" % sequence for sequence in range(5))
_STATUS_HEADERS: Final = {status: header(h.STATUS, status.encode()) for status in PipelineStatus}
_ID, _SUBJECT, _TIME, _CORRELATION_ID, _CAUSATION_ID, _LANE = (
    sized(name.encode())
    for name in (h.CE_ID, h.CE_SUBJECT, h.CE_TIME, h.CE_CORRELATION_ID, h.CE_CAUSATION_ID, h.LANE)
)
_OWN_HEADERS: Final = 10
"""Number of headers of every event, not counting trace and status."""


class Encoder:
    """Encodes events.

    Args:
        source: CloudEvents ``source`` of this service, a URI reference such as ``/fivestage/GROUP``.
        max_record_bytes: The largest record of the event topics, including key and headers.
        max_dead_letter_bytes: The same for the dead-letter topic.
    """

    def __init__(self, *, source: str, max_record_bytes: int, max_dead_letter_bytes: int) -> None:
        self._max_record_bytes = max_record_bytes
        self._max_dead_letter_bytes = max_dead_letter_bytes
        constant = {h.CE_SPECVERSION: "1.0", h.CE_SOURCE: source, h.CONTENT_TYPE: h.JSON_CONTENT_TYPE}
        self._constant = b"".join(header(name, text.encode()) for name, text in constant.items())

    def concluded(self, envelope: Envelope, outcome: QueryOutcome) -> tuple[list[OutputRecord], QueryOutcome]:
        """The events of a query that was started: five stage results, one result, its timeouts.

        Also returns the published outcome: an error if the answer was too large for the topic.
        """
        finished_at = envelope.started_at + outcome.duration_s
        stamp = _Stamp(envelope, self._constant, finished_at)
        records, stages, earlier = [], [], outcome.earlier
        for run in outcome.runs:
            value = stamp.json.stage(self._affordable(run), earlier)
            stages.append(value)
            record = stamp.record(_STAGE_RESULTS, value, _STAGE_KINDS[run.spec.sequence])
            records.append(record if self._fits(record) else self._without_data(stamp, record, run, earlier))
        result, outcome = self._result_record(stamp, outcome, stages)
        records.append(result)
        for note in outcome.timeouts:
            value = stamp.json.timeout(note, finished_at)
            records.append(stamp.record(Output.TIMEOUTS, value, _timeout_kind(note)))
        return records, outcome

    def expired(self, envelope: Envelope, budget: Budget, cause: RejectionCause) -> list[OutputRecord]:
        """The events of a query that was rejected before its start."""
        stamp = _Stamp(envelope, self._constant, envelope.started_at)
        status = PipelineStatus.EXPIRED
        of_use_ms = budget.of_use_ms
        limit_s = budget.total_s if of_use_ms is None else of_use_ms / 1000
        result = stamp.json.unstarted(status, cause.text, "expired")
        note = new(TimeoutNote, (_QUEUE, cause.reason, None, None, limit_s, envelope.queue_s, (), 1))
        timeout = stamp.json.timeout(note, envelope.started_at)
        return [
            stamp.record(Output.RESULTS, result, b"result", _STATUS_HEADERS[status]),
            stamp.record(Output.TIMEOUTS, timeout, b"timeout"),
        ]

    def unreadable(self, envelope: Envelope, unreadable: Unreadable) -> list[OutputRecord]:
        """The dead letter of an unreadable record, and a result if its query id could be read."""
        records = [self._dead_letter(envelope, unreadable)]
        if unreadable.query_id is not None:
            stamp = _Stamp(envelope, self._constant, envelope.started_at)
            status, text = PipelineStatus.ERROR, f"{unreadable.reason}: {unreadable.detail}"
            value = stamp.json.unstarted(status, text, "invalid_query")
            records.append(stamp.record(Output.RESULTS, value, b"result", _STATUS_HEADERS[status]))
        return records

    def _without_data(
        self, stamp: _Stamp, record: OutputRecord, run: StageRun, earlier: Sequence[StageRun]
    ) -> OutputRecord:
        return record._replace(value=stamp.json.stage(_without_data(run, _DATA_TOO_LARGE), earlier))

    def _result_record(
        self, stamp: _Stamp, outcome: QueryOutcome, stages: list[bytes]
    ) -> tuple[OutputRecord, QueryOutcome]:
        """The complete result; if too large, one without data of stages; if still too large, an error."""
        size = len(outcome.answer_json or b"")
        if size + sum(map(len, stages)) <= self._max_record_bytes:
            record = self._result(stamp, outcome, stages)
            if self._fits(record):
                return record, outcome
        earlier = outcome.earlier
        bare = [stamp.json.stage(_without_data(run, _IN_STAGE_RESULT), earlier) for run in outcome.runs]
        if size <= self._max_record_bytes:
            record = self._result(stamp, outcome, bare)
            if self._fits(record):
                return record, outcome
        failed = outcome._replace(
            status=PipelineStatus.ERROR,
            answer_json=None,
            confidence=None,
            degraded=False,
            partial=False,
            error=f"the answer takes more than the {self._max_record_bytes} bytes of the topic's records",
            error_type=TOO_LARGE,
        )
        return self._result(stamp, failed, bare), failed

    def _result(self, stamp: _Stamp, outcome: QueryOutcome, stages: list[bytes]) -> OutputRecord:
        value = stamp.json.result(outcome, stages)
        return stamp.record(_RESULTS, value, b"result", _STATUS_HEADERS[outcome.status])

    def _affordable(self, run: StageRun) -> StageRun:
        """The run, without its data if this alone is too large: copying the data would block the loop."""
        too_large = run.data_json is not None and len(run.data_json) > self._max_record_bytes
        return _without_data(run, _DATA_TOO_LARGE) if too_large else run

    def _fits(self, record: OutputRecord) -> bool:
        # Key and headers of events are bounded, so the size of the value nearly always decides.
        room = self._max_record_bytes - len(record.value or b"")
        return room >= MAX_KEY_AND_HEADER_BYTES or record.size <= self._max_record_bytes

    def _dead_letter(self, envelope: Envelope, unreadable: Unreadable) -> OutputRecord:
        """The record with the headers that are needed to read it again."""
        record = envelope.record
        reasons = {
            h.DLQ_REASON: unreadable.reason,
            h.DLQ_DETAIL: unreadable.detail[:MAX_DETAIL_CHARS],
            h.DLQ_TOPIC: record.topic,
            h.DLQ_PARTITION: str(record.partition),
            h.DLQ_OFFSET: str(record.offset),
            h.DLQ_TIMESTAMP: str(record.timestamp),
        }
        headers = [(name, text.encode()) for name, text in reasons.items()]
        kept = [*headers, *_kept_headers(record)]
        letter = OutputRecord.of(Output.DEAD_LETTERS, record.key, record.value, kept)
        if letter.size <= self._max_dead_letter_bytes:
            return letter
        return OutputRecord.of(Output.DEAD_LETTERS, None, None, [*headers, (h.DLQ_TRUNCATED, b"true")])


class _Stamp:
    """Key, id prefix and headers that the events of one query share."""

    __slots__ = ("_common", "_count", "_ids", "_key", "json")

    def __init__(self, envelope: Envelope, constant: bytes, at: float) -> None:
        record, query_id = envelope.record, envelope.query_id.encode()
        coordinates = f"{record.topic}/{record.partition}/{record.offset}".encode()
        correlation, causation = envelope.correlation_id, envelope.causation_id
        trace = [header(name, value) for name, value in envelope.trace_headers]
        self.json = EventJson(envelope)
        self._key = output_key(record, envelope.query_id)
        self._ids = coordinates + b"/"
        self._count = _OWN_HEADERS + len(trace)
        self._common = b"".join(
            (
                constant,
                _SUBJECT,
                sized(query_id),
                _TIME,
                sized(self.json.time(at)),
                _CORRELATION_ID,
                sized(correlation.encode() if correlation else query_id),
                _CAUSATION_ID,
                sized(causation.encode() if causation else coordinates),
                *trace,
                _LANE,
                sized(envelope.lane.encode()),
            )
        )

    def record(self, output: Output, value: bytes, kind: bytes, status: bytes = b"") -> OutputRecord:
        """The record of one event; *kind* makes its id unique among the events of the query."""
        ids = self._ids
        block = b"".join(
            (
                varint(self._count + (status != b"")),
                _ID,
                varint(len(ids) + len(kind)),
                ids,
                kind,
                _TYPE_HEADERS[output],
                self._common,
                status,
            )
        )
        return new(OutputRecord, (output, self._key, value, block))


def _timeout_kind(note: TimeoutNote) -> bytes:
    """The end of the id of a timeout event: each attempt that timed out has a different one."""
    if note.scope is not TimeoutScope.STAGE or note.spec is None:
        return b"timeout"
    kind = b"timeout/%d" % note.spec.sequence
    return kind if note.attempt == 1 else b"%b/%d" % (kind, note.attempt)


def output_key(record: Record, query_id: str) -> bytes:
    """The key of the input record; the query id if the record has no key, or one too large to repeat."""
    key = record.key
    return key if key is not None and len(key) <= MAX_KEY_BYTES else query_id.encode()


def _kept_headers(record: Record) -> list[tuple[str, bytes]]:
    """Content type, CloudEvents attributes, trace and lane, which a replay needs, and the replayed letter."""
    return [
        (name, value)
        for name, value in record.headers[:MAX_HEADERS]
        if (name in KNOWN_HEADERS or name.startswith("ce_") or name == h.DLQ_REPLAYED_FROM)
        and value is not None
        and len(value) <= MAX_HEADER_BYTES
    ]


def _without_data(run: StageRun, why: str) -> StageRun:
    """A copy of the run with *why* instead of its data."""
    return run if run.data_json is None else run.without_data(why, TOO_LARGE)
