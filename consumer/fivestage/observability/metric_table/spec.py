"""A row of the table of metrics."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Area = Literal["Queries", "Stages", "Nodes", "Load", "Records", "Kafka", "Executor", "Process"]

BUCKETS_S: Final[tuple[float, ...]] = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.25,
    0.3,
    0.5,
    1.0,
    2.5,
)
"""Contains 0.25, the default time limit of a query."""
BUDGET_SHARES: Final = (0.8, 0.9, 1.0, 1.2)
NODE_BUCKETS_S: Final[tuple[float, ...]] = (0.005, 0.025, 0.05, 0.1, 0.15, 0.25, 1.0)
"""Fewer: an app may have many nodes, in each lane."""
QUEUE_BUCKETS_S: Final[tuple[float, ...]] = (0.005, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0, 3600.0)
CONSUMER_LABELS: Final = ("messaging_system", "messaging_destination_name", "messaging_consumer_group_name")


class MetricSpec(NamedTuple):
    """A metric as it is scraped."""

    area: Area
    """The section of ``docs/metrics.md``."""
    kind: Literal["counter", "gauge", "histogram"]
    name: str
    """In full; that of a counter ends in ``_total``."""
    labels: tuple[str, ...]
    unit: str
    """What is counted or measured; ``1`` for states and shares."""
    meaning: str
    """The HELP text."""
    matters: str
    """When to look at it; Markdown."""
    buckets_s: tuple[float, ...] = ()
    """The bounds of a histogram, without infinity."""


def bounds_for(budget_s: float) -> tuple[float, ...]:
    """Return BUCKETS_S and bounds around the time limit of a query, for its durations and its stages'."""
    return tuple(sorted({*BUCKETS_S, *(round(budget_s * share, 6) for share in BUDGET_SHARES)}))
