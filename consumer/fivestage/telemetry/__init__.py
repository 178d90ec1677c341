"""Metrics, traces and logs. The only users of prometheus_client, opentelemetry and structlog's set-up."""
