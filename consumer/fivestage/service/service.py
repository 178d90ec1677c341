"""The service: settings to parts, parts to a running whole, and an orderly end.

Order of the end: fetch no more, let what is in flight finish, commit, leave the group, disconnect. Each
step is bounded, and so is the whole, of which each takes its share: what hangs is left behind, and what was
not committed is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import structlog

from fivestage._asyncio import cancel_all, ignore_result, wait_at_most
from fivestage.core.ledger import Ledger, numbers_of
from fivestage.errors import (
    BrokerError,
    ConfigurationError,
    DrainTimeoutError,
    FivestageError,
    InvalidAppError,
    PublishError,
)
from fivestage.executors import interpreter
from fivestage.executors.process.fork_requests import ForkTimeouts
from fivestage.kafka import topics
from fivestage.kafka.aiokafka_check import check_installed_aiokafka
from fivestage.kafka.connection.clients import Clients
from fivestage.kafka.connection.diagnosis import Diagnosis
from fivestage.kafka.durability import warn_of_loss
from fivestage.kafka.embedded_group import consumer_class
from fivestage.observability.build_info import COMPILED, __version__
from fivestage.observability.http_server import AdminServer
from fivestage.observability.logging import announce, described
from fivestage.observability.metrics import Metrics
from fivestage.observability.trace_provider import flush_provider
from fivestage.service.assembly import COMMIT_TIMEOUT_S, assemble
from fivestage.service.health import Health
from fivestage.service.shutdown import HardEnd, TimeLeft

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.core.ledger import PartitionKey
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.settings import Settings

REVOKE_DRAIN_S = 1.0
"""How long a rebalance waits for queries in flight at least, and ..."""
DRAIN_BEYOND_S = 0.75
"""... how much longer than a query may run, as long as the rebalance timeout allows."""
REVOKE_COMMIT_S = 2.0
"""With a commit under way that hangs (COMMIT_TIMEOUT_S) all this stays below kafka.rebalance_timeout_ms."""
REJOIN_S = 1.0
"""What is left of the rebalance timeout to join again."""
LAST_COMMIT_S = 2.0
AFTER_DRAIN_S = 4.0
"""What a drain leaves of the time for the end: to commit, and to disconnect."""
START_TIMEOUT_S = 18.0
EXECUTOR_STOP_S = 2.8
"""For cancelled nodes to clean up, and for resources to close."""
STEP_S = 3.0
"""How long a part may take to end."""

log = structlog.get_logger("fivestage.service.service")


class Service:
    """One member of the consumer group.

    Args:
        settings: Everything that can be set.
        app: The user's stages and nodes.
        app_path: Where worker processes import them from, ``MODULE:APP``; the built-in ones when None.
    """

    def __init__(self, settings: Settings, app: Pipeline, app_path: str | None = None) -> None:
        self.settings = settings
        self.app = app
        self.app_path = app_path
        self._ending = asyncio.Event()
        self._signalled = False
        self._failure: Exception | None = None
        self.admin_port: int | None = None
        self._limit_s = settings.shutdown.total_timeout_ms / 1000
        self._time = TimeLeft(self._limit_s)
        self.hard_end: HardEnd | None = None
        """Ends the process when the orderly end does not."""
        self.metrics = Metrics(topic=settings.topics.queries, group_id=settings.kafka.group_id)
        self.ledger = Ledger(max_span=settings.admission.max_uncommitted_span, flood=settings.dlq.policy())
        self.diagnosis = Diagnosis(settings.kafka)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, and end in order.

        Raises:
            ConfigurationError: something outside must be put right first.
            FivestageError: it cannot go on; the process should end and be started again.
        """
        self._listen_for_signals()
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        interpreter.share_the_interpreter()
        async with contextlib.AsyncExitStack() as stack:
            try:
                if await self._started_before_the_end(stack):
                    interpreter.freeze_gc()
                    await self._serve()
            except Exception as error:
                self._failure = self._failure or error
                raise
            finally:
                self._end_within_limit()  # also where no part has got as far as to ask for the end
        if self._failure is not None:
            raise self._failure

    def stop(self, failure: Exception | None = None) -> None:
        """Begin the orderly end; *failure* is raised by ``run`` when it is done."""
        if failure is not None and self._failure is None:
            self._failure = failure
            fields = {"error": str(failure)} if isinstance(failure, FivestageError) else described(failure)
            log.error("stopping", **{"error_type": type(failure).__name__, **fields})
        if not self._ending.is_set():
            self._ending.set()
            self._end_within_limit()

    def _end_within_limit(self) -> None:
        """From now on the process has so long to live, whatever hangs in it."""
        if self.hard_end is None:
            self._time.begin()
            self.hard_end = HardEnd(self._limit_s, lambda: max(1, exit_code(self._failure)))

    # Starting

    async def _started_before_the_end(self, stack: contextlib.AsyncExitStack) -> bool:
        """Start, unless a signal comes first; whether it was done."""
        starting = asyncio.ensure_future(self._start(stack))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait(
                {starting, ending}, timeout=self._start_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not starting.done() and not ending.done():
                raise ConfigurationError(
                    f"Kafka does not let this client in within {self._start_timeout_s:.0f} s: are all "
                    "brokers reachable at the addresses they advertise, and may this principal produce "
                    "idempotently?"
                )
        finally:
            ending.cancel()
            await cancel_all([starting], self._time.share(STEP_S))
        if self._ending.is_set() and (starting.cancelled() or not starting.done()):
            return False
        if starting.cancelled():
            raise BrokerError("the start was interrupted by the Kafka client")
        starting.result()
        return True

    @property
    def _start_timeout_s(self) -> float:
        executor = self.settings.executor
        loading_s = ForkTimeouts().load_s if executor.kind == "process" else 0.0
        opening_s = executor.start_timeout_ms / 1000 if self.app.resources else 0.0
        return START_TIMEOUT_S + loading_s + opening_s

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        check_installed_aiokafka()
        settings = self.settings
        if settings.topics.create:
            await topics.create(settings)
        found = await topics.check(settings)
        await warn_of_loss(settings, found)
        self.parts = parts = assemble(
            settings,
            self.app,
            app_path=self.app_path,
            metrics=self.metrics,
            ledger=self.ledger,
            largest_records=await topics.largest_records(settings),
            on_revoked=self._on_revoked,
            on_failure=self.stop,
            make_consumer=consumer_class(embedded=topics.is_embedded(found)),
            reach=self.diagnosis.reach,
        )
        await self._start_admin(stack)
        await parts.executor.start(parts.inner.running.finished)
        stack.push_async_callback(self._end_part, lambda: asyncio.to_thread(flush_provider), "traces")
        stack.push_async_callback(self._end_part, lambda: parts.executor.stop(EXECUTOR_STOP_S), "executor")
        stack.push_async_callback(self._end_part, parts.sink.stop, "producer")
        stack.push_async_callback(self._end_part, parts.source.stop, "consumer")
        await parts.sink.start()
        await parts.source.start()

    async def _start_admin(self, stack: contextlib.AsyncExitStack) -> None:
        admin = self.settings.admin
        if not admin.enabled:
            return
        server = AdminServer(
            host=admin.host,
            port=admin.port,
            live=self.parts.watch.live,
            ready=self._ready,
            registry=self.metrics.registry,
        )
        self.admin_port = await server.start()
        stack.push_async_callback(self._end_part, server.stop, "admin server")

    def _ready(self) -> Health:
        """What the watch says, and what has been found out about it."""
        health, cause = self.parts.watch.ready(), self.diagnosis.cause
        return health if health.ok or cause is None else Health(ok=False, reason=f"{health.reason}: {cause}")

    # Serving

    async def _serve(self) -> None:
        """Fetch, commit and watch until something ends it, then drain and commit."""
        fetching = asyncio.create_task(self.parts.inner.poller.run(self.parts.source), name="fetch")
        watching = asyncio.create_task(self.parts.watch.run(self._announce), name="watch")
        committing = asyncio.create_task(self.parts.committer.run(), name="commit")
        clients = Clients(self.settings.kafka, self.parts.source, self.parts.sink.producer)
        looking = self.diagnosis.run(self.parts.watch.is_cut_off, clients)
        diagnosing = asyncio.create_task(looking, name="diagnosis")
        for task in (fetching, watching, committing, diagnosing):
            task.add_done_callback(self._on_task_done)
        await self._ending.wait()
        await self._drain(fetching)
        for task in (watching, committing, diagnosing):
            task.cancel()

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            if not self._ending.is_set():
                self.stop(BrokerError(f"the {task.get_name()} task was cancelled by the Kafka client"))
        elif (error := task.exception()) is not None:
            self.stop(error if isinstance(error, Exception) else BrokerError(type(error).__name__))

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback of the bus is a bug of ours: end, rather than lose track of a query."""
        error = context.get("exception")
        log.error("unexpected error", **described(error))
        if "handle" in context:
            self.stop(BrokerError(f"internal error: {type(error).__name__}"))

    async def _drain(self, fetching: asyncio.Task[None]) -> None:
        """Let what is in flight finish, and commit it."""
        parts = self.parts
        parts.watch.draining = True
        parts.inner.poller.stop()
        parts.source.stop_rebuilding()
        log.info("draining", in_flight=parts.inner.dispatcher.in_flight)
        await asyncio.wait({fetching}, timeout=self._drain_s)  # never cancelled: see kafka/consumer/source.py
        drain_s = self._drain_s
        drained = isinstance(self._failure, PublishError) or await parts.inner.dispatcher.drain(drain_s)
        if not await self._commit_at_last():
            self.stop(BrokerError("what is finished could not be committed: it will be answered again"))
        if not drained:
            left = parts.inner.dispatcher.in_flight
            self.stop(DrainTimeoutError(f"{left} queries were still in flight after {drain_s:.0f} s"))

    @property
    def _drain_s(self) -> float:
        return self._time.share(self.settings.shutdown.drain_timeout_ms / 1000, leaving_s=AFTER_DRAIN_S)

    async def _commit_at_last(self) -> bool:
        """Commit, and once more when it fails: a rebalance may just be ending."""
        return await self._commit_within_share() or await self._commit_within_share()

    async def _commit_within_share(self) -> bool:
        limit_s = self._time.share(LAST_COMMIT_S)
        try:  # it also waits for a commit that is under way
            task = await wait_at_most(limit_s, self.parts.committer.commit(limit_s))
            return task.done() and task.result()
        except FivestageError:
            return False

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

    async def _on_revoked(self, keys: frozenset[PartitionKey]) -> None:
        """Finish and commit what is in flight on partitions that are being taken away."""
        drained = await self.parts.inner.dispatcher.drain(revoke_drain_s(self.settings), keys)
        committed = await self.parts.committer.commit(REVOKE_COMMIT_S)
        left = self.ledger.in_flight(keys)
        log.info("revoked", partitions=numbers_of(keys), drained=drained, committed=committed, abandoned=left)

    # Ending

    async def _end_part(self, step: Callable[[], Awaitable[None]], name: str) -> None:
        """Stop one part; log it if that hangs or fails, and go on with the next."""
        limit_s = self._time.share(STEP_S)
        task = asyncio.ensure_future(step())
        task.add_done_callback(ignore_result)
        await asyncio.wait({task}, timeout=limit_s)
        if not task.done():  # not cancelled: it may still leave the group, or close a resource
            log.warning("left behind", part=name, after_s=round(limit_s, 3))
        elif not task.cancelled() and (error := task.exception()) is not None:
            log.warning("ended badly", part=name, **described(error))

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._signalled:  # asked twice: at once
            os._exit(1)
        self._signalled = True
        self.stop()


def revoke_drain_s(settings: Settings) -> float:
    """How long a rebalance waits for queries in flight: as long as they may run, within its timeout."""
    rebalance_s = settings.kafka.rebalance_timeout_ms / 1000
    most_s = rebalance_s - COMMIT_TIMEOUT_S - REVOKE_COMMIT_S - REJOIN_S
    wanted_s = settings.pipeline.total_timeout_ms / 1000 + DRAIN_BEYOND_S
    return max(REVOKE_DRAIN_S, min(wanted_s, most_s))


def exit_code(failure: Exception | None) -> int:
    """0 for none, 2 where something must be put right first, 1 for everything else."""
    if failure is None:
        return 0
    return 2 if isinstance(failure, ConfigurationError | InvalidAppError) else 1


def run(settings: Settings, app: Pipeline, app_path: str | None = None) -> int:
    """Run a service in this process until it ends; return the exit code.

    0 after SIGTERM or SIGINT and a complete drain, 1 when Kafka or the drain failed, 2 when something must
    be put right first. The caller should end the process with ``os._exit``: a node's stuck thread or a
    client's hung task must not keep it alive.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    service = Service(settings, app, app_path)
    try:
        return loop.run_until_complete(_main(service))
    finally:
        for stream in (sys.stdout, sys.stderr):  # nodes may print
            with contextlib.suppress(OSError, ValueError):  # full, closed, or without a reader
                stream.flush()
        if service.hard_end is not None:
            service.hard_end.cancel()


async def _main(service: Service) -> int:
    failure: Exception | None = None
    try:
        await service.run()
    except (ConfigurationError, InvalidAppError) as error:
        failure = error
        log.error("cannot run", error=str(error))  # noqa: TRY400 - one line, no traceback
    except FivestageError as error:
        failure = error
        log.error("ended", error_type=type(error).__name__, error=str(error))  # noqa: TRY400
    except Exception as error:  # noqa: BLE001 - a bug: logged without its text, which may hold a query
        failure = error
        log.error("ended", **described(error))  # noqa: TRY400
    return exit_code(failure)
