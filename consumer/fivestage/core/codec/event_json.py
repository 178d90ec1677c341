"""Writes the events of a query as JSON.

Templates are filled in instead of building the models of ``fivestage_schemas``, at a tenth of the cost; tests
compare the two field by field. The data of stages is already encoded (``data_json``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from fivestage.core.attempts import with_kinds
from fivestage.core.outcome import QueryOutcome
from fivestage.core.records import NOT_FROM_KAFKA, Record
from fivestage.core.tuples import new
from fivestage_schemas import SCHEMA_VERSION, Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.outcome import TimeoutNote
    from fivestage.core.stage_run import StageRun
    from fivestage_schemas import PipelineStatus

_FIRST: Final = {
    outcome: b',"kind":"first","outcome":"%b","duration_ms":' % outcome.encode() for outcome in Outcome
}
"""The JSON between node and duration of a first and only attempt."""
_SUCCESS: Final = Outcome.SUCCESS
_TIMEOUT: Final = Outcome.TIMEOUT
_SKIPPED: Final = Outcome.SKIPPED
_NO_ERROR: Final = b'"error":null,"error_type":null'
_DURATION: Final = {stage_type: b'"%b":' % stage_type.encode() for stage_type in StageType}
_SECOND_US: Final = 1_000_000
_BOOLS: Final = {False: b"false", True: b"true"}
_VERDICTS: Final = {None: b"null", False: b"false", True: b"true"}
_NUMBERS: Final[list[bytes]] = [b"%d" % number for number in range(1000)]
_THREE_DIGITS: Final[list[bytes]] = [b"%03d" % number for number in range(1000)]


class Envelope(NamedTuple):
    """The source, ids and times that all events of one query share."""

    record: Record
    query_id: str
    lane: str
    correlation_id: str | None = None
    causation_id: str | None = None
    trace_headers: tuple[tuple[str, bytes], ...] = ()
    started_wall: float = 0.0
    """Wall-clock time at ``started_at``, seconds since the epoch."""
    started_at: float = 0.0
    """Monotonic seconds."""
    queue_s: float = 0.0
    """Seconds from the record's timestamp to the start, 0 if the clocks disagree; plus waits in the
    executor."""

    def after_wait(self, waited_s: float) -> Envelope:
        """A copy for a query that has waited in the executor: its start moves by the wait."""
        record, query_id, lane, correlation_id, causation_id, headers, wall_s, at, queue_s = self
        wall_s, at, queue_s = wall_s + waited_s, at + waited_s, queue_s + waited_s
        return new(
            Envelope,
            (record, query_id, lane, correlation_id, causation_id, headers, wall_s, at, queue_s),
        )


class EventJson:
    """Writes the events of one query.

    Args:
        envelope: What the events share.
    """

    __slots__ = ("_envelope", "_query_id", "_rest", "_source", "_started", "_started_us", "_wall_s")

    def __init__(self, envelope: Envelope) -> None:
        record = envelope.record
        self._envelope = envelope
        self._query_id = orjson.dumps(envelope.query_id)
        self._rest = _rest(envelope.lane)
        self._wall_s = envelope.started_wall - envelope.started_at
        second = int(envelope.started_wall)
        self._started = _second(second)
        """The second of the start, formatted: most times are within this second."""
        self._started_us = second * _SECOND_US
        self._source = b"null"
        if record is not NOT_FROM_KAFKA:
            self._source = b"%b%b}" % (_place(record.topic, record.partition), _number(record.offset))

    def time(self, monotonic: float) -> bytes:
        """A monotonic time as RFC 3339, by the wall clock at the start of the query."""
        since = int((self._wall_s + monotonic) * 1e6) - self._started_us
        started = self._started
        if not 0 <= since < _SECOND_US:
            second, since = divmod(since + self._started_us, _SECOND_US)
            started = _second(second)
        return b"%b.%b%bZ" % (started, _THREE_DIGITS[since // 1000], _THREE_DIGITS[since % 1000])

    def _quoted_time(self, monotonic: float) -> bytes:
        return b'"%b"' % self.time(monotonic)

    # Each template is a literal with %b for bytes only: mypyc compiles that to one join.

    def stage(self, run: StageRun, earlier: Sequence[StageRun] = ()) -> bytes:
        """The StageResult of one stage; *earlier* are the superseded attempts at all stages."""
        spec, started_at, error, error_type = run.spec, run.started_at, run.error, run.error_type
        node, took, limit = _text(run.node), _ms(run.duration_s), _ms(run.granted_s)
        if earlier or run.outcome is _SKIPPED or run.attempt > 1:
            attempts = _attempts(run, earlier)
        else:
            waited = _ms(run.waited_s) if run.waited_s else b"0.000"
            attempts = b'{"node":%b%b%b,"timeout_ms":%b,"waited_ms":%b}' % (
                node,
                _FIRST[run.outcome],
                took,
                limit,
                waited,
            )
        return (
            b'{"query_id":%b%b%b,%b,"node":%b,"attempt":%b,"attempts":[%b],"duration_ms":%b,"timeout_ms":%b,'
            b'"started_at":%b%b'
            % (
                self._query_id,
                _stage_constant(spec.stage_type, run.outcome, spec.critical),
                run.data_json or b"null",
                _NO_ERROR if error is None is error_type else _error(error, error_type),
                node,
                _number(run.attempt),
                attempts,
                took,
                limit,
                b"null" if started_at is None else self._quoted_time(started_at),
                self._rest,
            )
        )

    def result(self, outcome: QueryOutcome, stages: Sequence[bytes]) -> bytes:
        """The PipelineResult of a query that was started; *stages* are its StageResults as JSON."""
        started_at = self._quoted_time(self._envelope.started_at)
        return self._result(
            outcome, stages, started_at, self._metrics(outcome, within_budget=outcome.within_budget)
        )

    def unstarted(self, status: PipelineStatus, error: str, error_type: str) -> bytes:
        """The PipelineResult of a query that was not started."""
        at = self._envelope.started_at
        outcome = new(
            QueryOutcome,
            (status, (), (), at, 0.0, 0.0, None, None, False, error, error_type, None, None, (), False),
        )
        return self._result(outcome, (), b"null", self._metrics(outcome, within_budget=False))

    def _result(
        self, outcome: QueryOutcome, stages: Sequence[bytes], started_at: bytes, metrics: bytes
    ) -> bytes:
        confidence = outcome.confidence
        return (
            b'{"query_id":%b,"status":"%b","answer":%b,"confidence":%b,"degraded":%b,"validated":%b,'
            b'"partial":%b,%b,"node":%b,"stages":[%b],"metrics":%b,"started_at":%b,"finished_at":%b,"source":%b%b'
            % (
                self._query_id,
                outcome.status.encode(),
                outcome.answer_json or b"null",
                b"null" if confidence is None else orjson.dumps(confidence),
                _BOOLS[outcome.degraded],
                _VERDICTS[outcome.validated],
                _BOOLS[outcome.partial],
                _error(outcome.error, outcome.error_type),
                _text(outcome.node),
                b",".join(stages),
                metrics,
                started_at,
                self._quoted_time(self._envelope.started_at + outcome.duration_s),
                self._source,
                self._rest,
            )
        )

    def timeout(self, note: TimeoutNote, monotonic: float) -> bytes:
        """The TimeoutEvent of *note*, which occurred at *monotonic*."""
        return (
            b'{"query_id":%b,"scope":"%b","reason":"%b","stage_type":%b,"node":%b,"limit_ms":%b,"elapsed_ms":%b,'
            b'"completed":%b,"occurred_at":%b,"source":%b%b'
            % (
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
        )

    def _metrics(self, outcome: QueryOutcome, *, within_budget: bool) -> bytes:
        completed = failed = skipped = timeouts = 0
        durations = []
        for run in outcome.runs:
            ended = run.outcome
            if ended is _SUCCESS:
                completed += 1
            elif ended is _SKIPPED:
                skipped += 1
            else:
                failed += 1
                timeouts += ended is _TIMEOUT
            if run.started_at is not None:
                durations.append(b"%b%b" % (_DURATION[run.spec.stage_type], _ms(run.duration_s)))
        return (
            b'{"total_duration_ms":%b,"queue_ms":%b,"stage_durations":{%b},"stages_completed":%b,'
            b'"stages_failed":%b,"stages_skipped":%b,"timeout_count":%b,"budget_ms":%b,"within_budget":%b}'
            % (
                _ms(outcome.duration_s),
                _ms(self._envelope.queue_s),
                b",".join(durations),
                _number(completed),
                _number(failed),
                _number(skipped),
                _number(timeouts),
                _ms(outcome.budget_s),
                _BOOLS[within_budget],
            )
        )


def _attempts(run: StageRun, earlier: Sequence[StageRun]) -> bytes:
    """The attempts at a stage as JSON; ``stage`` has a fast path for a first and only attempt."""
    made = [one for one in earlier if one.spec.sequence == run.spec.sequence]
    if run.outcome is not _SKIPPED:
        made.append(run)
    written = []
    for one, kind in with_kinds(made):
        written.append(
            b'{"node":%b,"kind":"%b","outcome":"%b","duration_ms":%b,"timeout_ms":%b,"waited_ms":%b}'
            % (
                _text(one.node),
                kind.encode(),
                one.outcome.encode(),
                _ms(one.duration_s),
                _ms(one.granted_s),
                _ms(one.waited_s),
            )
        )
    return b",".join(written)


@lru_cache(maxsize=256)
def _stage_constant(stage_type: StageType, outcome: Outcome, critical: bool) -> bytes:  # noqa: FBT001
    """The constant part of a StageResult between query id and data."""
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
    """The constant end of every event."""
    return b"," + orjson.dumps({"lane": lane, "schema_version": SCHEMA_VERSION})[1:]


@lru_cache(maxsize=4096)
def _place(topic: str, partition: int) -> bytes:
    """The source of a query, up to the offset."""
    return b'{"topic":%b,"partition":%d,"offset":' % (orjson.dumps(topic), partition)


@lru_cache(maxsize=64)
def _second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def _text(text: str | None) -> bytes:
    return b"null" if text is None else orjson.dumps(text)


def _error(error: str | None, error_type: str | None) -> bytes:
    return b'"error":%b,"error_type":%b' % (_text(error), _text(error_type))


def _number(number: int) -> bytes:
    return _NUMBERS[number] if 0 <= number < len(_NUMBERS) else str(number).encode()


def _ms(seconds: float) -> bytes:
    """Format seconds as milliseconds with three decimals."""
    if not 0 < seconds < inf:
        return b"0.000"
    microseconds = int(seconds * 1e6 + 0.5)
    return b"%b.%b" % (_number(microseconds // 1000), _THREE_DIGITS[microseconds % 1000])
