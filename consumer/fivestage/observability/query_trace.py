"""The trace of one query in flight, from its start until the broker has its events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fivestage.core.codec.event_json import Envelope
from fivestage.core.outcome import QueryOutcome
from fivestage.core.trace_context import SEND, span_id_of
from fivestage_schemas import PipelineStatus
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from fivestage.core.trace_context import TraceContext
    from fivestage.observability.span_queue import SpanQueue

_SUCCEEDED: Final = PipelineStatus.SUCCESS


class QueryTrace:
    """The trace of a query without spans: it only goes on, in the events and in what the query's code calls.

    Args:
        context: What the query's code continues; None if there is no trace.
    """

    __slots__ = ("context", "headers")

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context
        self.headers: tuple[tuple[str, bytes], ...] = ()
        """``traceparent``, and ``tracestate`` if there is one, for every event of the query."""
        if context is not None:
            self.headers = ((h.TRACEPARENT, context.traceparent.encode()),)
            if context.tracestate:
                self.headers = (*self.headers, (h.TRACESTATE, context.tracestate.encode()))

    def conclude(self, envelope: Envelope, outcome: QueryOutcome) -> None:
        """The query has run, and its events are about to be published."""

    def reject(self, envelope: Envelope, error_type: str, reason: str) -> None:
        """The query has not run, and its events are about to be published.

        Args:
            envelope: What the events share.
            error_type: ``expired`` or ``invalid_query``.
            reason: Why, in a word.
        """

    def acknowledged(self) -> None:
        """The broker has all events of the query, or its partition was revoked before that."""


class Ending(NamedTuple):
    """How a query has ended."""

    envelope: Envelope
    outcome: QueryOutcome | None
    """None if it has not run."""
    error_type: str | None
    """None if it succeeded."""
    status: str
    reason: str
    """Why it has not run, in a word."""
    wall_s: float
    """When its events were handed to the producer, seconds since the epoch."""


class RecordedTrace(QueryTrace):
    """The trace of a query with spans.

    Args:
        context: That of its process span.
        span: The process span, which has started.
        spans: Takes it when the query has ended, and makes the others.
    """

    __slots__ = ("_ending", "_span", "_spans")

    def __init__(self, context: TraceContext, span: Span, spans: SpanQueue) -> None:
        super().__init__(context)
        send = span_id_of(span.get_span_context().span_id, SEND)
        traceparent = f"{context.traceparent[:36]}{send:016x}{context.traceparent[52:]}"
        self.headers = ((h.TRACEPARENT, traceparent.encode()), *self.headers[1:])
        self._span = span
        self._spans = spans
        self._ending: Ending | None = None

    def conclude(self, envelope: Envelope, outcome: QueryOutcome) -> None:
        """See QueryTrace."""
        failed = outcome.status is not _SUCCEEDED
        error_type = (outcome.error_type or "error") if failed else None
        ended_at = envelope.started_wall + outcome.started_at + outcome.duration_s - envelope.started_at
        self._ending = Ending(envelope, outcome, error_type, outcome.status.value, "", ended_at)

    def reject(self, envelope: Envelope, error_type: str, reason: str) -> None:
        """See QueryTrace."""
        status = "expired" if error_type == "expired" else "error"
        self._ending = Ending(envelope, None, error_type, status, reason, envelope.started_wall)

    def acknowledged(self) -> None:
        """See QueryTrace."""
        ending, self._ending = self._ending, None
        if ending is not None:
            self._spans.add(self._span, ending)
