"""Makes OpenTelemetry's tracer provider, for the service and for each worker process.

Imports the SDK, which takes a while. docs/traces.md lists the variables of the environment.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from fivestage.errors import ConfigurationError
from fivestage.observability.build_info import __version__
from fivestage.observability.sampling import EarlySampling, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace.export import SpanExporter

FLUSH_S: Final = 2.0
"""How long the last spans may take to be exported at the end of the service."""
WORKER_FLUSH_S: Final = 0.3
"""The same for a worker process, which must end sooner."""
DELAY_MS: Final = 500
BATCH: Final = 128
"""Spans in one export. The SDK's 5 s and 512 keep the interpreter three times as long at a time."""


def exports_spans() -> bool:
    """Whether the environment names an exporter."""
    return _exporter_kind() != "none"


def make_provider(sample_ratio: float) -> TracerProvider:
    """Make a tracer provider and set it as the global one; keep one that is already set.

    The SDK itself reads OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME. Spans are
    exported with OTEL_TRACES_EXPORTER=otlp, which needs ``fivestage[otlp]``, or =console.

    Raises:
        ConfigurationError: OTEL_TRACES_EXPORTER names another exporter, otlp is not installed, or another
            variable has a value that the SDK rejects.
    """
    current = trace.get_tracer_provider()
    if isinstance(current, TracerProvider):
        return current
    make_exporter = _exporter_class()
    try:
        provider = _new_provider(sample_ratio)
        if make_exporter is not None:
            provider.add_span_processor(_in_batches(make_exporter()))
    except ValueError as error:
        raise ConfigurationError(f"a variable OTEL_* of the environment is wrong: {error}") from None
    trace.set_tracer_provider(provider)
    return provider


def _new_provider(sample_ratio: float) -> TracerProvider:
    # At exit the SDK would wait up to 30 s for a collector that does not answer: see flush_provider.
    if os.environ.get("OTEL_TRACES_SAMPLER"):
        return TracerProvider(resource=_resource(), shutdown_on_exit=False)
    sampler = ParentBasedTraceIdRatio(sample_ratio)
    ids = EarlySampling(sample_ratio)
    return Provider(ids, sampler=sampler, resource=_resource(), shutdown_on_exit=False)


def prepare_workers(sample_ratio: str) -> Callable[[], Callable[[], None]]:
    """Load what worker processes need, before they are forked.

    Args:
        sample_ratio: For traces that begin in a worker.

    Returns:
        A function for each worker to call after the fork, since the thread that exports would not survive
        it. It returns a function that exports the last spans.
    """
    make_exporter = _exporter_class()
    if make_exporter is not None:
        make_exporter()  # the first one imports the HTTP client, which would cost each worker 0.1 s
    _resource()  # likewise

    def start() -> Callable[[], None]:
        make_provider(float(sample_ratio))
        return lambda: flush_provider(WORKER_FLUSH_S)

    return start


def flush_provider(timeout_s: float = FLUSH_S) -> None:
    """Export the recorded spans; blocks for up to *timeout_s* seconds, so call it in a thread.

    The SDK does not keep such a limit, and its exporter may try again for longer: a daemon thread does it.
    """
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        thread = threading.Thread(target=flush, name="fivestage-last-spans", daemon=True)
        thread.start()
        thread.join(timeout_s)


def _resource() -> Resource:
    found = Resource.create({SERVICE_VERSION: __version__})
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        found = found.merge(Resource({SERVICE_NAME: "fivestage"}))
    return found


def _in_batches(exporter: SpanExporter) -> BatchSpanProcessor:
    """Export in a thread, in batches that are small unless the environment says otherwise."""
    delay_ms = None if "OTEL_BSP_SCHEDULE_DELAY" in os.environ else DELAY_MS
    size = None
    if "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" not in os.environ:  # which may not be above the size of the queue
        size = min(BATCH, int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", BATCH)))
    return BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms, max_export_batch_size=size)


def _exporter_kind() -> str:
    return os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "none"


def _exporter_class() -> Callable[[], SpanExporter] | None:
    """Import the exporter that the environment names; None if it names none."""
    kind = _exporter_kind()
    if kind == "console":
        return ConsoleSpanExporter
    if kind == "otlp":
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - optional
                OTLPSpanExporter,
            )
        except ImportError:
            raise ConfigurationError(
                'OTEL_TRACES_EXPORTER=otlp needs another package: pip install "fivestage[otlp]"'
            ) from None
        return OTLPSpanExporter
    if kind != "none":
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER={kind!r} is unknown: choose otlp, console or none")
    return None
