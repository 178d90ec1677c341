"""Decides about sampling before a span is made, since most queries are not sampled and need no span.

A query that is sampled needs none either if no exporter is configured: its events only carry the decision in
their ``traceparent``.

The decisions equal those of OpenTelemetry's ``ParentBasedTraceIdRatio``: the producer's decision if it sent
one, otherwise by the trace id. Making a span that is then not recorded would cost four times as much.
"""

from __future__ import annotations

import threading
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import Status, StatusCode

if TYPE_CHECKING:
    from fivestage.observability.ended_span import EndedSpan

SAMPLED: Final = 1
RANDOM: Final = 2
"""The flag of Trace Context level 2: the trace id is random."""


UNSET: Final = Status(StatusCode.UNSET)
FAILED: Final = Status(StatusCode.ERROR)
_AT_ENDS: Final = (SpanProcessor, BatchSpanProcessor, SimpleSpanProcessor)
"""What these do before the end of a span is nothing."""
MOST_ATTRIBUTES: Final = 16
"""No span or event of ours has more."""


class EarlySampling(RandomIdGenerator):
    """Generates trace ids for which the SDK's sampler decides as was decided here before.

    Args:
        ratio: Share of the traces without a parent that are sampled, 0 to 1.
    """

    def __init__(self, ratio: float) -> None:
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._next = threading.local()
        self.is_exported = True
        """Whether spans are exported: a span processor was added."""

    def unrecorded(self, parent: str | None) -> str | None:
        """Return the ``traceparent`` of a query that needs no span; None if the query is recorded.

        The next span that this thread starts for a recorded query gets the trace id that was decided about.

        Args:
            parent: The producer's well-formed ``traceparent``; None if the query starts a new trace.
        """
        if parent is not None:
            if self.is_exported and int(parent[-2:], 16) & SAMPLED:
                return None
            return f"{parent[:36]}{self.generate_span_id():016x}{parent[-3:]}"
        trace_id = getrandbits(128) or 1
        flags = RANDOM
        if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound:
            if self.is_exported:
                self._next.trace_id = trace_id
                return None
            flags |= SAMPLED
        return f"00-{trace_id:032x}-{self.generate_span_id():016x}-{flags:02x}"

    def generate_trace_id(self) -> int:
        """Return the trace id that was decided about, otherwise a random one."""
        chosen: int | None = self._next.__dict__.pop("trace_id", None)
        return super().generate_trace_id() if chosen is None else chosen


class Provider(TracerProvider):
    """A tracer provider that sets in its id generator whether spans are exported, and takes whole spans.

    Args:
        ids: Its id generator.
        arguments: The arguments of TracerProvider.
    """

    def __init__(self, ids: EarlySampling, **arguments: Any) -> None:
        super().__init__(id_generator=ids, **arguments)
        self._ids = ids
        ids.is_exported = False
        self.takes_whole_spans = _bounds_nothing(self._span_limits)
        """Whether spans need no processor before their end, and no limit holds for them."""

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """See TracerProvider."""
        super().add_span_processor(span_processor)
        self._ids.is_exported = True
        self.takes_whole_spans = self.takes_whole_spans and _sees_ends_only(type(span_processor))

    def record(self, span: EndedSpan, process: ReadableSpan) -> None:
        """Hand a span that has ended to the span processors, as one of the same tracer as *process*.

        The sampler has decided about the process span, and decides so for all of its trace. Making a span by
        ``tracer.start_span`` and ``end`` costs five times as much.
        """
        attributes, status = span.attributes, UNSET
        events: tuple[Event, ...] = ()
        if span.error_type is not None:
            attributes, status = {**attributes, "error.type": span.error_type}, FAILED
        if span.exception is not None:
            events = (Event("exception", span.exception, span.ended_ns),)
        self._active_span_processor.on_end(
            ReadableSpan(
                span.name,
                span.context,
                span.parent,
                process.resource,
                attributes,
                events,
                kind=span.kind,
                status=status,
                start_time=span.began_ns,
                end_time=span.ended_ns,
                instrumentation_scope=process.instrumentation_scope,
            )
        )


def _bounds_nothing(limits: SpanLimits) -> bool:
    """Whether an operator's limits (OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT and so on) cut nothing of our spans."""
    counts = limits.max_span_attributes, limits.max_event_attributes
    lengths = limits.max_span_attribute_length, limits.max_attribute_length
    are_many = all(count is None or count >= MOST_ATTRIBUTES for count in counts)
    return are_many and limits.max_events != 0 and lengths == (None, None)


def _sees_ends_only(kind: type[SpanProcessor]) -> bool:
    """Whether a kind of span processor leaves it to these what happens before the end of a span."""
    before_the_end = ("on_start", "_on_ending")
    return all(
        getattr(kind, name, None) in [getattr(one, name, None) for one in _AT_ENDS] for name in before_the_end
    )
