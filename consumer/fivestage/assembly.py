"""From settings to parts: what the service is made of, and what is measured of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fivestage.bus.committer import Committer
from fivestage.bus.sink import Sink
from fivestage.bus.source import Source
from fivestage.core.decode import DecodeLimits
from fivestage.core.encode import Encoder
from fivestage.core.records import Output
from fivestage.dispatcher import Dispatcher
from fivestage.executors import InlineExecutor, ThreadExecutor
from fivestage.orchestrator import Orchestrator
from fivestage.telemetry.tracing import Tracing, make_provider
from fivestage.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fivestage.app import Pipeline
    from fivestage.core.ledger import Ledger, PartitionKey
    from fivestage.executors import Executor
    from fivestage.settings import Settings
    from fivestage.telemetry.metrics import Metrics

COMMIT_TIMEOUT_S = 5.0


class Parts(NamedTuple):
    """The parts of a service, made and not yet started."""

    source: Source
    dispatcher: Dispatcher
    executor: Executor
    sink: Sink
    committer: Committer
    watch: Watch


def assemble(
    settings: Settings,
    app: Pipeline,
    *,
    metrics: Metrics,
    ledger: Ledger,
    largest_records: Mapping[Output, int],
    on_revoked: Callable[[frozenset[PartitionKey]], Awaitable[None]],
    on_failure: Callable[[Exception], None],
) -> Parts:
    """Make the parts and introduce them to each other.

    Args:
        settings: Everything that can be set.
        app: The user's stages and nodes.
        metrics: The observer of all of them.
        ledger: Shared by source, dispatcher and committer.
        largest_records: What each output topic takes, in bytes.
        on_revoked: See Source.
        on_failure: See Sink.

    Raises:
        ConfigurationError: the exporter of traces that the environment asks for is not installed.
    """
    executor = _executor(settings, app)
    sink = Sink(settings, metrics, on_failure, max_record_bytes=min(largest_records.values()))
    dispatcher = Dispatcher(
        plan=settings.pipeline.plan(),
        admission=settings.admission,
        limits=DecodeLimits(settings.lane, settings.lanes, settings.admission.max_value_bytes),
        ledger=ledger,
        encoder=_encoder(settings, largest_records),
        executor=executor,
        sink=sink,
        observer=metrics,
        tracing=_tracing(settings),
    )
    source = Source(settings, ledger, on_revoked, metrics)
    interval_s = settings.kafka.commit_interval_ms / 1000
    committer = Committer(source.consumer, ledger, metrics, interval_s=interval_s, timeout_s=COMMIT_TIMEOUT_S)
    watch = Watch(
        source=source,
        dispatcher=dispatcher,
        executor=executor,
        sink=sink,
        publish_timeout_s=settings.kafka.publish_timeout_ms / 1000,
        # With every thread stuck no blocking node runs any more, however many may be abandoned.
        max_abandoned=min(settings.executor.max_abandoned, settings.executor.threads - 1),
    )
    parts = Parts(source, dispatcher, executor, sink, committer, watch)
    _add_gauges(metrics, parts, ledger, settings.admission.max_in_flight)
    return parts


def _executor(settings: Settings, app: Pipeline) -> Executor:
    orchestrator = Orchestrator(app, plan=settings.pipeline.plan(), threads=settings.executor.threads)
    if settings.executor.kind == "inline":
        return InlineExecutor(orchestrator)
    return ThreadExecutor(orchestrator)


def _encoder(settings: Settings, largest_records: Mapping[Output, int]) -> Encoder:
    events = [size for output, size in largest_records.items() if output is not Output.DEAD_LETTERS]
    return Encoder(
        source=f"/fivestage/{settings.kafka.group_id}",
        max_record_bytes=min(events),
        max_dead_letter_bytes=largest_records[Output.DEAD_LETTERS],
    )


def _tracing(settings: Settings) -> Tracing:
    return Tracing(
        topic=settings.topics.queries,
        results_topic=settings.topics.results,
        group_id=settings.kafka.group_id,
        provider=make_provider(settings.tracing.sample_ratio),
    )


def _add_gauges(metrics: Metrics, parts: Parts, ledger: Ledger, max_in_flight: int) -> None:
    """Add what is read when it is scraped."""
    source, dispatcher, executor, _, _, watch = parts
    metrics.gauge("in_flight", "Records between dispatch and acknowledgement.", lambda: dispatcher.in_flight)
    metrics.gauge("concurrency_limit", "How many may be in flight.", lambda: max_in_flight)
    metrics.gauge("abandoned_tasks", "Stages that run on after their end.", lambda: executor.abandoned)
    metrics.gauges(
        "event_loop_lag_seconds",
        "How late a loop came to its last check.",
        "loop",
        lambda: [("bus", watch.bus_lag_s), ("executor", executor.last_lag_s)],
    )
    metrics.gauges(
        "lag",
        "Records not handed over yet.",
        "partition",
        lambda: [(str(key.partition), lag) for key, lag in source.lag().items()],
    )
    metrics.gauges(
        "uncommitted_span",
        "Offsets between the commit position and the newest record.",
        "partition",
        lambda: [(str(key.partition), book.span) for key, book in list(ledger.books.items())],
    )
