"""From settings to parts: what the service is made of, and what is measured of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.codec.encode import Encoder
from fivestage.core.records import Output
from fivestage.dispatch.build import Inner, wire
from fivestage.executors import Executor, ProcessExecutor, ThreadExecutor
from fivestage.executors.process.fork_requests import ForkTimeouts
from fivestage.kafka.consumer.committer import Committer
from fivestage.kafka.consumer.group_member import GroupMember
from fivestage.kafka.producer.sink import Sink
from fivestage.observability.logging import level_name
from fivestage.observability.trace_provider import make_provider
from fivestage.observability.tracing import Tracing
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.service.health import HealthMonitor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fivestage.core.adaptive.lane_state import LearnedState
    from fivestage.core.ledger import Ledger, PartitionKey
    from fivestage.core.observer import Observer
    from fivestage.core.reachability import Reachability
    from fivestage.core.routing_snapshot import NodeRouting
    from fivestage.kafka.consumer.source import MakeConsumer
    from fivestage.observability.metrics import Metrics
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.settings import Settings

COMMIT_TIMEOUT_S = 5.0
BREAKER_VALUES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
PARTITION_LABELS = ("topic", "partition")


class Parts(NamedTuple):
    """The parts of a service, made and not yet started."""

    source: GroupMember
    inner: Inner
    executor: Executor
    sink: Sink
    committer: Committer
    watch: HealthMonitor


def assemble(
    settings: Settings,
    app: Pipeline,
    *,
    app_path: str | None,
    metrics: Metrics,
    ledger: Ledger,
    largest_records: Mapping[Output, int],
    on_revoked: Callable[[frozenset[PartitionKey]], Awaitable[None]],
    on_failure: Callable[[Exception], None],
    make_consumer: MakeConsumer,
    reach: Reachability,
) -> Parts:
    """Make the parts and introduce them to each other.

    Args:
        settings: Everything that can be set.
        app: The user's stages and nodes.
        app_path: Where worker processes import them from, ``MODULE:APP``; the built-in ones when None.
        metrics: The observer of all of them.
        ledger: Shared by source, dispatcher and committer.
        largest_records: What each output topic takes, in bytes.
        on_revoked: See Source.
        on_failure: See Sink.
        make_consumer: See Source.
        reach: Whether brokers can be reached.

    Raises:
        ConfigurationError: the exporter of traces that the environment asks for is not installed.
    """
    executor = _executor(settings, app, app_path, metrics, largest_event=_largest_event(largest_records))
    largest = min(largest_records.values())
    sink = Sink(settings, metrics, on_failure, max_record_bytes=largest, reach=reach)
    inner = wire(
        settings,
        ledger=ledger,
        encoder=_encoder(settings, largest_records),
        executor=executor,
        sink=sink,
        observer=metrics,
        tracing=_tracing(settings),
    )
    source = GroupMember(
        settings,
        ledger,
        on_revoked,
        metrics,
        on_unanswered=sink.producer.close_idle_connections,
        make_consumer=make_consumer,
        reach=reach,
    )
    interval_s = settings.kafka.commit_interval_ms / 1000
    committer = Committer(source, ledger, metrics, interval_s=interval_s, timeout_s=COMMIT_TIMEOUT_S)
    watch = HealthMonitor(
        source=source,
        dispatcher=inner.dispatcher,
        executor=executor,
        sink=sink,
        publish_timeout_s=settings.kafka.publish_timeout_ms / 1000,
        max_abandoned=settings.executor.max_abandoned,
        reach=reach,
    )
    parts = Parts(source, inner, executor, sink, committer, watch)
    _add_gauges(metrics, parts, ledger)
    return parts


def _executor(
    settings: Settings, app: Pipeline, app_path: str | None, observer: Observer, *, largest_event: int
) -> Executor:
    executor, plan = settings.executor, settings.pipeline.plan()
    stall_s = executor.stall_ms / 1000
    if executor.kind == "process":
        return ProcessExecutor(
            app_path,
            plan,
            workers=executor.workers,
            threads=executor.threads,
            observer=observer,
            stall_s=stall_s,
            spares=executor.spares,
            max_data_bytes=largest_event,
            timeouts=ForkTimeouts(open_s=executor.start_timeout_ms / 1000),
            setup=("fivestage.observability.logging:configure", level_name(), *_show_text(settings)),
        )
    orchestrator = Orchestrator(
        app,
        plan=plan,
        threads=executor.threads,
        max_data_bytes=largest_event,
        start_timeout_ms=executor.start_timeout_ms,
    )
    return ThreadExecutor(orchestrator, observer=observer, stall_s=stall_s, spares=executor.spares)


def _show_text(settings: Settings) -> tuple[str, ...]:
    """What is said to ``configure`` in worker processes, which takes texts."""
    return ("show_text",) if settings.logging.show_text else ()


def _encoder(settings: Settings, largest_records: Mapping[Output, int]) -> Encoder:
    return Encoder(
        source=f"/fivestage/{settings.kafka.group_id}",
        max_record_bytes=_largest_event(largest_records),
        max_dead_letter_bytes=largest_records[Output.DEAD_LETTERS],
    )


def _largest_event(largest_records: Mapping[Output, int]) -> int:
    """The largest event that all topics of events take."""
    return min(size for output, size in largest_records.items() if output is not Output.DEAD_LETTERS)


def _tracing(settings: Settings) -> Tracing:
    return Tracing(
        results_topic=settings.topics.results,
        group_id=settings.kafka.group_id,
        provider=make_provider(settings.tracing.sample_ratio),
    )


def _add_gauges(metrics: Metrics, parts: Parts, ledger: Ledger) -> None:
    """Add what is read when it is scraped."""
    source, inner, executor, _, _, watch = parts
    dispatcher = inner.dispatcher
    metrics.gauge("in_flight", "Queries that run.", lambda: dispatcher.running)
    metrics.gauge("concurrency_limit", "How many may run; learned.", lambda: inner.slots.limit)
    metrics.gauge("waiting", "Records taken in that wait for a slot or thread.", lambda: dispatcher.waiting)
    metrics.gauge("unfinished", "Records taken in and not acknowledged yet.", lambda: dispatcher.in_flight)
    metrics.gauge("abandoned_tasks", "Stages that run on after their end.", lambda: len(executor.abandoned()))
    metrics.gauges(
        "event_loop_lag_seconds",
        "How late a loop came to its last check.",
        ("loop",),
        lambda: [(("bus",), watch.bus_lag_s), (("executor",), executor.lag_s)],
    )
    metrics.gauges(
        "lag",
        "Records not handed over yet.",
        PARTITION_LABELS,
        lambda: [(_labels(key), lag) for key, lag in source.lag().items()],
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
    _add_lane_gauges(metrics, inner.learned)


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
