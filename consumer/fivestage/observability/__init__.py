"""Metrics, traces, logs, and the HTTP endpoints.

- ``metric_table``: the name, labels and meaning of each metric. ``metrics`` counts them, an observer
  (``core.observer``); queries and calls of nodes are counted by ``query_metrics`` and ``node_metrics`` as
  plain numbers (``tally``), which is cheaper per query; ``gauges`` read the parts of the service when
  scraped. ``label_bounds`` limits the number of series, ``exposition`` chooses the format.
- ``tracing`` begins the trace of each query; ``sampling`` decides early which queries need spans,
  ``query_trace`` is the trace of one in flight, ``span_queue`` and ``query_spans`` make its spans, which
  ``ended_span`` hands over; ``trace_provider`` configures OpenTelemetry.
- ``logging``: the log's configuration. ``log_line`` has the shape of lines, ``log_output`` writes them,
  ``log_stream`` never blocks, ``log_throttle`` limits repeated lines, ``log_hooks`` replace what
  Python would write, ``control_log`` logs changes of adaptive controls.
- ``http_server``: ``/livez``, ``/readyz``, ``/metrics`` and further routes; ``http_connections`` limits the
  connections, ``http_access`` decides who may read the status page.
- ``status``: the figures behind the status page; ``event_log`` remembers the last log lines for it; ``page``
  renders it.
- ``build_info``: version. ``settings``: the sections of HTTP, log and traces.

Only this package imports prometheus_client and the OpenTelemetry SDK, and configures structlog. Called
through the observer and by ``service``. Invariant: a failure here never fails a query.
"""
