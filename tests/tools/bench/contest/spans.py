"""The span exporter of the contestants: spans are exported, and dropped instead of sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider


class Dropped(SpanExporter):
    """An exporter without a network."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the exporter's signature
        """Drop them."""
        return SpanExportResult.SUCCESS


def export(provider: TracerProvider) -> None:
    """Have a provider's spans exported."""
    provider.add_span_processor(BatchSpanProcessor(Dropped()))
