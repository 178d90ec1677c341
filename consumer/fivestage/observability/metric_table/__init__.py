"""The table of all metrics: each has its name, type, unit, labels and meaning here, once.

``spec`` is the type of a row. ``queries`` has the metrics of queries, stages and nodes, ``service`` those of
the service and its parts. The Prometheus objects are made from the rows, and ``docs/metrics.md`` is written
from them.
"""

from typing import Final

from fivestage.observability.metric_table import queries, service
from fivestage.observability.metric_table.spec import MetricSpec

TABLE: Final[tuple[MetricSpec, ...]] = tuple(
    row for part in (queries, service) for row in vars(part).values() if isinstance(row, MetricSpec)
)
"""All rows, in the order of the modules."""
