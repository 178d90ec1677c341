"""One member of the consumer group: starts all parts, runs them, and shuts them down in order.

Shutdown: stop polling, finish records in flight, commit, leave the group, disconnect. Each step has a
timeout, and all share one limit, see ``shutdown``: a step that hangs is abandoned, and uncommitted records
are read again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import structlog

from fivestage._asyncio import cancel_all
from fivestage.core.ledger import Ledger, numbers_of
from fivestage.core.observer import fan_out
from fivestage.errors import BrokerError, ConfigurationError, PublishError
from fivestage.executors import interpreter
from fivestage.kafka import topics
from fivestage.kafka.aiokafka_check import check_installed_aiokafka
from fivestage.kafka.connection.clients import Clients
from fivestage.kafka.connection.diagnosis import Diagnosis
from fivestage.kafka.durability import warn_of_loss
from fivestage.kafka.embedded_group import consumer_class
from fivestage.kafka.topic_info import is_embedded
from fivestage.observability.build_info import COMPILED, __version__
from fivestage.observability.gauges import add_gauges
from fivestage.observability.log_line import described
from fivestage.observability.logging import announce
from fivestage.observability.metrics import Metrics
from fivestage.observability.status.readings import Readings
from fivestage.observability.status.recorder import StatusRecorder
from fivestage.observability.trace_provider import flush_provider
from fivestage.service.admin import Admin
from fivestage.service.assembly import assemble, start_timeout_s
from fivestage.service.drain import drain_all, drain_revoked
from fivestage.service.health import Health
from fivestage.service.reload import reload_steps
from fivestage.service.shutdown import STEP_S, Shutdown

if TYPE_CHECKING:
    from fivestage.core.ledger import PartitionKey
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.service.reload import Reloading
    from fivestage.settings import Settings

EXECUTOR_STOP_S = 2.8
"""Seconds for cancelled nodes to clean up, and for resources to close."""

log = structlog.get_logger("fivestage.service")


class Service:
    """Runs a pipeline as a member of the consumer group.

    Args:
        settings: All settings.
        app: The user's stages and nodes.
        app_path: Where worker processes import the app from, ``MODULE:APP``; the built-in one when None.
        reloading: How the app is reloaded when its files change; None = it is not.
    """

    def __init__(
        self,
        settings: Settings,
        app: Pipeline,
        app_path: str | None = None,
        reloading: Reloading | None = None,
    ) -> None:
        self.settings = settings
        self.app, self.app_path = app, app_path
        self.reloading = reloading
        self.shutdown = Shutdown(settings.shutdown.total_timeout_ms / 1000)
        self.admin_port: int | None = None
        self.metrics = Metrics(
            topic=settings.topics.queries,
            group_id=settings.kafka.group_id,
            lanes=settings.lanes or (settings.lane,),
            nodes=app.nodes,
            budget_s=settings.pipeline.total_timeout_ms / 1000,
        )
        self.ledger = Ledger(
            max_span=settings.admission.max_uncommitted_span, halt_policy=settings.dlq.policy()
        )
        self.diagnosis = Diagnosis(settings.kafka)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, and shut down in order.

        Raises:
            ConfigurationError: something outside the process must be corrected first.
            FivestageError: the service cannot continue, or the shutdown was incomplete.
        """
        self.shutdown.listen_for_signals()
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        interpreter.share_the_interpreter()
        async with contextlib.AsyncExitStack() as stack:
            try:
                if await self._started_before_the_end(stack):
                    interpreter.freeze_gc()
                    await self._serve()
            except Exception as error:
                self.shutdown.failure = self.shutdown.failure or error
                raise
            finally:
                self.shutdown.start_limit()  # after a failure nothing has called begin()
        if self.shutdown.failure is not None:
            raise self.shutdown.failure

    # Starting

    async def _started_before_the_end(self, stack: contextlib.AsyncExitStack) -> bool:
        """Start the parts; return False if the shutdown began before the start was complete.

        Raises:
            ConfigurationError: the start took too long, or something must be corrected first.
            FivestageError: the start failed.
        """
        limit_s = start_timeout_s(self.settings, self.app)
        starting = asyncio.ensure_future(self._start(stack))
        ending = asyncio.ensure_future(self.shutdown.ending.wait())
        try:
            await asyncio.wait({starting, ending}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done() and not ending.done():
                raise ConfigurationError(
                    f"the start was not complete within {limit_s:.0f} s: are all "
                    "brokers reachable at the addresses they advertise, and may this principal produce "
                    "idempotently?"
                )
        finally:
            ending.cancel()
            await cancel_all([starting], self.shutdown.time_left.share(STEP_S))
        if self.shutdown.ending.is_set() and (starting.cancelled() or not starting.done()):
            return False
        if starting.cancelled():
            raise BrokerError("the start was interrupted by the Kafka client")
        starting.result()
        return True

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        check_installed_aiokafka()
        settings = self.settings
        settings.for_nodes(self.app)  # raises before anything is connected
        if settings.topics.create:
            await topics.create(settings)
        found = await topics.check(settings)
        await warn_of_loss(settings, found)
        recorder = StatusRecorder(show_text=settings.admin.show_text)
        self.parts = parts = assemble(
            settings,
            self.app,
            app_path=self.app_path,
            observer=fan_out(self.metrics, recorder) if settings.admin.enabled else self.metrics,
            ledger=self.ledger,
            largest_records=await topics.largest_records(settings),
            on_revoked=self._on_revoked,
            on_failure=self.shutdown.begin,
            make_consumer=consumer_class(embedded=is_embedded(found)),
            reach=self.diagnosis.reach,
            reloads=self.reloading is not None,
        )
        self._add_gauges()
        await self._start_admin(stack, recorder)
        await parts.executor.start(parts.dispatcher.active.finished)
        end_part = self.shutdown.end_part
        stack.push_async_callback(end_part, lambda: asyncio.to_thread(flush_provider), "traces")
        stack.push_async_callback(end_part, lambda: parts.executor.stop(EXECUTOR_STOP_S), "executor")
        stack.push_async_callback(end_part, parts.sink.stop, "producer")
        stack.push_async_callback(end_part, parts.member.stop, "consumer")
        await parts.sink.start()
        await parts.member.start()

    def _add_gauges(self) -> None:
        parts = self.parts
        add_gauges(
            self.metrics,
            dispatcher=parts.dispatcher,
            executor=parts.executor,
            ledger=self.ledger,
            lag=parts.member.lag,
            bus_lag_s=lambda: parts.health.bus_lag_s,
            is_ready=lambda: parts.health.is_ready,
        )

    async def _start_admin(self, stack: contextlib.AsyncExitStack, recorder: StatusRecorder) -> None:
        settings, parts = self.settings, self.parts
        if not settings.admin.enabled:
            return
        readings = Readings(
            settings=settings,
            recorder=recorder,
            dispatcher=parts.dispatcher,
            executor=parts.executor,
            ledger=self.ledger,
            health=parts.health,
            ready=self._ready,
            lags=parts.member.lag,
        )
        admin = Admin(settings.admin, readings, registry=self.metrics.registry)
        self.admin_port = await admin.start()
        stack.push_async_callback(self.shutdown.end_part, admin.stop, "admin server")

    def _ready(self) -> Health:
        """Return the readiness; if not ready, with the cause that the diagnosis has found."""
        health, cause = self.parts.health.ready(), self.diagnosis.cause
        return health if health.ok or cause is None else Health(ok=False, reason=f"{health.reason}: {cause}")

    # Serving

    async def _serve(self) -> None:
        """Poll, commit and monitor until the service is stopped; then drain."""
        parts = self.parts
        clients = Clients(self.settings.kafka, parts.member, parts.sink.producer)
        steps = {
            "fetch": parts.poller.run(parts.member),
            "watch": parts.health.run(self._announce),
            "commit": parts.committer.run(),
            "diagnosis": self.diagnosis.run(parts.health.is_cut_off, clients),
            **reload_steps(self.reloading, parts, self.settings, self.app, self.app_path),
        }
        fetching, *others = [asyncio.create_task(step, name=name) for name, step in steps.items()]
        for task in (fetching, *others):
            task.add_done_callback(self._on_task_done)
        await self.shutdown.ending.wait()
        failures = await drain_all(
            parts,
            fetching,
            self.shutdown.time_left,
            self.settings.shutdown.drain_timeout_ms / 1000,
            can_publish=lambda: not isinstance(self.shutdown.failure, PublishError),
        )
        for failure in failures:
            self.shutdown.begin(failure)
        for task in others:
            task.cancel()

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            if not self.shutdown.ending.is_set():
                self.shutdown.begin(
                    BrokerError(f"the {task.get_name()} task was cancelled by the Kafka client")
                )
        elif (error := task.exception()) is not None:
            self.shutdown.begin(error if isinstance(error, Exception) else BrokerError(type(error).__name__))

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an unexpected error; after one in a callback stop, as a query might never be answered."""
        error = context.get("exception")
        log.error("unexpected error", **described(error))
        if "handle" in context:
            self.shutdown.begin(BrokerError(f"internal error: {type(error).__name__}"))

    def _announce(self) -> None:
        announce(
            "ready",
            version=__version__,
            compiled=COMPILED,
            group=self.settings.kafka.group_id,
            partitions=numbers_of(self.ledger.partitions),
            admin_port=self.admin_port,
            nodes=sorted(self.app.nodes),
        )
        if self.reloading is not None:
            self.reloading.on_ready(self.admin_port)

    async def _on_revoked(self, keys: frozenset[PartitionKey]) -> None:
        await drain_revoked(self.settings, self.parts, self.ledger, keys)
