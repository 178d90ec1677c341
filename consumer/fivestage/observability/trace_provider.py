"""Makes OpenTelemetry's tracer provider for the service. Imports the SDK, which takes a while."""

from __future__ import annotations

import os
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from fivestage.errors import ConfigurationError
from fivestage.observability.sampling import EarlySampling, Provider

FLUSH_TIMEOUT_MS: Final = 2000


def make_provider(sample_ratio: float) -> trace.TracerProvider:
    """Make a tracer provider and set it as the global one; keep one that is already set.

    The SDK itself reads OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME. Spans are
    exported with OTEL_TRACES_EXPORTER=otlp, which needs ``fivestage[otlp]``, or =console.

    Raises:
        ConfigurationError: OTEL_TRACES_EXPORTER names another exporter, or otlp is not installed.
    """
    current = trace.get_tracer_provider()
    if isinstance(current, TracerProvider):
        return current
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "fivestage")})
    if os.environ.get("OTEL_TRACES_SAMPLER"):
        provider = TracerProvider(resource=resource)
    else:
        sampler = ParentBasedTraceIdRatio(sample_ratio)
        provider = Provider(EarlySampling(sample_ratio), sampler=sampler, resource=resource)
    _add_exporter(provider, os.environ.get("OTEL_TRACES_EXPORTER", "none"))
    trace.set_tracer_provider(provider)
    return provider


def _add_exporter(provider: TracerProvider, kind: str) -> None:
    if kind == "console":
        provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    elif kind == "otlp":
        try:
            from opentelemetry.exporter.otlp.proto.http import trace_exporter  # noqa: PLC0415 - optional
        except ImportError:
            raise ConfigurationError(
                'OTEL_TRACES_EXPORTER=otlp needs another package: pip install "fivestage[otlp]"'
            ) from None
        provider.add_span_processor(BatchSpanProcessor(trace_exporter.OTLPSpanExporter()))
    elif kind != "none":
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER={kind!r} is unknown: choose otlp, console or none")


def flush_provider() -> None:
    """Export the recorded spans. Blocks for up to FLUSH_TIMEOUT_MS: call it in a thread."""
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flush(FLUSH_TIMEOUT_MS)
