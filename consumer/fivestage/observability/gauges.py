"""Gauges of the running service: values that are read when they are scraped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.breaker import BreakerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.adaptive.lane_state import LearnedState
    from fivestage.core.ledger import Ledger, PartitionKey
    from fivestage.core.routing_snapshot import NodeRouting
    from fivestage.dispatch.dispatcher import Dispatcher
    from fivestage.executors import Executor
    from fivestage.observability.metrics import Metrics

BREAKER_VALUES: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
PARTITION_LABELS: Final = ("topic", "partition")


def add_gauges(
    metrics: Metrics,
    *,
    dispatcher: Dispatcher,
    executor: Executor,
    ledger: Ledger,
    lag: Callable[[], dict[PartitionKey, int]],
    bus_lag_s: Callable[[], float],
) -> None:
    """Add the gauges of the service.

    Args:
        metrics: Where they are added.
        dispatcher: Has the queries and what is learned.
        executor: Has the abandoned calls.
        ledger: Has the partitions.
        lag: Returns how many records of each partition were not polled yet.
        bus_lag_s: Returns how late the bus loop came to its last check.
    """
    slots = dispatcher.slots
    metrics.gauge("in_flight", "Queries that run.", lambda: slots.running)
    metrics.gauge("concurrency_limit", "How many may run; learned.", lambda: slots.limit)
    metrics.gauge("waiting", "Records taken in that wait for a slot or thread.", lambda: dispatcher.waiting)
    metrics.gauge("unfinished", "Records taken in and not acknowledged yet.", lambda: dispatcher.in_flight)
    metrics.gauge("abandoned_tasks", "Stages that run on after their end.", lambda: len(executor.abandoned()))
    metrics.gauges(
        "event_loop_lag_seconds",
        "How late a loop came to its last check.",
        ("loop",),
        lambda: [(("bus",), bus_lag_s()), (("executor",), executor.lag_s)],
    )
    metrics.gauges(
        "lag",
        "Records not handed over yet.",
        PARTITION_LABELS,
        lambda: [(_labels(key), records) for key, records in lag().items()],
    )
    metrics.gauges(
        "uncommitted_span",
        "Offsets between the commit position and the newest record.",
        PARTITION_LABELS,
        lambda: [(_labels(key), offsets.span) for key, offsets in list(ledger.partitions.items())],
    )
    metrics.gauges(
        "partition_halted",
        "1 for a partition that is halted because too much of it cannot be read.",
        PARTITION_LABELS,
        lambda: [(_labels(key), float(key in ledger.guard.halted)) for key in list(ledger.partitions)],
    )
    _add_lane_gauges(metrics, dispatcher.learned)


def _labels(key: PartitionKey) -> tuple[str, str]:
    return key.topic, str(key.partition)


def _add_lane_gauges(metrics: Metrics, learned: LearnedState) -> None:
    """Add what is learned, by lane."""

    def nodes() -> list[tuple[tuple[str, str], NodeRouting]]:
        lanes = list(learned.lanes.values())
        return [((lane.name, name), node) for lane in lanes for name, node in lane.routing.nodes.items()]

    metrics.gauges(
        "stage_limit_seconds",
        "The limit of a stage; learned.",
        ("lane", "stage"),
        lambda: [
            ((lane.name, spec.stage_type), stage.limit_s)
            for lane in list(learned.lanes.values())
            for spec, stage in zip(learned.plan.stages, lane.routing.stages, strict=True)
        ],
    )
    metrics.gauges(
        "node_health",
        "Health of a node, 0 to 1.",
        ("lane", "node"),
        lambda: [(labels, node.score) for labels, node in nodes()],
    )
    metrics.gauges(
        "breaker_state",
        "Breaker of a node: 0 closed, 1 half open, 2 open.",
        ("lane", "node"),
        lambda: [(labels, BREAKER_VALUES[node.state]) for labels, node in nodes()],
    )
