"""Settings of the HTTP endpoints, the log and traces."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, field_validator

from fivestage.core.settings import Section

HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:\[\]-]{1,253}$")]
"""A name or address, without a port."""


class AdminSettings(Section):
    """The HTTP endpoints."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 takes any free port; the ``ready`` log line names it."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Further names under which browsers may open the status page, besides localhost and ``host``. If
    ``host`` is a wildcard (``0.0.0.0``), the page is served to other machines only if this is set."""
    objective: Annotated[float, Field(gt=0, lt=1)] = 0.995
    """The share of queries that should be answered in time; the status page shows how fast the rest is used
    up."""
    show_text: bool = False
    """Show on the status page what users asked in slow and failed queries."""

    @field_validator("allowed_hosts")
    @classmethod
    def _without_ports(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            if ":" in name:
                _check_address(name)
        return given


def _check_address(name: str) -> None:
    """Raise ValueError if a name with colons is no IPv6 address."""
    try:
        ipaddress.IPv6Address(name.strip("[]"))
    except ValueError:
        raise ValueError("hosts have no port here, write the name alone") from None


class LoggingSettings(Section):
    """The log."""

    format: Literal["auto", "json", "text"] = "auto"
    """``text`` is for people, with the local time; ``auto`` is that on a terminal, and else JSON."""
    show_text: bool = False
    """Log the messages of exceptions, and add them to spans; they may contain query text."""


class TracingSettings(Section):
    """OpenTelemetry traces. The SDK's own OTEL_* variables apply as well."""

    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the queries that are recorded, where the producer sent no sampling decision. If
    OTEL_TRACES_SAMPLER is set, this setting has no effect."""
