"""Spans of which all is known, and how they are handed over: whole, or in the steps of the API."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode


class ChosenIds:
    """Gives a span the id that was chosen for it, and all others those of the provider's own generator.

    Args:
        ids: The provider's generator.
    """

    def __init__(self, ids: Any) -> None:
        self._ids = ids
        self.span_id: int | None = None
        """The id of the next span."""

    @classmethod
    def of(cls, tracer: Any) -> ChosenIds | None:
        """Replace the generator of a tracer; None if it is not one of the SDK, whose ids cannot be chosen."""
        ids = getattr(tracer, "id_generator", None)
        if ids is None:
            return None
        tracer.id_generator = chosen = ids if isinstance(ids, cls) else cls(ids)
        return chosen

    def generate_span_id(self) -> int:
        """See opentelemetry.sdk.trace.id_generator."""
        chosen, self.span_id = self.span_id, None
        return int(self._ids.generate_span_id()) if chosen is None else chosen

    def generate_trace_id(self) -> int:
        """See opentelemetry.sdk.trace.id_generator."""
        return int(self._ids.generate_trace_id())

    def is_trace_id_random(self) -> bool:
        """See opentelemetry.sdk.trace.id_generator."""
        return bool(self._ids.is_trace_id_random())


@runtime_checkable
class WholeSpans(Protocol):
    """A tracer provider that can take spans which have ended, without making them in steps."""

    @property
    def takes_whole_spans(self) -> bool:
        """Whether nothing of it must see a span at its start."""

    def record(self, span: EndedSpan, process: Any) -> None:
        """Hand a span to the span processors, as one of the same tracer as the span *process*."""


class EndedSpan(NamedTuple):
    """A span of which all is known."""

    name: str
    context: SpanContext
    parent: SpanContext
    kind: SpanKind
    attributes: dict[str, Any]
    began_ns: int
    """Nanoseconds since the epoch."""
    ended_ns: int
    error_type: str | None = None
    """None if it has not failed."""
    exception: dict[str, Any] | None = None
    """The attributes of its event ``exception``, at its end; None without one."""


class InSteps:
    """Makes the spans of one query in the steps of OpenTelemetry's interface."""

    def __init__(
        self, tracer: trace.Tracer, ids: ChosenIds | None, process: trace.Span, spans: list[EndedSpan]
    ) -> None:
        assert ids is not None  # noqa: S101 - see can_record
        self._tracer = tracer
        self._ids = ids
        self._spans = {span.context.span_id: span for span in spans}
        self._started = {process.get_span_context().span_id: process}

    def record(self) -> None:
        """Start each span after its parent, and end it before."""
        for span in self._spans.values():
            made = self._start(span)
            if span.error_type is not None:
                mark_failed(made, span.error_type)
            if span.exception is not None:
                made.add_event("exception", span.exception, timestamp=span.ended_ns)
            made.end(end_time=span.ended_ns)

    def _start(self, span: EndedSpan) -> trace.Span:
        span_id = span.context.span_id
        if (made := self._started.get(span_id)) is not None:
            return made
        above = span.parent.span_id
        parent = self._started.get(above) or self._start(self._spans[above])
        self._ids.span_id = span_id
        try:
            made = self._tracer.start_span(
                span.name,
                context=trace.set_span_in_context(parent),
                kind=span.kind,
                attributes=span.attributes,
                start_time=span.began_ns,
            )
        finally:
            self._ids.span_id = None  # where the sampler has raised, the next span must not get it
        self._started[span_id] = made
        return made


def mark_failed(span: trace.Span, error_type: str) -> None:
    """Set a span's status and ``error.type``."""
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", error_type)
