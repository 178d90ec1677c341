"""What is seen: metrics, traces, logs, and the HTTP endpoints.

The only users of prometheus_client, opentelemetry and structlog's configuration. Called through the observers
of ``core.observer`` and by ``service``. Invariant: a failure here never fails a query.
"""
