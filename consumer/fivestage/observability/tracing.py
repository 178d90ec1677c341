"""Makes the spans of a query, continuing the producer's trace, and the trace headers of its events.

The spans follow OpenTelemetry's messaging conventions. ``process {topic}`` (CONSUMER) has the producer's
context as parent and link, and a child span for each stage. ``send {topic}`` (PRODUCER) is another child; its
context is in the headers of the events. A query that is not sampled gets no spans but the header. Query text
is never recorded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fivestage_schemas import Outcome, PipelineStatus
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.records import Record
    from fivestage.core.stage_history import StageRun
    from fivestage.observability.sampling import EarlySampling

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
MAX_TRACESTATE_CHARS: Final = 512
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_LUKHAS: Final = "lukhas.matriz"
_SUCCEEDED: Final = PipelineStatus.SUCCESS


class Tracing:
    """Makes the spans of queries.

    Args:
        provider: The tracer provider; by default OpenTelemetry's global one.
        results_topic: The topic named in the send span.
        group_id: The consumer group.
    """

    def __init__(
        self,
        *,
        results_topic: str,
        group_id: str,
        provider: trace.TracerProvider | None = None,
    ) -> None:
        chosen = provider or trace.get_tracer_provider()
        self._tracer = chosen.get_tracer("fivestage", schema_url=SCHEMA_URL)
        ids = getattr(chosen, "id_generator", None)
        self._early: EarlySampling | None = ids if hasattr(ids, "unrecorded") else None
        self._send_name = f"send {results_topic}"
        self._constant = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": group_id,
        }
        self._send_attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": results_topic,
        }

    def begin(self, headers: Mapping[str, str], record: Record, query_id: str | None) -> QueryTrace:
        """Start the spans of one query, as children of the producer's if its header is well-formed."""
        if self._early is not None and h.TRACESTATE not in headers:
            traceparent = headers.get(h.TRACEPARENT, "")
            unrecorded = self._early.unrecorded(
                traceparent if _TRACEPARENT.fullmatch(traceparent) is not None else None
            )
            if unrecorded is not None:
                return UnrecordedTrace(unrecorded)
        parent = extract(headers)
        remote = trace.get_current_span(parent).get_span_context() if parent is not None else None
        span = self._tracer.start_span(
            f"process {record.topic}",
            context=parent,
            kind=SpanKind.CONSUMER,
            links=[Link(remote)] if remote is not None and remote.trace_flags.sampled else None,
        )
        if not span.is_recording():  # spans below it would not be recorded either
            return QueryTrace(self._tracer, span, span)
        span.set_attributes(
            {
                **self._constant,
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
                "messaging.message.id": headers.get(h.CE_ID) or query_id or "",
                "messaging.message.conversation_id": headers.get(h.CE_CORRELATION_ID) or query_id or "",
            }
        )
        send = self._tracer.start_span(
            self._send_name,
            context=trace.set_span_in_context(span),
            kind=SpanKind.PRODUCER,
            attributes=self._send_attributes,
        )
        return QueryTrace(self._tracer, span, send)


class QueryTrace:
    """The spans of one query."""

    __slots__ = ("_send", "_span", "_tracer", "headers")

    def __init__(self, tracer: trace.Tracer, span: trace.Span, send: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._send = send
        self.headers = inject(send)
        """``traceparent``, and ``tracestate`` if there is one, for every event of the query."""

    def conclude(self, envelope: Envelope, outcome: QueryOutcome) -> None:
        """End the process span of a query that ran, and add the spans of its stages if it is recorded."""
        if self._span.is_recording():
            self._record(envelope, outcome)
        failed = outcome.status is not _SUCCEEDED
        self.end(error_type=outcome.error_type if failed else None)

    def end(self, *, error_type: str | None) -> None:
        """End the process span, marked as failed if there is an *error_type*."""
        if error_type is not None and self._span.is_recording():
            self._span.set_status(Status(StatusCode.ERROR))
            self._span.set_attribute("error.type", error_type)
        self._span.end()

    def acknowledged(self) -> None:
        """End the send span, once the broker has acknowledged all events of the query."""
        self._send.end()

    def _record(self, envelope: Envelope, outcome: QueryOutcome) -> None:
        self._span.set_attributes(
            {
                f"{_LUKHAS}.lane": envelope.lane,
                f"{_LUKHAS}.status": outcome.status.value,
                f"{_LUKHAS}.degraded": outcome.degraded,
                f"{_LUKHAS}.within_budget": outcome.within_budget,
                f"{_LUKHAS}.budget_ms": round(outcome.budget_s * 1000, 3),
            }
        )
        context = trace.set_span_in_context(self._span)
        for run in outcome.runs:
            if run.started_at is not None:
                self._record_stage(envelope, run, run.started_at, context)

    def _record_stage(self, envelope: Envelope, run: StageRun, started_at: float, context: Context) -> None:
        wall = envelope.started_wall + started_at - envelope.started_at
        attributes: dict[str, Any] = {
            f"{_LUKHAS}.stage": run.spec.stage_type.value,
            f"{_LUKHAS}.critical": run.spec.critical,
            f"{_LUKHAS}.outcome": run.outcome.value,
            f"{_LUKHAS}.slo_target_ms": round(run.spec.limit_s * 1000, 3),
            f"{_LUKHAS}.granted_ms": round(run.granted_s * 1000, 3),
            f"{_LUKHAS}.attempt": run.attempt,
        }
        if run.node is not None:
            attributes[f"{_LUKHAS}.node"] = run.node
        span = self._tracer.start_span(
            f"stage {run.spec.stage_type}", context=context, start_time=_ns(wall), attributes=attributes
        )
        if run.outcome in {Outcome.ERROR, Outcome.TIMEOUT}:
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", run.error_type or "error")
        span.end(end_time=_ns(wall + run.duration_s))


class UnrecordedTrace(QueryTrace):
    """A query without spans: only the trace header of its events."""

    __slots__ = ()

    def __init__(self, traceparent: str) -> None:
        self.headers = ((h.TRACEPARENT, traceparent.encode()),)

    def conclude(self, envelope: Envelope, outcome: QueryOutcome) -> None:
        """Do nothing: there is no span."""

    def end(self, *, error_type: str | None) -> None:
        """Do nothing: there is no span."""

    def acknowledged(self) -> None:
        """Do nothing: there is no span."""


def extract(headers: Mapping[str, str]) -> Context | None:
    """Return the producer's trace context; None if there is no well-formed one."""
    traceparent = headers.get(h.TRACEPARENT, "")
    if not _TRACEPARENT.fullmatch(traceparent):
        return None
    carrier = {h.TRACEPARENT: traceparent}
    tracestate = headers.get(h.TRACESTATE)
    if tracestate and len(tracestate) <= MAX_TRACESTATE_CHARS:
        carrier[h.TRACESTATE] = tracestate
    return _PROPAGATOR.extract(carrier)


def inject(span: trace.Span) -> tuple[tuple[str, bytes], ...]:
    """Return a span's context as headers; none if it is invalid."""
    context = span.get_span_context()
    if not context.is_valid:
        return ()
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    found = [(h.TRACEPARENT, traceparent.encode())]
    if context.trace_state:
        found.append((h.TRACESTATE, context.trace_state.to_header().encode()))
    return tuple(found)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
