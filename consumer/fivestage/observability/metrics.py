"""The Prometheus counters of the service, updated as an observer of what happens.

``metric_table`` has their names, labels and meanings. Ended queries are counted in ``query_metrics``, calls
of nodes in ``node_metrics``; gauges are in ``gauges``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.codec.decode import UnreadableReason
from fivestage.core.observer import Observer
from fivestage.core.plan import DEFAULT_TOTAL_TIMEOUT_MS
from fivestage.observability import known_labels
from fivestage.observability.build_info import __version__
from fivestage.observability.control_log import EVENTS, log_change
from fivestage.observability.label_bounds import MAX_ERROR_TYPES, MAX_LANES, MAX_NODES, Bounded
from fivestage.observability.metric_table import queries, service
from fivestage.observability.metric_table.spec import bounds_for
from fivestage.observability.node_metrics import NodeMetrics
from fivestage.observability.query_metrics import LaneTallies, QueryMetrics
from fivestage.observability.tally import sampled
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.observer import ControlChange
    from fivestage.core.outcome import QueryOutcome
    from fivestage.observability.metric_table.spec import MetricSpec
    from fivestage_schemas import TimeoutReason

    Readings = Callable[[], Iterable[tuple[Sequence[str], float]]]


class Metrics(Observer):
    """All metrics of one service, in a registry of their own.

    Args:
        topic: The input topic.
        group_id: The consumer group.
        lanes: The lanes that are known in advance.
        nodes: The nodes of the app.
        budget_s: Time limit of a query: durations are counted more finely around it.
    """

    def __init__(
        self,
        *,
        topic: str,
        group_id: str,
        lanes: Collection[str] = (),
        nodes: Collection[str] = (),
        budget_s: float = DEFAULT_TOTAL_TIMEOUT_MS / 1000,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # prometheus_client leaves it untyped
        self.registry = CollectorRegistry()
        self._topic = topic
        self._lanes, self._nodes = Bounded(MAX_LANES), Bounded(MAX_NODES)
        self._error_types = Bounded(MAX_ERROR_TYPES)
        self._bounds = bounds_for(budget_s)
        self._queries = QueryMetrics(topic=topic, group_id=group_id, bounds=self._bounds)
        self._calls = NodeMetrics(self._nodes)
        self.registry.register(self._queries)
        self.registry.register(self._calls)
        self._make_query_metrics()
        self._make_record_metrics(group_id)
        self._make_kafka_metrics()
        self._make_executor_metrics()
        spec = service.BUILD_INFO
        Gauge(spec.name, spec.meaning, spec.labels, registry=self.registry).labels(__version__).set(1)
        self._start_at_zero()
        for name in (*nodes, *StageType):
            self._stalled.labels(self._nodes.of(name))
        for lane in lanes:
            self._start_lane_at_zero(self._tallies(lane)[0], nodes)

    def _counter(self, spec: MetricSpec) -> Counter:
        return Counter(spec.name, spec.meaning, spec.labels, registry=self.registry)

    def _make_query_metrics(self) -> None:
        self._expired = self._counter(queries.EXPIRED)
        self._shed = self._counter(queries.SHED)
        self._late_results = self._counter(queries.LATE_RESULTS)
        self._clock_skew = self._counter(queries.CLOCK_SKEW)
        self._breaker_changes = self._counter(queries.BREAKER_TRANSITIONS)
        self._failovers = self._counter(queries.FAILOVERS)
        self._retries = self._counter(queries.RETRIES)
        self._hedges = self._counter(queries.HEDGES)
        self._control_changes = self._counter(service.CONTROL_CHANGES)

    def _make_record_metrics(self, group_id: str) -> None:
        self._consumed = self._counter(service.CONSUMED).labels("kafka", self._topic, group_id)
        self._sent = self._counter(service.SENT)
        self._dead_letters = self._counter(service.DEAD_LETTERS)
        self._skipped = self._counter(service.SKIPPED)
        self._refused_events = self._counter(service.REFUSED_EVENTS)

    def _make_kafka_metrics(self) -> None:
        self._rebalances = self._counter(service.REBALANCES)
        self._position_resets = self._counter(service.POSITION_RESETS)
        self._commit_failures = self._counter(service.COMMIT_FAILURES)
        self._client_rebuilds = self._counter(service.CLIENT_REBUILDS)
        self._throttled = self._counter(service.THROTTLED)
        spec = service.OPERATION_DURATION
        self._operation_duration = Histogram(
            spec.name, spec.meaning, spec.labels, buckets=spec.buckets_s, registry=self.registry
        )

    def _make_executor_metrics(self) -> None:
        self._stalled = self._counter(service.BLOCKED_LOOPS)
        self._replaced = self._counter(service.REPLACED)

    # Counters of what is known in advance: see known_labels

    def _start_at_zero(self) -> None:
        for reason in UnreadableReason:
            self._dead_letters.labels(reason)
        for change in EVENTS:
            self._control_changes.labels(*change)
        for client, reasons in known_labels.REBUILDS.items():
            self._throttled.labels(client)
            for text in reasons:
                self._client_rebuilds.labels(client, text)
        for text in known_labels.REPLACED:
            self._replaced.labels(text)

    def _start_lane_at_zero(self, lane: str, nodes: Collection[str]) -> None:
        for reason in known_labels.EXPIRED:
            self._expired_child(lane, reason)
        self._failovers.labels(lane)
        self._retries.labels(lane)
        for outcome in Outcome:
            self._hedges.labels(lane, outcome)
        for node in nodes:
            name = self._nodes.of(node, lane)
            for state in BreakerState:
                self._breaker_changes.labels(lane, name, state)

    # Gauges: their values are read at each scrape

    def gauge(self, spec: MetricSpec, read: Callable[[], float]) -> None:
        """Add a gauge without labels that calls *read* at each scrape, in another thread."""
        Gauge(spec.name, spec.meaning, registry=self.registry).set_function(read)

    def gauges(self, spec: MetricSpec, read: Readings) -> None:
        """Add a gauge whose label values and values *read* returns at each scrape, in another thread."""
        self.registry.register(_Gauges(spec, read))

    # Observer

    def received(self, count: int) -> None:
        self._consumed.inc(count)

    def concluded(self, query: Envelope, outcome: QueryOutcome, text: str) -> None:  # noqa: ARG002
        lane, tallies = self._tallies(query.lane)
        error_type = self._error_types.of(outcome.error_type or "")
        trace = sampled(query, outcome)
        tallies.concluded(outcome, query.queue_s, error_type, trace)
        self._calls.count(lane, outcome.runs, trace)
        if outcome.earlier:
            self._calls.count(lane, outcome.earlier, trace)

    def expired(self, query: Envelope, reason: TimeoutReason) -> None:
        label, tallies = self._tallies(query.lane)
        tallies.queue.observe(query.queue_s)
        tallies.unstarted["expired"] += 1
        self._expired_child(label, reason).inc()

    def unreadable(self, lane: str, reason: UnreadableReason, *, answered: bool) -> None:
        self._dead_letters.labels(reason).inc()
        if answered:
            self._tallies(lane)[1].unstarted["error"] += 1

    def rebalanced(self) -> None:
        self._rebalances.inc()

    def position_reset(self, reason: str, skipped: int) -> None:
        self._position_resets.labels(reason).inc()
        self._skipped.inc(skipped)

    def published(self, topic: str, count: int, duration_s: float) -> None:
        sent, duration = self._send_children(topic)
        sent.inc(count)
        duration.observe(duration_s)

    def committed(self, partitions: int, duration_s: float) -> None:  # noqa: ARG002 - the observer's signature
        self._operation_duration.labels("kafka", "commit", self._topic).observe(duration_s)

    def commit_failed(self, error_type: str) -> None:
        self._commit_failures.labels(error_type).inc()

    def client_rebuilt(self, client: str, reason: str) -> None:
        self._client_rebuilds.labels(client, reason).inc()

    def event_refused(self, error_type: str) -> None:
        self._refused_events.labels(error_type).inc()

    def throttled(self, client: str, duration_s: float) -> None:
        self._throttled.labels(client).inc(duration_s)

    def came_late(self) -> None:
        self._late_results.inc()

    def clock_skewed(self) -> None:
        self._clock_skew.inc()

    def shed(self, lane: str, *, refused: bool) -> None:
        self._shed.labels(self._lanes.of(lane), "refused" if refused else "observed").inc()

    def executor_stalled(self, name: str, where: str | None) -> None:  # noqa: ARG002
        self._stalled.labels(self._nodes.of(name)).inc()

    def executor_replaced(self, reason: str) -> None:
        self._replaced.labels(reason).inc()

    def breaker_changed(self, lane: str, node: str, state: BreakerState) -> None:
        label = self._lanes.of(lane)
        self._breaker_changes.labels(label, self._nodes.of(node, label), state).inc()

    def failed_over(self, lane: str, attempts: int) -> None:
        self._failovers.labels(self._lanes.of(lane)).inc(attempts)

    def retried(self, lane: str, attempts: int) -> None:
        self._retries.labels(self._lanes.of(lane)).inc(attempts)

    def hedged(self, lane: str, outcome: Outcome) -> None:
        self._hedges.labels(self._lanes.of(lane), outcome).inc()

    def control_changed(self, change: ControlChange) -> None:
        self._control_changes.labels(change.control, change.change).inc()
        log_change(change)

    # Metrics with resolved labels, kept: resolving takes a lock

    def _tallies(self, lane: str) -> tuple[str, LaneTallies]:
        """Return a lane's label and numbers."""
        lanes = self._queries.lanes
        found = lanes.get(lane)
        if found is None:
            lane = self._lanes.of(lane)
            found = lanes.setdefault(lane, LaneTallies(self._bounds))
        return lane, found

    @lru_cache(maxsize=128)  # noqa: B019 - one Metrics a process
    def _expired_child(self, lane: str, reason: str) -> Counter:
        return self._expired.labels(lane, reason)

    @lru_cache(maxsize=64)  # noqa: B019
    def _send_children(self, topic: str) -> tuple[Counter, Histogram]:
        return self._sent.labels("kafka", topic), self._operation_duration.labels("kafka", "send", topic)


class _Gauges:
    """A gauge whose set of label values changes, such as the assigned partitions."""

    def __init__(self, spec: MetricSpec, read: Readings) -> None:
        self._spec = spec
        self._read = read

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._spec.name, self._spec.meaning, labels=self._spec.labels)
        for values, value in self._read():
            family.add_metric(values, value)
        yield family
