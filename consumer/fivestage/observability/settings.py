"""Settings of the HTTP endpoints, the log and traces."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fivestage.core.settings import Section


class AdminSettings(Section):
    """The HTTP endpoints."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 takes any free port; the ``ready`` log line names it."""


class LoggingSettings(Section):
    """The log."""

    show_text: bool = False
    """Log the messages of exceptions that nodes raise, and add them to spans; they may contain query text."""


class TracingSettings(Section):
    """OpenTelemetry traces. The SDK's own OTEL_* variables apply as well."""

    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the queries that are recorded, where the producer sent no sampling decision. If
    OTEL_TRACES_SAMPLER is set, this setting has no effect."""
