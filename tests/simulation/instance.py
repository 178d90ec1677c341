"""One instance of the service: the real parts on simulated clients."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from opentelemetry.sdk.resources import Resource

from fivestage.core.admission.gate import Gate
from fivestage.core.codec.encode import Encoder
from fivestage.core.observer import Observer
from fivestage.core.reachability import Reachability
from fivestage.dispatch.build import build
from fivestage.errors import FivestageError
from fivestage.kafka.consumer.committer import Committer
from fivestage.kafka.consumer.group_member import GroupMember
from fivestage.kafka.producer.sink import Sink
from fivestage.observability.metrics import Metrics
from fivestage.observability.sampling import EarlySampling, Provider
from fivestage.observability.tracing import Tracing
from fivestage.pipeline.pipeline import Pipeline
from fivestage.service import service
from fivestage.service.assembly import COMMIT_TIMEOUT_S, Parts
from fivestage.service.health import HealthMonitor
from fivestage.service.service import Service
from fivestage.service.shutdown import Shutdown, exit_code

from .consumer import SimConsumer
from .executor import SimExecutor
from .producer import SimProducer
from .questions import WALL_AT_START
from .values import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.ledger import PartitionKey
    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.records import CorruptRecord, Record
    from fivestage.settings import Settings

    from .cluster import Cluster
    from .executor import Manners

SLACK_S = 0.001
"""How far a query may exceed its budget, in a loop that is never busy."""
SOURCE = "/simulation"
PROVIDER = Provider(EarlySampling(0.5), resource=Resource.get_empty(), shutdown_on_exit=False)
"""Gives every run of a query a new trace."""
APP = Pipeline()
METRICS = Metrics(topic="queries", group_id="simulation")
"""Shared by all instances: creating them takes a tenth of a seed's time, and they are not checked."""


class _Checks(Observer):
    """Checks every query that ends."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def concluded(self, query: Envelope, outcome: QueryOutcome, text: str) -> None:  # noqa: ARG002
        """Check that it had at most its budget, unless its process was stopped meanwhile."""
        instance = self._instance
        late = outcome.duration_s > outcome.budget_s + SLACK_S
        if late and instance.cluster.process.continued_at < outcome.started_at:
            instance.cluster.trace.violated("in time", outcome.duration_s, outcome.budget_s)
        running, most = instance.parts.dispatcher.slots.running, instance.settings.admission.max_in_flight
        if running > most:
            instance.cluster.trace.violated("no more run than may", running, most)

    def commit_failed(self, error_type: str) -> None:
        """For the trace."""
        self._instance.note("commit failed", error_type)

    def client_rebuilt(self, client: str, reason: str) -> None:
        """For the trace."""
        self._instance.note(f"{client} rebuilt", reason)


class _CheckedMember(GroupMember):
    """Checks the requested and returned numbers of records."""

    instance: Instance

    async def fetch(self, max_records: int) -> Sequence[Record | CorruptRecord]:
        """Check that a fetch neither requests nor returns more than there is room for."""
        trace, back_pressure = self.instance.cluster.trace, self.instance.parts.poller.back_pressure
        self.instance.note_halts()
        if max_records > max(1, self.instance.max_taken_in - back_pressure.unfinished):
            trace.violated("no more is asked for than may", back_pressure.unfinished, max_records)
        fetched = await super().fetch(max_records)
        if len(fetched) > max_records:
            trace.violated("no more comes than was asked for", len(fetched), max_records)
        return fetched


class _NoDiagnosis:
    """A diagnosis of unreachable brokers that does nothing."""

    cause = None

    async def run(self, _is_cut_off: object, _clients: object) -> None:
        """Wait until the end."""
        await asyncio.get_running_loop().create_future()


class _Shutdown(Shutdown):
    """Ends the simulated process at the limit, not this one."""

    def __init__(self, limit_s: float, end: Callable[[float], None]) -> None:
        super().__init__(limit_s)
        self._end = end

    def _arm(self) -> Any:
        return asyncio.get_running_loop().call_later(self._limit_s, self._end, self._limit_s)


class Instance(Service):
    """An instance of the service as group member.

    Args:
        settings: Of the service.
        cluster: The cluster, seen from the instance's process.
        manners: The probabilities of its queries.
        max_taken_in: The number of unfinished records at which the source is paused.
    """

    def __init__(self, settings: Settings, cluster: Cluster, manners: Manners, *, max_taken_in: int) -> None:
        with patch.object(service, "Metrics", lambda **_: METRICS):
            super().__init__(settings, APP)
        self.cluster = cluster
        self._manners = manners
        self.max_taken_in = max_taken_in
        self.code: int | None = None
        """The error that the process ended with; None while it runs, or after a kill."""
        self.error: Exception | None = None
        self._halted: set[int] = set()
        self.diagnosis = cast("Any", _NoDiagnosis())
        self.shutdown = _Shutdown(settings.shutdown.total_timeout_ms / 1000, self._end_hard)
        self.stack = contextlib.AsyncExitStack()
        self.was_asked = self.started = False
        """It was asked to end; it has got as far as serving."""
        self.exited: asyncio.Future[None] = cluster.network.loop.create_future()

    def note(self, what: str, *details: object) -> None:
        """For the trace."""
        self.cluster.trace.add(self.cluster.process.name, what, *details)

    def note_halts(self) -> None:
        """Trace and count halted partitions."""
        halted = {key.partition for key in self.ledger.halted()}
        for partition in halted - self._halted:
            self.note("partition halted", partition)
        self._halted = halted

    async def _on_revoked(self, keys: frozenset[PartitionKey]) -> None:
        books = [self.ledger.partitions[key] for key in keys if key in self.ledger.partitions]
        before = sum(offsets._put_back for offsets in books)
        await super()._on_revoked(keys)
        if (count := sum(offsets._put_back for offsets in books) - before) > 0:
            self.note("put back", count)

    async def run(self) -> None:
        """Run as the service does, without signals and interpreter settings."""
        self.cluster.process.on_error = self._on_error
        async with self.stack:
            try:
                if await self._started_before_the_end(self.stack):
                    await self._serve()
            except Exception as error:
                self.shutdown.failure = self.shutdown.failure or error
                raise
            finally:
                self.shutdown.start_limit()
        if self.shutdown.failure is not None:
            raise self.shutdown.failure

    async def main(self) -> None:
        """Run as a process, whose end nothing survives."""
        try:
            await self.run()
        except FivestageError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - a bug, which the checks report
            self.error = error
            self.cluster.trace.violated("no internal error", repr(error))
        self.code = exit_code(self.error)
        self._exit()

    async def sigterm(self) -> None:
        """Ask the process to end, once it has the CPU."""
        self.shutdown.begin()

    def break_something(self, random: Random) -> None:
        """End a task inside a client, as a bug would; heartbeats end by a response, see FATAL."""
        client: Any = self.parts.member.consumer
        coordinator, sender = client._coordinator, self.parts.sink._sender
        tasks = {
            "fetch": client._fetcher and client._fetcher._fetch_task,
            "coordination": coordinator and coordinator._coordination_task,
            "sender": next(iter(sender._tasks.values()), None) if sender is not None else None,
        }
        name = random.choice(sorted(tasks))
        self.note("* broken", name)
        if tasks[name] is not None:
            tasks[name].cancel()

    def _end_hard(self, limit_s: float) -> None:
        """End the process: its shutdown took too long."""
        if self.cluster.process.alive:
            self.code, self.error = 1, TimeoutError(f"the end took more than {limit_s} s")
            self._exit()

    def _exit(self) -> None:
        self.note("ended", self.code, repr(self.error) if self.error else "")
        self.cluster.network.loop.kill(self.cluster.process)
        self.exited.set_result(None)

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.cluster.trace.violated("no internal error", context["message"], repr(error))
        self._on_loop_error(loop, context)

    def _announce(self) -> None:
        self.note("ready")

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        self.parts = parts = self._assemble()
        await parts.executor.start(parts.dispatcher.active.finished)
        stack.push_async_callback(self.shutdown.end_part, parts.sink.stop, "producer")
        stack.push_async_callback(self.shutdown.end_part, parts.member.stop, "consumer")
        await parts.sink.start()
        await parts.member.start()
        self.started = True

    def _assemble(self) -> Parts:
        settings, checks, random = self.settings, _Checks(self), self.cluster.network.random
        reach = Reachability()
        executor = SimExecutor(random, self._manners, self.cluster.broker.jobs, self.note)
        sink = Sink(
            settings,
            checks,
            self.shutdown.begin,
            max_record_bytes=MAX_RECORD_BYTES,
            make_producer=cast("Any", partial(SimProducer, self.cluster)),
            reach=reach,
        )
        clock = self.cluster.network.loop.time
        poller, dispatcher = build(
            settings,
            ledger=self.ledger,
            encoder=Encoder(
                source=SOURCE,
                max_record_bytes=MAX_RECORD_BYTES,
                max_dead_letter_bytes=MAX_RECORD_BYTES,
            ),
            executor=executor,
            sink=sink,
            observer=checks,
            tracing=Tracing(results_topic="results", group_id="simulation", provider=PROVIDER),
            wall_clock=lambda: WALL_AT_START + clock(),
            cpu_clock=clock,
            rng=random.random,
        )
        poller.back_pressure._gate = Gate(self.max_taken_in)
        member = _CheckedMember(
            settings,
            self.ledger,
            self._on_revoked,
            checks,
            on_unanswered=lambda _host, _port: None,
            make_consumer=cast("Any", partial(SimConsumer, self.cluster)),
            reach=reach,
        )
        member.instance = self
        committer = Committer(
            member,
            self.ledger,
            checks,
            interval_s=settings.kafka.commit_interval_ms / 1000,
            timeout_s=COMMIT_TIMEOUT_S,
        )
        watch = HealthMonitor(
            member=member,
            progress=dispatcher.progress,
            total_s=settings.pipeline.total_timeout_ms / 1000,
            executor=executor,
            sink=sink,
            publish_timeout_s=settings.kafka.publish_timeout_ms / 1000,
            max_abandoned=settings.executor.max_abandoned,
            reach=reach,
        )
        return Parts(member, poller, dispatcher, executor, sink, committer, watch)
