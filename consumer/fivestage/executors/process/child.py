"""The main program of a worker process, which is a fork of the fork server: runs jobs for the bus."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import structlog

from fivestage._asyncio import CLEAN_UP_S
from fivestage.core.plan import Plan
from fivestage.errors import ResourceError
from fivestage.executors.executor import TICK_S
from fivestage.executors.process import messages
from fivestage.executors.process.connection import MEMORY_BYTES, RING_BYTES
from fivestage.executors.process.frames import Decoder, encode
from fivestage.executors.process.lifetime import die_with_pipe, end, ignore_group_signals
from fivestage.executors.process.loop_probe import report_location
from fivestage.executors.process.offer_sender import OfferSender
from fivestage.executors.process.reporter import Outbox, Reporter
from fivestage.executors.process.ring import Ring
from fivestage.executors.process.routing_messages import apply_routing
from fivestage.executors.task_host import TaskHost, log_loop_error
from fivestage.pipeline.default_executor import DefaultExecutor
from fivestage.pipeline.node_settings import NodeSettings
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.pipeline.pipeline import Pipeline
from fivestage.pipeline.step_monitor import StepMonitor

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.core.routing_snapshot import RoutingSnapshot
    from fivestage.core.stage_history import StageHistory
    from fivestage.executors.process.frames import Frame
    from fivestage.pipeline.resource_manager import Scope
    from fivestage.pipeline.thread_pool import Abandoned

RECEIVE_BYTES: Final = 65536

log = structlog.get_logger("fivestage.executor")


class WorkerConfig(NamedTuple):
    """What a worker runs."""

    app: Pipeline
    plan: Plan
    threads: int
    max_data_bytes: int
    open_s: float
    """How long its resources may take to open, in seconds."""
    nodes: NodeSettings
    """The settings of nodes and resources."""
    deadline_header: str
    on_start: Callable[[], Callable[[], None]] | None = None
    """Called after the fork; returns a function that is called at the end, in a thread."""


def main(config: WorkerConfig, fileno: int, memory: int, lifeline: int, location_requests: int) -> NoReturn:
    """Run a worker until the bus ends it.

    Args:
        config: What to run.
        fileno: The socket to the bus.
        memory: Shared with the bus: a page for the monitor, and the ring of what this process reports.
        lifeline: The pipe that the bus keeps open while this process may run.
        location_requests: An eventfd, see loop_probe.py.
    """
    die_with_pipe(lifeline)
    ignore_group_signals()
    at_end = None if config.on_start is None else config.on_start()
    page = mmap.mmap(memory, MEMORY_BYTES)
    os.close(memory)
    monitor = StepMonitor(memoryview(page)[: mmap.PAGESIZE].cast("Q"))
    report_location(page, monitor, location_requests)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(log_loop_error)
    connection = socket.socket(fileno=fileno)
    outbox = Outbox(Ring(page, mmap.PAGESIZE, RING_BYTES), connection)
    _Child(config, connection, outbox, monitor, loop, at_end).run()


class _Child:
    """Handles the messages of the bus."""

    def __init__(
        self,
        config: WorkerConfig,
        connection: socket.socket,
        outbox: Outbox,
        monitor: StepMonitor,
        loop: asyncio.AbstractEventLoop,
        at_end: Callable[[], None] | None,
    ) -> None:
        self._config = config
        self._at_end = at_end
        self._socket = connection
        self._loop = loop
        self._outbox = outbox
        self._offers = OfferSender(self._outbox)
        self._decoder = Decoder()
        self._orchestrator = Orchestrator(
            config.app,
            plan=config.plan,
            threads=config.threads,
            max_data_bytes=config.max_data_bytes,
            start_timeout_ms=round(config.open_s * 1000),
            nodes=config.nodes,
            deadline_header=config.deadline_header,
        )
        self._scope: Scope | None = None
        loop.set_default_executor(DefaultExecutor(self._orchestrator.threads))
        self._host = TaskHost(self._run_and_report, self._on_done, monitor, self._on_wait)
        self._lanes: dict[str, RoutingSnapshot] = {}
        self._jobs: dict[int, tuple[Job, Reporter]] = {}
        """The jobs that run, by the serial numbers of their histories."""
        self._probes: dict[int, tuple[str, ...]] = {}
        """The half-open nodes that may be called once, by the serial number of the job they came with."""
        self._new_probes: tuple[str, ...] = ()
        self._ticking = False
        self._abandoned: list[Abandoned] = []
        self._quitting = False
        self._closing: asyncio.Task[None] | None = None
        self._handlers = {
            messages.START: self._start,
            messages.CANCEL: self._cancel,
            messages.ROUTING: self._routing,
            messages.PING: self._ping,
            messages.QUIT: self._quit,
        }

    def run(self) -> NoReturn:
        """Open the resources, then run the loop until the bus ends this process, or ends itself."""
        try:
            self._scope = self._loop.run_until_complete(self._orchestrator.resources.open(retries=True))
        except ResourceError as error:
            self._outbox.send(encode(messages.NOT_OPEN, 0, (str(error),)))
            end()
        self._loop.add_reader(self._socket, self._read)
        self._outbox.send(encode(messages.HELLO))
        while not self._quitting:  # a node may stop the loop, or raise SystemExit in a task: the loop goes on
            try:
                self._loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - likewise
                log.warning(
                    "task of a node stopped the event loop",
                    error_type=type(error).__name__,
                )
        end()

    def _read(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._quitting = True
            self._loop.stop()
            return
        for frame in self._decoder.feed(data):
            self._handlers[frame.kind](frame)

    def _start(self, frame: Frame) -> None:
        history = Reporter(self._outbox, self._config.max_data_bytes)
        history.serial = frame.serial
        job = messages.decode_start(frame, self._config.plan, history, self._lanes)
        self._jobs[frame.serial] = job, history
        history.on_offer = partial(self._offers.put, history.serial)
        if self._new_probes:
            self._probes[history.serial], self._new_probes = self._new_probes, ()
        self._host.start(job, history)

    async def _run_and_report(self, job: Job, history: StageHistory, monitor: StepMonitor | None) -> None:
        """Run a job and report its end at once: before its task's callbacks run, other code may block."""
        await self._orchestrator.run(job, history, monitor)
        self._report(history, completed=True)

    def _cancel(self, frame: Frame) -> None:
        _, history = self._jobs.get(frame.serial, (None, None))
        if history is not None:
            history.closed = True
            self._host.cancel(history)

    def _routing(self, frame: Frame) -> None:
        self._new_probes = apply_routing(frame, self._lanes)

    def _ping(self, _: Frame) -> None:
        self._outbox.send(encode(messages.PONG))

    def _quit(self, _: Frame) -> None:
        self._closing = self._loop.create_task(self._close())

    async def _close(self) -> None:
        """End the jobs, then close the resources; the bus limits the time for it."""
        await self._host.stop(CLEAN_UP_S)
        if self._scope is not None:
            await self._scope.close()
        if self._at_end is not None:
            await asyncio.to_thread(self._at_end)
        self._quitting = True
        self._loop.stop()

    def _report(self, history: StageHistory, *, completed: bool) -> None:
        """Report that a job has ended, and which probes it did not use: another worker may."""
        assert isinstance(history, Reporter)  # noqa: S101 - see _start
        job, _ = self._jobs.pop(history.serial)
        unused_probes = [
            name for name in self._probes.pop(history.serial, ()) if job.routing.take_probe(name)
        ]
        self._outbox.send(encode(messages.DONE, history.serial, (completed, unused_probes)))
        if self._runs_on and not self._ticking:
            self._tick()

    def _on_done(self, _: Job, history: StageHistory, completed: bool) -> None:  # noqa: FBT001 - see TaskHost
        assert isinstance(history, Reporter)  # noqa: S101 - see _start
        history.closed = True
        if history.serial in self._jobs:  # it was cancelled, or ended by an unexpected error
            self._report(history, completed=completed)

    def _on_wait(self, _: Job, history: StageHistory, times: tuple[float, float] | None) -> None:
        assert isinstance(history, Reporter)  # noqa: S101 - see _start
        if times is None:
            assert history.waiting is not None  # noqa: S101 - that is what is reported
            self._outbox.send(messages.encode_waits(history.serial, history.waiting))
        else:  # sent with the next frame, which says that the stage runs or has ended
            self._outbox.hold(encode(messages.GOES_ON, history.serial, times), wakes=True)

    @property
    def _runs_on(self) -> bool:
        """Whether a thread runs user code, or a call that was overtaken has not ended."""
        return bool(self._orchestrator.threads.busy or self._orchestrator.hedges.overtaken)

    def _tick(self) -> None:
        """Report what still runs in threads, and calls that were overtaken, as long as there are any."""
        orchestrator = self._orchestrator
        abandoned = orchestrator.threads.abandoned() + orchestrator.hedges.abandoned()
        if abandoned != self._abandoned:
            self._abandoned = abandoned
            self._outbox.send(encode(messages.STATUS, 0, [list(one) for one in abandoned]))
        self._ticking = self._runs_on
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)
