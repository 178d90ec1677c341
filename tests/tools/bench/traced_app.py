"""The apps of the contest, with their spans exported: without an exporter the service creates none."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import TracerProvider

from fivestage.observability.trace_provider import make_provider
from fivestage.settings import TracingSettings

if TYPE_CHECKING:
    from fivestage import Pipeline

# `fivestage run` looks for modules in this folder
waiting: Pipeline = import_module("waiting_app").app
never_waiting: Pipeline = import_module("trivial_app").app
provider = make_provider(TracingSettings().sample_ratio)
assert isinstance(provider, TracerProvider)
import_module("contest.spans").export(provider)
