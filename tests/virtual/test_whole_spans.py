"""Spans that are handed to the span processors whole, and those that the SDK makes in steps."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fivestage.observability.query_spans import SpanMaker
from fivestage.observability.sampling import EarlySampling, Provider
from fivestage.observability.tracing import SCHEMA_URL
from fivestage_schemas import Outcome

from .samples import ending_of

if TYPE_CHECKING:
    from opentelemetry.context import Context


class AtStart(SpanProcessor):
    """Sees spans at their start, as one does that adds attributes."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """See SpanProcessor."""
        span.set_attribute("seen", value=True)


class Counted(EarlySampling):
    """Numbers as ids, the same in each run."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self._numbers = count(1)

    def generate_span_id(self) -> int:
        """Return the next number."""
        return next(self._numbers)

    def generate_trace_id(self) -> int:
        """Return the next number."""
        return next(self._numbers)


def recorded(*further: SpanProcessor) -> list[dict[str, Any]]:
    """Make the spans of a query that succeeds and of one that fails, with further processors."""
    exporter, provider = InMemorySpanExporter(), Provider(Counted(), shutdown_on_exit=False)
    for processor in (SimpleSpanProcessor(exporter), *further):
        provider.add_span_processor(processor)
    tracer = provider.get_tracer("fivestage", schema_url=SCHEMA_URL)
    spans = SpanMaker(provider, tracer, results_topic="results", show_text=True)
    for outcome in (Outcome.SUCCESS, Outcome.ERROR):
        spans.make(tracer.start_span("process queries", start_time=1), ending_of(outcome))
    found = [json.loads(span.to_json()) for span in exporter.get_finished_spans()]
    for span in found:
        span.pop("end_time") if span["name"] == "send results" else None  # it ends now
        span["attributes"].pop("seen", None)
    return found


def test_whole_spans_equal_those_made_in_steps() -> None:
    """Spans that are handed over whole equal those that the SDK makes where a processor sees their start."""
    whole = recorded()
    assert len(whole) == 2 * 8
    assert whole == recorded(AtStart())


def test_a_processor_that_sees_starts_sees_all() -> None:
    """A processor that sets an attribute at the start of each span finds it on all of them."""
    exporter, provider = InMemorySpanExporter(), Provider(Counted(), shutdown_on_exit=False)
    provider.add_span_processor(AtStart())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("fivestage")
    spans = SpanMaker(provider, tracer, results_topic="results", show_text=False)
    spans.make(tracer.start_span("process queries"), ending_of(Outcome.SUCCESS))
    assert [span.attributes["seen"] for span in exporter.get_finished_spans() if span.attributes] == [
        True
    ] * 8


@pytest.mark.parametrize("limited", ["OTEL_ATTRIBUTE", "OTEL_SPAN_ATTRIBUTE"])
def test_limits_of_attributes_hold(limited: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's limit for the length of attributes holds for all spans."""
    monkeypatch.setenv(f"{limited}_VALUE_LENGTH_LIMIT", "3")
    values = [value for span in recorded() for value in span["attributes"].values()]
    assert max(len(value) for value in values if isinstance(value, str)) == 3
