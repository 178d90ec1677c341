"""Writes ``docs/metrics.md`` from the table of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from fivestage.observability.label_bounds import MAX_ERROR_TYPES, MAX_LANES, MAX_NODES, MAX_SERIES
from fivestage.observability.metric_table import TABLE
from fivestage.observability.metric_table.spec import BUDGET_SHARES, Area

if TYPE_CHECKING:
    from fivestage.observability.metric_table.spec import MetricSpec

SHARES = ", ".join(f"{share:.0%}" for share in BUDGET_SHARES)
COMMAND = "GOLDEN=add .venv/bin/pytest tests/unit/test_metrics_page.py"
HEAD = f"""# Metrics

<!-- Written from consumer/fivestage/observability/metric_table: {COMMAND} -->

`/metrics` has the metrics below, as plain text, or as OpenMetrics for a client that asks for it, as
Prometheus does. Histograms in OpenMetrics have exemplars: the trace ids of sampled queries, which
Prometheus keeps with `--enable-feature=exemplar-storage`. [Dashboard and
alerts](../deploy/README.md#prometheus-and-grafana) use the metrics, and [Runbooks](runbooks.md) say
what to do when an alert fires.

A usual service, with one lane and three nodes, has about 350 time series, and three more per assigned
partition. Producers choose lanes, and nodes raise what they like, so these are limited: {MAX_LANES}
lanes, {MAX_ERROR_TYPES} error types, {MAX_NODES} pairs of lane and node; further ones share the value
`other`. So there are never more than {MAX_SERIES:,} time series. The setting `lanes` limits the lanes
further. Gauges show the first {MAX_NODES} pairs.

Durations of queries and stages have further buckets around `pipeline.total_timeout_ms`, at {SHARES} of it.

Counters of what is known in advance are 0 from the start, so that `rate()` sees the first event: ways to
end of the lanes in `lane` and `lanes`, breakers and blocked event loops of the app's nodes, reasons of dead
letters, rebuilt clients and replaced workers, changes of controls. Those by `error_type`, and those of a lane
that only producers name, begin with the first event.

Labels: `lane` is that of the query, `stage` one of the five, `outcome` what a stage or call ended as,
`status` and `within_budget` as in the result, `error_type` as in the [events](events.md).
"""


def metrics_page() -> str:
    """Return the whole page."""
    return HEAD + "".join(_section(area) for area in get_args(Area))


def _section(area: str) -> str:
    rows = "".join(_row(spec) for spec in TABLE if spec.area == area)
    return f"\n## {area}\n\n| metric | meaning | when it matters |\n| --- | --- | --- |\n{rows}"


def _row(spec: MetricSpec) -> str:
    labels = f" by {', '.join(f'`{label}`' for label in spec.labels)}" if spec.labels else ""
    unit = "" if spec.unit == "1" else f", {spec.unit}"
    return f"| `{spec.name}`<br>{spec.kind}{unit}{labels} | {spec.meaning} | {spec.matters} |\n"
