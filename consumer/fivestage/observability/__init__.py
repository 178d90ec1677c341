"""Metrics, traces, logs, and the HTTP endpoints.

- ``metrics``: all Prometheus metrics, an observer (``core.observer``); those of queries are in
  ``query_metrics``, which is cheaper per query; ``gauges`` read the parts of the service when scraped.
- ``tracing``: the spans of queries; ``sampling`` decides early which queries need spans; ``trace_provider``
  configures OpenTelemetry.
- ``logging``: the log's configuration; ``log_stream`` never blocks, ``log_throttle`` limits repeated lines,
  ``control_log`` logs changes of adaptive controls.
- ``http_server``: ``/livez``, ``/readyz``, ``/metrics`` and further routes; ``http_connections`` limits the
  connections, ``http_access`` decides who may read the status page.
- ``status``: the figures behind the status page; ``event_log`` remembers the last log lines for it; ``page``
  renders it.
- ``build_info``: version. ``settings``: the sections of HTTP, log and traces.

Only this package imports prometheus_client and opentelemetry, and configures structlog. Called through the
observer and by ``service``. Invariant: a failure here never fails a query.
"""
