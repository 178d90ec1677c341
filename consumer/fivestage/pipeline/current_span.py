"""Makes the span of the running stage OpenTelemetry's current one, for the code of the stage.

So instrumented clients, and spans that the code makes itself, continue the query's trace. The bus loop makes
the span when the query has ended (``observability.query_spans``); here a stand-in with its ids takes its
place, and records nothing. A query without spans has one for all stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fivestage.core.trace_context import call_number, span_id_of

if TYPE_CHECKING:
    from fivestage.core.trace_context import TraceContext

_KEY: Final = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, context.Context())))
"""Of the current span in a context. ``set_span_in_context`` costs five times as much as this module needs."""
_W3C: Final = TraceContextTextMapPropagator()
"""Not the global propagator: that may be configured to send baggage along."""


def enter_query(trace_context: TraceContext | None) -> TraceContext | None:
    """Make the process span of a query the current one of this task.

    What runs in a thread or in a task gets a copy of the context when it starts. Without spans this is done
    once for all stages, which costs a third of once for each.

    Returns:
        *trace_context* if each call of the query's code has a span, see ``enter_call``; else None.
    """
    if trace_context is None or trace_context.recorded:
        return trace_context
    context.attach(context.Context({_KEY: StandIn(trace_context, 0)}))
    return None


def enter_call(trace_context: TraceContext, sequence: int, attempt: int) -> None:
    """Make the span of an attempt at the stage number *sequence* the current one of this task.

    Replaces the whole context, so that what an earlier stage has set in it does not reach this one.
    """
    span = StandIn(trace_context, call_number(sequence, attempt))
    context.attach(context.Context({_KEY: span}))


def trace_headers() -> dict[str, str]:
    """``traceparent`` and, where there is one, ``tracestate`` of the current span; empty without a trace."""
    headers: dict[str, str] = {}
    _W3C.inject(headers)
    return headers


class StandIn(trace.NonRecordingSpan):
    """Has the ids of a span that is made later; they are computed only where they are read.

    Args:
        trace_context: The query's place in its trace.
        number: See ``call_number``; 0 for the process span.
    """

    def __init__(self, trace_context: TraceContext, number: int) -> None:
        self._trace_context = trace_context
        self._number = number

    def __repr__(self) -> str:
        return f"<StandIn {self.get_span_context()}>"

    def get_span_context(self) -> trace.SpanContext:
        """See Span."""
        traceparent, tracestate, _ = self._trace_context
        span_id = int(self._trace_context.span_id, 16)
        return trace.SpanContext(
            int(self._trace_context.trace_id, 16),
            span_id_of(span_id, self._number) if self._number else span_id,
            is_remote=False,
            trace_flags=trace.TraceFlags(int(traceparent[-2:], 16)),
            trace_state=trace.TraceState.from_header([tracestate]) if tracestate else None,
        )
