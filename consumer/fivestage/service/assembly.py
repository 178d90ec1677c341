"""Makes the parts of the service from its settings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from fivestage.core.codec.encode import Encoder
from fivestage.dispatch.build import build
from fivestage.dispatch.dispatcher import Dispatcher
from fivestage.dispatch.poller import Poller
from fivestage.executors import Executor, ProcessExecutor, ThreadExecutor
from fivestage.executors.process.executor import Setup
from fivestage.executors.process.fork_requests import ForkTimeouts
from fivestage.executors.reloadable import ReloadableExecutor
from fivestage.kafka.consumer.committer import Committer
from fivestage.kafka.consumer.group_member import GroupMember
from fivestage.kafka.producer.sink import Sink
from fivestage.observability.logging import level_name
from fivestage.observability.trace_provider import exports_spans, make_provider
from fivestage.observability.tracing import Tracing
from fivestage.pipeline.failure_log import failure_log
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.pipeline.settings import unmasked
from fivestage.service.health import HealthMonitor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.core.ledger import Ledger, PartitionKey
    from fivestage.core.observer import Observer
    from fivestage.core.reachability import Reachability
    from fivestage.kafka.consumer.source import MakeConsumer
    from fivestage.kafka.topics import RecordSizes
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.settings import Settings

COMMIT_TIMEOUT_S = 5.0
START_TIMEOUT_S = 18.0
"""Seconds for the start, without the import of the app in worker processes and the opening of resources."""


class Parts(NamedTuple):
    """The parts of a service, made and not yet started; a record passes them in this order."""

    member: GroupMember
    poller: Poller
    dispatcher: Dispatcher
    executor: Executor
    sink: Sink
    committer: Committer
    health: HealthMonitor


def assemble(  # noqa: PLR0913 - by keyword
    settings: Settings,
    app: Pipeline,
    *,
    app_path: str | None,
    observer: Observer,
    ledger: Ledger,
    largest_records: RecordSizes,
    on_revoked: Callable[[frozenset[PartitionKey]], Awaitable[None]],
    on_failure: Callable[[Exception], None],
    make_consumer: MakeConsumer,
    reach: Reachability,
    reloads: bool = False,
) -> Parts:
    """Make the parts.

    Args:
        settings: All settings.
        app: The user's stages and nodes.
        app_path: Where worker processes import the app from, ``MODULE:APP``; the built-in one when None.
        observer: The observer of all parts.
        ledger: Shared by member, dispatcher and committer.
        largest_records: What the output topics accept.
        on_revoked: See Source.
        on_failure: See Sink.
        make_consumer: See Source.
        reach: Whether brokers can be reached.
        reloads: The app can be replaced while it runs: the executor is a ReloadableExecutor.

    Raises:
        ConfigurationError: OTEL_TRACES_EXPORTER is unknown, or its exporter is not installed.
    """
    make = partial(_executor, app_path=app_path, observer=observer, largest_event=largest_records.events)
    executor = ReloadableExecutor(make, settings, app) if reloads else make(settings, app)
    sink = Sink(settings, observer, on_failure, max_record_bytes=min(largest_records), reach=reach)
    poller, dispatcher = build(
        settings,
        ledger=ledger,
        encoder=_encoder(settings, largest_records),
        executor=executor,
        sink=sink,
        observer=observer,
        tracing=_tracing(settings),
    )
    member = GroupMember(
        settings,
        ledger,
        on_revoked,
        observer,
        on_unanswered=sink.producer.close_idle_connections,
        make_consumer=make_consumer,
        reach=reach,
    )
    interval_s = settings.kafka.commit_interval_ms / 1000
    committer = Committer(member, ledger, observer, interval_s=interval_s, timeout_s=COMMIT_TIMEOUT_S)
    health = HealthMonitor(
        member=member,
        progress=dispatcher.progress,
        total_s=settings.pipeline.total_timeout_ms / 1000,
        executor=executor,
        sink=sink,
        publish_timeout_s=settings.kafka.publish_timeout_ms / 1000,
        max_abandoned=settings.executor.max_abandoned,
        reach=reach,
    )
    return Parts(member, poller, dispatcher, executor, sink, committer, health)


def _executor(
    settings: Settings, app: Pipeline, *, app_path: str | None, observer: Observer, largest_event: int
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
            nodes=unmasked(settings.nodes),
            deadline_header=settings.outbound.deadline_header,
            setup=Setup(
                # Both are called with texts as arguments.
                (
                    "fivestage.observability.logging:configure",
                    level_name(),
                    "show_text" if failure_log.shows_text else "",
                    settings.logging.format,
                    "show_frames" if failure_log.shows_frames else "",
                ),
                _worker_tracing(settings) if exports_spans() else (),
            ),
        )
    orchestrator = Orchestrator(
        app,
        plan=plan,
        threads=executor.threads,
        max_data_bytes=largest_event,
        start_timeout_ms=executor.start_timeout_ms,
        nodes=settings.for_nodes(app),
        deadline_header=settings.outbound.deadline_header,
    )
    return ThreadExecutor(orchestrator, observer=observer, stall_s=stall_s, spares=executor.spares)


def _worker_tracing(settings: Settings) -> tuple[str, ...]:
    return "fivestage.observability.trace_provider:prepare_workers", str(settings.tracing.sample_ratio)


def _encoder(settings: Settings, largest_records: RecordSizes) -> Encoder:
    return Encoder(
        source=f"/fivestage/{settings.kafka.group_id}",
        max_record_bytes=largest_records.events,
        max_dead_letter_bytes=largest_records.dead_letters,
    )


def _tracing(settings: Settings) -> Tracing:
    return Tracing(
        results_topic=settings.topics.results,
        group_id=settings.kafka.group_id,
        provider=make_provider(settings.tracing.sample_ratio),
        show_text=settings.logging.show_text,
    )


def start_timeout_s(settings: Settings, app: Pipeline) -> float:
    """Return the seconds that the start of all parts may take."""
    loading_s = ForkTimeouts().load_s if settings.executor.kind == "process" else 0.0
    opening_s = settings.executor.start_timeout_ms / 1000 if app.resources else 0.0
    return START_TIMEOUT_S + loading_s + opening_s
