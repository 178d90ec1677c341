"""Spans that are handed to the span processors whole, and those that the SDK makes in steps."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
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


def numbered(document: str) -> Any:
    """Read a span, or several, with numbers in place of ids, by the order in which these appear."""
    ids: dict[str, str] = {}
    return json.loads(
        re.sub(r"0x[0-9a-f]{16,32}", lambda found: ids.setdefault(found[0], str(len(ids))), document)
    )


def recorded(*further: SpanProcessor, whole: bool = False) -> list[dict[str, Any]]:
    """Make the spans of a query that succeeds and of one that fails, with further processors.

    *whole*: they must be handed over whole, and otherwise must not.
    """
    exporter, provider = InMemorySpanExporter(), Provider(EarlySampling(1.0), shutdown_on_exit=False)
    for processor in (SimpleSpanProcessor(exporter), *further):
        provider.add_span_processor(processor)
    assert provider.takes_whole_spans is whole
    tracer = provider.get_tracer("fivestage", schema_url=SCHEMA_URL)
    spans = SpanMaker(provider, tracer, results_topic="results", show_text=True)
    for outcome in (Outcome.SUCCESS, Outcome.ERROR):
        spans.make(tracer.start_span("process queries", start_time=1), ending_of(outcome))
    found: list[dict[str, Any]] = numbered(
        f"[{','.join(span.to_json() for span in exporter.get_finished_spans())}]"
    )
    for span in found:
        span.pop("end_time") if span["name"] == "send results" else None  # it ends now
        span["attributes"].pop("seen", None)
    return found


def test_whole_spans_equal_those_made_in_steps() -> None:
    """Spans that are handed over whole equal those that the SDK makes where a processor sees their start."""
    whole = recorded(whole=True)
    assert len(whole) == 2 * 8
    assert whole == recorded(AtStart())


def test_a_processor_that_sees_starts_sees_all() -> None:
    """A processor that sets an attribute at the start of each span finds it on all of them."""
    exporter, provider = InMemorySpanExporter(), Provider(EarlySampling(1.0), shutdown_on_exit=False)
    provider.add_span_processor(AtStart())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("fivestage")
    spans = SpanMaker(provider, tracer, results_topic="results", show_text=False)
    spans.make(tracer.start_span("process queries"), ending_of(Outcome.SUCCESS))
    assert [span.attributes["seen"] for span in exporter.get_finished_spans() if span.attributes] == [
        True
    ] * 8


class Parents(SpanProcessor):
    """Notes the name of each span's parent at its start, and whether that is recording still."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bool]] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """See SpanProcessor."""
        parent: Any = trace.get_current_span(parent_context)
        if span.name != "process queries":
            self.seen.append((span.name, parent.name, parent.is_recording()))


def test_a_processor_sees_real_parents() -> None:
    """A processor that sees starts finds each span below a span that has started and not ended."""
    processor = Parents()
    recorded(processor)
    stages = [f"stage {name}" for name in ("intent", "decision", "processing", "validation", "reflection")]
    below = [(name, "process queries", True) for name in (*stages, "send results")]
    below.insert(3, ("node node", "stage processing", True))
    assert processor.seen[: len(below)] == below


@pytest.mark.parametrize("limited", ["OTEL_SPAN_ATTRIBUTE", "OTEL_EVENT_ATTRIBUTE"])
def test_an_operators_counts_hold(limited: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's limit for the number of attributes holds for all spans, or for their events."""
    monkeypatch.setenv(f"{limited}_COUNT_LIMIT", "2")
    spans = recorded()
    items = (
        spans if limited == "OTEL_SPAN_ATTRIBUTE" else [event for span in spans for event in span["events"]]
    )
    assert max(len(item["attributes"]) for item in items) == 2


@pytest.mark.parametrize("limited", ["OTEL_ATTRIBUTE", "OTEL_SPAN_ATTRIBUTE"])
def test_limits_of_attributes_hold(limited: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's limit for the length of attributes holds for all spans."""
    monkeypatch.setenv(f"{limited}_VALUE_LENGTH_LIMIT", "3")
    values = [value for span in recorded() for value in span["attributes"].values()]
    assert max(len(value) for value in values if isinstance(value, str)) == 3


def test_spans_are_exported_whole() -> None:
    """With the processor that the service itself adds, spans are handed over whole."""
    provider = Provider(EarlySampling(1.0), shutdown_on_exit=False)
    processor = BatchSpanProcessor(InMemorySpanExporter())
    provider.add_span_processor(processor)
    assert provider.takes_whole_spans
    provider.shutdown()


def test_a_processor_that_sees_ends_coming() -> None:
    """A processor that overrides what the SDK calls just before the end of a span gets spans in steps."""

    class Ending(SpanProcessor):
        def _on_ending(self, span: Span) -> None:
            """See SpanProcessor."""

    assert len(recorded(Ending())) == 2 * 8
