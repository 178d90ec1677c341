"""The trivial app, with its spans exported: without an exporter the service creates none."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import TracerProvider

from fivestage.observability.trace_provider import make_provider
from fivestage.settings import TracingSettings

if TYPE_CHECKING:
    from fivestage import Pipeline

app: Pipeline = import_module("trivial_app").app  # `fivestage run` looks for modules in this folder
provider = make_provider(TracingSettings().sample_ratio)
assert isinstance(provider, TracerProvider)
import_module("contest.spans").export(provider)
