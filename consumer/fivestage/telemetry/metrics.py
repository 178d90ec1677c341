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

from fivestage.core.events import Observer
from fivestage.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fivestage.core.breaker import BreakerState
    from fivestage.core.decode import UnreadableReason
    from fivestage.core.outcome import Conclusion
    from fivestage_schemas import TimeoutReason

    Readings = Callable[[], Iterable[tuple[Sequence[str], float]]]

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0, 2.5)
"""0.25 is a bound, because the default budget is."""
QUEUE_BUCKETS_S: Final = (0.005, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0, 3600.0)
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
MAX_ERROR_TYPES: Final = 64
MAX_LANES: Final = 32
"""Lanes beyond these share the label ``other``: producers choose lanes, but not how much we remember."""


class Metrics(Observer):
    """All metrics of one service, in a registry of their own."""

    def __init__(self, *, topic: str, group_id: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # prometheus_client leaves it untyped
        self.registry = CollectorRegistry()
        self._topic = topic
        self._group_id = group_id
        self._lanes: set[str] = set()
        self._error_types: set[str] = set()
        self._make_pipeline_metrics()
        self._make_messaging_metrics()
        self._make_service_metrics()

    def _make_pipeline_metrics(self) -> None:
        registry = self.registry
        by_pipeline = ("lane", "status", "within_budget")
        by_stage = ("lane", "stage", "outcome")
        self._pipeline_duration = Histogram(
            "lukhas_matriz_async_pipeline_duration_seconds",
            "Time from the start of the first stage to the end of the query.",
            by_pipeline,
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._pipeline_total = Counter(
            "lukhas_matriz_async_pipeline_total", "Queries ended.", by_pipeline, registry=registry
        )
        self._stage_duration = Histogram(
            "lukhas_matriz_async_stage_duration_seconds",
            "Time a stage ran.",
            by_stage,
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._stage_total = Counter(
            "lukhas_matriz_async_stage_total",
            "Stages ended, skipped ones included.",
            by_stage,
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "fivestage_queue_age_seconds",
            "Age of a query, by its record's timestamp, when it was taken up.",
            ("lane",),
            buckets=QUEUE_BUCKETS_S,
            registry=registry,
        )
        self._expired = Counter(
            "fivestage_expired_total",
            "Queries not started because their answer would have come too late.",
            ("lane", "reason"),
            registry=registry,
        )

    def _make_messaging_metrics(self) -> None:
        registry = self.registry
        consumer = ("messaging_system", "messaging_destination_name", "messaging_consumer_group_name")
        self._consumed = Counter(
            "messaging_client_consumed_messages_total", "Records received.", consumer, registry=registry
        ).labels("kafka", self._topic, self._group_id)
        self._process_duration = Histogram(
            "messaging_process_duration_seconds",
            "Time to process one record.",
            (*consumer, "messaging_operation_name", "error_type"),
            buckets=BUCKETS_S,
            registry=registry,
        )
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
        self._late_results = Counter(
            "fivestage_late_results_total",
            "Results dropped because their query had ended.",
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

    def concluded(self, lane: str, conclusion: Conclusion, queue_s: float) -> None:
        lane, within = self._lane(lane), "true" if conclusion.within_budget else "false"
        children = self._pipeline_children(lane, conclusion.status, within)
        duration, total, queue = children
        duration.observe(conclusion.duration_s)
        total.inc()
        queue.observe(queue_s)
        self._process_child(self._error_type(conclusion.error_type or "")).observe(conclusion.duration_s)
        for run in conclusion.runs:
            stage_duration, stage_total = self._stage_children(lane, run.spec.stage_type, run.outcome)
            stage_total.inc()
            if run.started_at is not None:
                stage_duration.observe(run.duration_s)

    def expired(self, lane: str, reason: TimeoutReason, queue_s: float) -> None:
        expired, total, queue = self._expired_children(self._lane(lane), reason)
        expired.inc()
        total.inc()
        queue.observe(queue_s)

    def unreadable(self, lane: str, reason: UnreadableReason, *, answered: bool) -> None:
        self._dead_letters.labels(reason).inc()
        if answered:
            self._pipeline_total.labels(self._lane(lane), "error", "false").inc()

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

    def came_late(self) -> None:
        self._late_results.inc()

    def clock_skewed(self) -> None:
        self._clock_skew.inc()

    def shed(self, lane: str, *, refused: bool) -> None:
        self._shed.labels(self._lane(lane), "refused" if refused else "observed").inc()

    def executor_replaced(self, reason: str) -> None:
        self._replaced.labels(reason).inc()

    def breaker_changed(self, lane: str, node: str, state: BreakerState) -> None:
        self._breaker_changes.labels(self._lane(lane), node, state).inc()

    def failed_over(self, lane: str, attempts: int) -> None:
        self._failovers.labels(self._lane(lane)).inc(attempts)

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
                return "other"
            self._lanes.add(lane)
        return lane

    # Children, resolved once

    @lru_cache(maxsize=1024)  # noqa: B019 - one Metrics a process
    def _pipeline_children(self, lane: str, status: str, within: str) -> tuple[Histogram, Counter, Histogram]:
        labels = (lane, status, within)
        return (
            self._pipeline_duration.labels(*labels),
            self._pipeline_total.labels(*labels),
            self._queue_seconds.labels(lane),
        )

    @lru_cache(maxsize=128)  # noqa: B019
    def _expired_children(self, lane: str, reason: str) -> tuple[Counter, Counter, Histogram]:
        total = self._pipeline_total.labels(lane, "expired", "false")
        return self._expired.labels(lane, reason), total, self._queue_seconds.labels(lane)

    @lru_cache(maxsize=4096)  # noqa: B019
    def _stage_children(self, lane: str, stage: str, outcome: str) -> tuple[Histogram, Counter]:
        labels = (lane, stage, outcome)
        return self._stage_duration.labels(*labels), self._stage_total.labels(*labels)

    @lru_cache(maxsize=256)  # noqa: B019
    def _process_child(self, error_type: str) -> Histogram:
        return self._process_duration.labels("kafka", self._topic, self._group_id, "process", error_type)

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
