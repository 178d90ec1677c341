"""Begins the trace of each query, continuing the producer's, and writes the trace headers of its events.

Most queries are not sampled: they get no spans but the header, and so do all while spans are not exported
(``sampling``). The spans of the others are made by ``query_spans``. A failure here never fails a query.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState

from fivestage.core.trace_context import TraceContext
from fivestage.core.tuples import new
from fivestage.observability.query_spans import SpanMaker
from fivestage.observability.query_trace import QueryTrace, RecordedTrace
from fivestage.observability.span_queue import SpanQueue
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.core.records import Record
    from fivestage.observability.sampling import EarlySampling

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
MAX_TRACESTATE_CHARS: Final = 512
_FIELDS: Final = r"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACEPARENT: Final = re.compile(f"00-{_FIELDS}")
_LATER_VERSION: Final = re.compile(f"(?!00|ff)[0-9a-f]{{2}}-({_FIELDS})(?:-.*)?")
"""Has the same fields, and possibly more: W3C Trace Context, section 3.2.4."""
MAX_MEMBERS: Final = 32
_MEMBER: Final = re.compile(
    r"(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
"""A member of tracestate. Checked here, because the SDK logs what it rejects: a producer's header."""

log = structlog.get_logger("fivestage.tracing")


class Tracing:
    """Begins the traces of queries.

    Args:
        provider: The tracer provider; by default OpenTelemetry's global one.
        results_topic: The topic named in the send span.
        group_id: The consumer group.
        show_text: Add the messages of exceptions, which may hold query text, to the spans.
    """

    def __init__(
        self,
        *,
        results_topic: str,
        group_id: str,
        provider: trace.TracerProvider | None = None,
        show_text: bool = False,
    ) -> None:
        chosen = provider or trace.get_tracer_provider()
        self._tracer = chosen.get_tracer("fivestage", schema_url=SCHEMA_URL)
        ids = getattr(chosen, "id_generator", None)
        self._early: EarlySampling | None = ids if hasattr(ids, "unrecorded") else None
        maker = SpanMaker(chosen, self._tracer, results_topic=results_topic, show_text=show_text)
        self._can_record = maker.can_record
        self._spans = SpanQueue(maker)
        self._has_failed = False
        self._constant: dict[str, str | int] = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": group_id,
        }

    def begin(
        self, headers: Mapping[str, str], record: Record, query_id: str | None, wall_s: float
    ) -> QueryTrace:
        """Begin the trace of one query, as a child of the producer's if its header is well-formed.

        Args:
            headers: The record's.
            record: Where the query was read.
            query_id: Its id, if it could be read.
            wall_s: When it starts, seconds since the epoch.
        """
        traceparent = headers.get(h.TRACEPARENT, "")
        parent = _parent_in(traceparent)
        state = "" if parent is None or h.TRACESTATE not in headers else _state_of(headers[h.TRACESTATE])
        if self._early is not None and (unrecorded := self._early.unrecorded(parent)) is not None:
            return QueryTrace(new(TraceContext, (unrecorded, state, False)))
        try:
            return self._start(parent, state, headers, record, query_id, wall_s)
        except Exception as error:  # noqa: BLE001 - samplers and processors may be the operator's own
            if not self._has_failed:  # else possibly a line for each query
                self._has_failed = True
                log.warning("a span could not be started", error_type=type(error).__name__)
            return QueryTrace(None if parent is None else TraceContext(parent, state))

    def _start(
        self,
        parent: str | None,
        state: str,
        headers: Mapping[str, str],
        record: Record,
        query_id: str | None,
        wall_s: float,
    ) -> QueryTrace:
        """Start the process span; without one the trace goes on all the same."""
        remote = None if parent is None else _remote(parent, state)
        span = self._tracer.start_span(
            f"process {record.topic}",
            context=None if remote is None else trace.set_span_in_context(trace.NonRecordingSpan(remote)),
            kind=SpanKind.CONSUMER,
            attributes=self._constant | _message(headers, record, query_id),
            links=None if remote is None else [Link(remote)],
            start_time=int(wall_s * 1e9),
        )
        own = span.get_span_context()
        if not own.is_valid:
            return QueryTrace(None)
        context = TraceContext(
            f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}",
            own.trace_state.to_header() if own.trace_state else "",
            span.is_recording() and self._can_record,
        )
        return RecordedTrace(context, span, self._spans) if context.recorded else QueryTrace(context)


def _message(headers: Mapping[str, str], record: Record, query_id: str | None) -> dict[str, str | int]:
    """The attributes that say which message is processed."""
    found: dict[str, str | int] = {
        "messaging.destination.name": record.topic,
        "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
        "messaging.message.id": headers.get(h.CE_ID) or query_id or "",
        "messaging.message.conversation_id": headers.get(h.CE_CORRELATION_ID) or query_id or "",
    }
    if h.CE_ID in headers:
        found["cloudevents.event_id"] = headers[h.CE_ID]
    return found


def _parent_in(traceparent: str) -> str | None:
    """What a producer sent, of version 00; None if it is invalid."""
    if _TRACEPARENT.fullmatch(traceparent) is not None:
        return traceparent
    later = _LATER_VERSION.fullmatch(traceparent)
    return None if later is None else f"00-{later[1]}"


def _remote(traceparent: str, state: str) -> SpanContext:
    """The producer's span."""
    return SpanContext(
        int(traceparent[3:35], 16),
        int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(traceparent[-2:], 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )


def _state_of(tracestate: str) -> str:
    """The producer's tracestate; empty if it is too long or malformed."""
    if len(tracestate) > MAX_TRACESTATE_CHARS:
        return ""
    members = [member for part in tracestate.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members if _MEMBER.fullmatch(member) is not None}
    return ",".join(members) if len(keys) == len(members) <= MAX_MEMBERS else ""
