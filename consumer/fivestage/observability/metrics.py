"""The Prometheus counters of the service, updated as an observer of what happens.

Metrics of ended queries are in ``query_metrics``, gauges in ``gauges``. The names ``lukhas_matriz_async_*``
are kept from the system before this one; the ``messaging_*`` names are OpenTelemetry's, spelled as
Prometheus spells them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from fivestage.core.observer import Observer
from fivestage.observability.build_info import __version__
from fivestage.observability.control_log import log_change
from fivestage.observability.query_metrics import BUCKETS_S, CONSUMER_LABELS, LaneTallies, QueryMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fivestage.core.adaptive.breaker import BreakerState
    from fivestage.core.codec.decode import UnreadableReason
    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.observer import ControlChange
    from fivestage.core.outcome import QueryOutcome
    from fivestage_schemas import TimeoutReason

    Readings = Callable[[], Iterable[tuple[Sequence[str], float]]]

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
MAX_ERROR_TYPES: Final = 64
MAX_LANES: Final = 32
"""More lanes share one label: producers choose the lanes, and must not use up the memory."""


class Metrics(Observer):
    """All metrics of one service, in a registry of their own."""

    def __init__(self, *, topic: str, group_id: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # prometheus_client leaves it untyped
        self.registry = CollectorRegistry()
        self._topic = topic
        self._queries = QueryMetrics(topic=topic, group_id=group_id)
        self.registry.register(self._queries)
        self._lanes: set[str] = set()
        self._error_types: set[str] = set()
        self._make_messaging_metrics(group_id)
        self._make_query_metrics()
        self._make_kafka_metrics()
        self._make_executor_metrics()
        info = Gauge("fivestage_build_info", "The running version.", ("version",), registry=self.registry)
        info.labels(__version__).set(1)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _make_messaging_metrics(self, group_id: str) -> None:
        consumed = self._counter(
            "messaging_client_consumed_messages_total", "Records received.", CONSUMER_LABELS
        )
        self._consumed = consumed.labels("kafka", self._topic, group_id)
        self._sent = self._counter(
            "messaging_client_sent_messages_total",
            "Records acknowledged by the broker.",
            ("messaging_system", "messaging_destination_name"),
        )
        self._operation_duration = Histogram(
            "messaging_client_operation_duration_seconds",
            "Duration of one client operation: sending a batch, or a commit.",
            ("messaging_system", "messaging_operation_name", "messaging_destination_name"),
            buckets=BUCKETS_S,
            registry=self.registry,
        )

    def _make_query_metrics(self) -> None:
        counter = self._counter
        self._expired = counter(
            "fivestage_expired_total", "Queries not started because they would be late.", ("lane", "reason")
        )
        self._dead_letters = counter("fivestage_dead_letters_total", "Unreadable records.", ("reason",))
        self._late_results = counter(
            "fivestage_late_results_total", "Results dropped because their query had ended."
        )
        self._shed = counter(
            "fivestage_shed_total",
            "Queries with less time left than an answer takes: rejected, or only counted.",
            ("lane", "action"),
        )
        self._clock_skew = counter("fivestage_clock_skew_total", "Records with a timestamp in the future.")
        self._breaker_changes = counter(
            "fivestage_breaker_transitions_total",
            "Breakers that opened, half-opened or closed.",
            ("lane", "node", "state"),
        )
        self._control_changes = counter(
            "fivestage_control_changes_total",
            "Changes of adaptive controls: breakers, limits, the choice of nodes.",
            ("control", "change"),
        )
        self._failovers = counter(
            "fivestage_failovers_total", "Nodes called after another failed.", ("lane",)
        )

    def _make_kafka_metrics(self) -> None:
        counter = self._counter
        self._rebalances = counter("fivestage_rebalances_total", "Assignments of partitions.")
        self._position_resets = counter(
            "fivestage_position_resets_total",
            "Partitions read from their earliest record: no committed offset, or one out of range.",
            ("reason",),
        )
        self._skipped = counter("fivestage_skipped_records_total", "Records deleted before they were read.")
        self._commit_failures = counter("fivestage_commit_failures_total", "Failed commits.", ("error_type",))
        self._client_rebuilds = counter(
            "fivestage_client_rebuilds_total",
            "Kafka clients rebuilt because they could not recover.",
            ("client", "reason"),
        )
        self._refused_events = counter(
            "fivestage_refused_events_total",
            "Events published without their data because the broker rejected them.",
            ("error_type",),
        )
        self._throttled = counter(
            "fivestage_throttled_seconds_total",
            "Time a client waited for quotas of the brokers.",
            ("client",),
        )

    def _make_executor_metrics(self) -> None:
        self._stalled = self._counter(
            "fivestage_blocked_event_loops_total",
            "Event loops that were blocked, by the node or stage that blocked them.",
            ("node",),
        )
        self._replaced = self._counter(
            "fivestage_replaced_executors_total", "Event loops and processes that were replaced.", ("reason",)
        )

    # Gauges: their values are read at each scrape

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that calls *read* at each scrape, in another thread."""
        Gauge(f"fivestage_{name}", text, registry=self.registry).set_function(read)

    def gauges(self, name: str, text: str, labels: Sequence[str], read: Readings) -> None:
        """Add a gauge whose label values and values *read* returns at each scrape, in another thread."""
        self.registry.register(_Gauges(f"fivestage_{name}", text, labels, read))

    # Observer

    def received(self, count: int) -> None:
        self._consumed.inc(count)

    def concluded(self, query: Envelope, outcome: QueryOutcome, text: str) -> None:  # noqa: ARG002
        error_type = self._error_type(outcome.error_type or "")
        self._tallies(query.lane).concluded(outcome, query.queue_s, error_type)

    def expired(self, query: Envelope, reason: TimeoutReason) -> None:
        tallies = self._tallies(query.lane)
        tallies.queue.observe(query.queue_s)
        tallies.unstarted["expired"] += 1
        self._expired_child(self._lane(query.lane), reason).inc()

    def unreadable(self, lane: str, reason: UnreadableReason, *, answered: bool) -> None:
        self._dead_letters.labels(reason).inc()
        if answered:
            self._tallies(lane).unstarted["error"] += 1

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
        self._shed.labels(self._lane(lane), "refused" if refused else "observed").inc()

    def executor_stalled(self, name: str) -> None:
        self._stalled.labels(name).inc()

    def executor_replaced(self, reason: str) -> None:
        self._replaced.labels(reason).inc()

    def breaker_changed(self, lane: str, node: str, state: BreakerState) -> None:
        self._breaker_changes.labels(self._lane(lane), node, state).inc()

    def failed_over(self, lane: str, attempts: int) -> None:
        self._failovers.labels(self._lane(lane)).inc(attempts)

    def control_changed(self, change: ControlChange) -> None:
        self._control_changes.labels(change.control, change.change).inc()
        log_change(change)

    # Label values chosen by producers and nodes: their number is limited

    def _error_type(self, name: str) -> str:
        return _bounded(name, self._error_types, MAX_ERROR_TYPES)

    def _lane(self, lane: str) -> str:
        return _bounded(lane, self._lanes, MAX_LANES)

    def _tallies(self, lane: str) -> LaneTallies:
        lanes = self._queries.lanes
        found = lanes.get(lane)
        if found is None:
            found = lanes.setdefault(self._lane(lane), LaneTallies())
        return found

    # Metrics with resolved labels, cached: resolving takes a lock

    @lru_cache(maxsize=128)  # noqa: B019 - one Metrics a process
    def _expired_child(self, lane: str, reason: str) -> Counter:
        return self._expired.labels(lane, reason)

    @lru_cache(maxsize=64)  # noqa: B019
    def _send_children(self, topic: str) -> tuple[Counter, Histogram]:
        return self._sent.labels("kafka", topic), self._operation_duration.labels("kafka", "send", topic)


def _bounded(value: str, seen: set[str], most: int) -> str:
    """Return a label value; ``other`` if it is new and *most* values have been seen."""
    if value not in seen:
        if len(seen) >= most:
            return "other"
        seen.add(value)
    return value


class _Gauges:
    """A gauge whose set of label values changes, such as the assigned partitions."""

    def __init__(self, name: str, text: str, labels: Sequence[str], read: Readings) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._read = read

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for values, value in self._read():
            family.add_metric(values, value)
        yield family


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return all metrics and their content type: OpenMetrics unless *accept* names text/plain.

    Takes milliseconds: call it in a thread.
    """
    encoder, content_type = choose_encoder(accept if "text/plain" in accept else OPENMETRICS)
    return encoder(registry), content_type
