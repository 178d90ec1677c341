"""Prometheus metrics: one table of names, children resolved once, rendered off the loop.

The four ``lukhas_matriz_async_*`` names continue the system this one comes from; the ``messaging_*`` names
are OpenTelemetry's under their Prometheus spelling.
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
    from fivestage.core.observer import ControlChange
    from fivestage.core.outcome import QueryOutcome
    from fivestage_schemas import TimeoutReason

    Readings = Callable[[], Iterable[tuple[Sequence[str], float]]]

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
MAX_ERROR_TYPES: Final = 64
MAX_LANES: Final = 32
"""Lanes beyond these share one label: producers choose lanes, but not how much we remember."""
OTHER_LANES: Final = "other"


class Metrics(Observer):
    """All metrics of one service, in a registry of their own."""

    def __init__(self, *, topic: str, group_id: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # prometheus_client leaves it untyped
        self.registry = CollectorRegistry()
        self._topic = topic
        self._group_id = group_id
        self._queries = QueryMetrics(topic=topic, group_id=group_id)
        self.registry.register(self._queries)
        self._lanes: set[str] = set()
        self._error_types: set[str] = set()
        self._make_messaging_metrics()
        self._make_service_metrics()

    def _make_messaging_metrics(self) -> None:
        registry = self.registry
        self._consumed = Counter(
            "messaging_client_consumed_messages_total",
            "Records received.",
            CONSUMER_LABELS,
            registry=registry,
        ).labels("kafka", self._topic, self._group_id)
        self._sent = Counter(
            "messaging_client_sent_messages_total",
            "Records acknowledged by the broker.",
            ("messaging_system", "messaging_destination_name"),
            registry=registry,
        )
        self._operation_duration = Histogram(
            "messaging_client_operation_duration_seconds",
            "Time of one client operation: a batch sent, a commit.",
            ("messaging_system", "messaging_operation_name", "messaging_destination_name"),
            buckets=BUCKETS_S,
            registry=registry,
        )

    def _make_service_metrics(self) -> None:
        registry = self.registry
        self._expired = Counter(
            "fivestage_expired_total",
            "Queries not started because their answer would have come too late.",
            ("lane", "reason"),
            registry=registry,
        )
        self._dead_letters = Counter(
            "fivestage_dead_letters_total", "Records that could not be read.", ("reason",), registry=registry
        )
        self._rebalances = Counter(
            "fivestage_rebalances_total", "Assignments of partitions.", registry=registry
        )
        self._position_resets = Counter(
            "fivestage_position_resets_total",
            "Partitions read from their earliest record on: without a position, or with one out of range.",
            ("reason",),
            registry=registry,
        )
        self._skipped = Counter(
            "fivestage_skipped_records_total",
            "Records that were deleted before they were read.",
            registry=registry,
        )
        self._commit_failures = Counter(
            "fivestage_commit_failures_total",
            "Commits that did not go through.",
            ("error_type",),
            registry=registry,
        )
        self._client_rebuilds = Counter(
            "fivestage_client_rebuilds_total",
            "Clients of Kafka made anew, because they were beyond repair.",
            ("client", "reason"),
            registry=registry,
        )
        self._refused_events = Counter(
            "fivestage_refused_events_total",
            "Events that brokers refused for what they are, published without their data.",
            ("error_type",),
            registry=registry,
        )
        self._throttled = Counter(
            "fivestage_throttled_seconds_total",
            "How long quotas of the brokers made a client wait.",
            ("client",),
            registry=registry,
        )
        self._late_results = Counter(
            "fivestage_late_results_total",
            "Results dropped because their query had ended.",
            registry=registry,
        )
        self._stalled = Counter(
            "fivestage_blocked_event_loops_total",
            "Event loops that did not turn for a while, by the node or stage whose code had control.",
            ("node",),
            registry=registry,
        )
        self._replaced = Counter(
            "fivestage_replaced_executors_total",
            "Event loops and processes of nodes that were replaced.",
            ("reason",),
            registry=registry,
        )
        self._breaker_changes = Counter(
            "fivestage_breaker_transitions_total",
            "Breakers that opened, half opened or closed.",
            ("lane", "node", "state"),
            registry=registry,
        )
        self._control_changes = Counter(
            "fivestage_control_changes_total",
            "Changes of what learns from queries: breakers, limits, the choice of nodes.",
            ("control", "change"),
            registry=registry,
        )
        self._failovers = Counter(
            "fivestage_failovers_total",
            "Nodes called after another had failed.",
            ("lane",),
            registry=registry,
        )
        self._shed = Counter(
            "fivestage_shed_total",
            "Queries that had less time than an answer takes: refused, or only observed.",
            ("lane", "action"),
            registry=registry,
        )
        self._clock_skew = Counter(
            "fivestage_clock_skew_total", "Records whose timestamp lay in the future.", registry=registry
        )
        info = Gauge("fivestage_build_info", "The version that runs.", ("version",), registry=registry)
        info.labels(__version__).set(1)

    # Gauges are read when they are scraped

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that calls *read* at every scrape (in another thread)."""
        Gauge(f"fivestage_{name}", text, registry=self.registry).set_function(read)

    def gauges(self, name: str, text: str, labels: Sequence[str], read: Readings) -> None:
        """Add a gauge for each set of labels' values, read at every scrape (in another thread)."""
        self.registry.register(_Gauges(f"fivestage_{name}", text, labels, read))

    # Observer

    def received(self, count: int) -> None:
        self._consumed.inc(count)

    def concluded(self, lane: str, conclusion: QueryOutcome, queue_s: float) -> None:
        self._tallies(lane).concluded(conclusion, queue_s, self._error_type(conclusion.error_type or ""))

    def expired(self, lane: str, reason: TimeoutReason, queue_s: float) -> None:
        tallies = self._tallies(lane)
        tallies.queue.observe(queue_s)
        tallies.unstarted["expired"] += 1
        self._expired_child(self._lane(lane), reason).inc()

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

    # Labels that others choose are bounded

    def _error_type(self, name: str) -> str:
        if name not in self._error_types:
            if len(self._error_types) >= MAX_ERROR_TYPES:
                return "other"
            self._error_types.add(name)
        return name

    def _lane(self, lane: str) -> str:
        if lane not in self._lanes:
            if len(self._lanes) >= MAX_LANES:
                return OTHER_LANES
            self._lanes.add(lane)
        return lane

    def _tallies(self, lane: str) -> LaneTallies:
        lanes = self._queries.lanes
        found = lanes.get(lane)
        if found is None:
            found = lanes.setdefault(self._lane(lane), LaneTallies())
        return found

    # Children, resolved once

    @lru_cache(maxsize=128)  # noqa: B019 - one Metrics a process
    def _expired_child(self, lane: str, reason: str) -> Counter:
        return self._expired.labels(lane, reason)

    @lru_cache(maxsize=64)  # noqa: B019
    def _send_children(self, topic: str) -> tuple[Counter, Histogram]:
        return self._sent.labels("kafka", topic), self._operation_duration.labels("kafka", "send", topic)


class _Gauges:
    """Gauges whose labels come and go, as partitions do with the assignment."""

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
    """All metrics, as OpenMetrics unless *accept* asks for something else, with their content type.

    Slow: call it off the loop.
    """
    encoder, content_type = choose_encoder(accept if "text/plain" in accept else OPENMETRICS)
    return encoder(registry), content_type
