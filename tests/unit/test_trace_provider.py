"""Variables of the environment that are wrong."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from fivestage import ConfigurationError
from fivestage.observability.trace_provider import BATCH, _in_batches, make_provider
from tools.bench.contest.spans import Dropped


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "'zipkin' is unknown: choose otlp, console or none"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "max_queue_size must be"),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"}, r"OTEL_\*.*'?many"),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many", "OTEL_TRACES_SAMPLER": "always_on"}, r"OTEL_\*"),
    ],
)
def test_a_wrong_variable(variables: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which variable is wrong, where no provider is set yet."""
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=text):
        make_provider(1.0)


def test_batches_fit_into_a_small_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue smaller than the default batch is accepted."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", str(BATCH // 2))
    assert _in_batches(Dropped()).force_flush()
