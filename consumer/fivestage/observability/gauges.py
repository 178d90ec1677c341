"""Gauges of the running service: values that are read when they are scraped."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.observability.label_bounds import MAX_NODES
from fivestage.observability.metric_table import queries, service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fivestage.core.adaptive.lane_state import LearnedState
    from fivestage.core.ledger import Ledger, PartitionKey
    from fivestage.core.routing_snapshot import NodeRouting
    from fivestage.dispatch.dispatcher import Dispatcher
    from fivestage.executors import Executor
    from fivestage.observability.metrics import Metrics

BREAKER_VALUES: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


def add_gauges(
    metrics: Metrics,
    *,
    dispatcher: Dispatcher,
    executor: Executor,
    ledger: Ledger,
    lag: Callable[[], dict[PartitionKey, int]],
    bus_lag_s: Callable[[], float],
    is_ready: Callable[[], bool],
) -> None:
    """Add the gauges of the service.

    Args:
        metrics: Where they are added.
        dispatcher: Has the queries and what is learned.
        executor: Has the abandoned calls.
        ledger: Has the partitions.
        lag: Returns how many records of each partition were not polled yet.
        bus_lag_s: Returns how late the bus loop came to its last check.
        is_ready: Returns whether the service was ready at its last check.
    """
    slots = dispatcher.slots
    metrics.gauge(service.READY, lambda: float(is_ready()))
    metrics.gauge(queries.BUDGET, lambda: dispatcher.learned.plan.total_s)
    metrics.gauge(service.IN_FLIGHT, lambda: slots.running)
    metrics.gauge(service.CONCURRENCY_LIMIT, lambda: slots.limit)
    metrics.gauge(service.WAITING, lambda: dispatcher.waiting)
    metrics.gauge(service.UNFINISHED, lambda: dispatcher.in_flight)
    metrics.gauge(service.ABANDONED, lambda: len(executor.abandoned()))
    metrics.gauges(service.LOOP_LAG, lambda: [(("bus",), bus_lag_s()), (("executor",), executor.lag_s)])
    metrics.gauges(service.LAG, lambda: [(_labels(key), records) for key, records in lag().items()])
    metrics.gauges(
        service.UNCOMMITTED,
        lambda: [(_labels(key), offsets.span) for key, offsets in list(ledger.partitions.items())],
    )
    metrics.gauges(
        service.HALTED,
        lambda: [(_labels(key), float(key in ledger.guard.halted)) for key in list(ledger.partitions)],
    )
    _add_lane_gauges(metrics, dispatcher.learned)


def _labels(key: PartitionKey) -> tuple[str, str]:
    return key.topic, str(key.partition)


def _add_lane_gauges(metrics: Metrics, learned: LearnedState) -> None:
    """Add what is learned, by lane."""

    def nodes() -> Iterator[tuple[tuple[str, str], NodeRouting]]:
        found = (
            ((lane.name, name), node)
            for lane in list(learned.lanes.values())
            for name, node in lane.routing.nodes.items()
        )
        return islice(found, MAX_NODES)

    metrics.gauges(
        queries.STAGE_LIMIT,
        lambda: [
            ((lane.name, spec.stage_type), stage.limit_s)
            for lane in list(learned.lanes.values())
            for spec, stage in zip(learned.plan.stages, lane.routing.stages, strict=True)
        ],
    )
    metrics.gauges(queries.NODE_HEALTH, lambda: [(labels, node.score) for labels, node in nodes()])
    metrics.gauges(
        queries.BREAKER_STATE, lambda: [(labels, BREAKER_VALUES[node.state]) for labels, node in nodes()]
    )
