"""A worker process: an event loop that runs jobs for the bus. It is a fork of the zygote."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import structlog

from fivestage._asyncio import CLEAN_UP_S
from fivestage.core.job import Job
from fivestage.core.plan import Plan
from fivestage.errors import ResourceError
from fivestage.executors.executor import TICK_S
from fivestage.executors.process import messages
from fivestage.executors.process.frames import Decoder, encode
from fivestage.executors.process.loop_probe import report_location
from fivestage.executors.process.reporter import Outbox, Reporter
from fivestage.executors.task_host import TaskHost
from fivestage.pipeline.default_executor import DefaultExecutor
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.pipeline.pipeline import Pipeline
from fivestage.pipeline.step_monitor import StepMonitor

if TYPE_CHECKING:
    from fivestage.core.routing_snapshot import RoutingSnapshot
    from fivestage.core.stage_history import StageHistory
    from fivestage.executors.process.frames import Frame
    from fivestage.pipeline.resource_manager import Scope
    from fivestage.pipeline.thread_pool import Abandoned

RECEIVE_BYTES: Final = 65536
_PR_SET_PDEATHSIG: Final = 1
_GROUP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

log = structlog.get_logger("fivestage.executor")


class Part(NamedTuple):
    """What a worker is to run."""

    app: Pipeline
    plan: Plan
    threads: int
    max_data_bytes: int
    open_s: float
    """How long its resources may take to open."""


def bind_to(parent: int) -> None:
    """Have this process end with its parent, whose number is *parent*."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def end_with(lifeline: int) -> None:
    """Have the kernel kill this process when the bus closes the other end of the pipe *lifeline*, or dies.

    Unlike a signal at the parent's death this lets a worker outlive the fork server; and unlike a thread that
    waits for the end of the pipe it works while code holds the interpreter lock.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline, 0)
    if poll.poll(0):  # it was closed before the lines above
        os._exit(1)


def leave_signals_to_the_bus() -> None:
    """Do nothing about SIGINT and SIGTERM: a terminal or a supervisor may send them to the whole group.

    By a handler that does nothing: SIG_IGN would be inherited by the programs that nodes start, which could
    not be terminated then. Copies of this process made by a node's own fork end as usual.
    """
    for number in _GROUP_SIGNALS:
        signal.signal(number, _ignore)
        signal.siginterrupt(number, False)  # nor does a node's C library see an interrupted call


def _ignore(_number: int, _frame: object) -> None:
    pass


def _ignore_no_more() -> None:
    """In a copy of this process: at once, since the next chance for a Python handler may be far."""
    for number in _GROUP_SIGNALS:
        if signal.getsignal(number) is _ignore:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_ignore_no_more)


def main(part: Part, fileno: int, memory: int, lifeline: int, questions: int) -> NoReturn:
    """Be a worker until the bus says it is enough.

    Args:
        part: What to run.
        fileno: The socket to the bus.
        memory: The page shared with the bus, for the monitor.
        lifeline: The pipe whose other end the bus keeps open while this process may run.
        questions: The eventfd that the bus asks by, see loop_probe.py.
    """
    end_with(lifeline)
    leave_signals_to_the_bus()
    page = mmap.mmap(memory, mmap.PAGESIZE)
    os.close(memory)
    monitor = StepMonitor(memoryview(page).cast("Q"))
    report_location(page, monitor, questions)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(_log_without_text)
    child = _Child(part, socket.socket(fileno=fileno), monitor, loop)
    child.run()


class _Child:
    """Does what the bus says."""

    def __init__(
        self, part: Part, connection: socket.socket, monitor: StepMonitor, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._part = part
        self._socket = connection
        self._loop = loop
        self._outbox = Outbox(connection)
        self._decoder = Decoder()
        self._orchestrator = Orchestrator(
            part.app,
            plan=part.plan,
            threads=part.threads,
            max_data_bytes=part.max_data_bytes,
            start_timeout_ms=round(part.open_s * 1000),
        )
        self._scope: Scope | None = None
        loop.set_default_executor(DefaultExecutor(self._orchestrator.threads))
        self._host = TaskHost(self._run_and_report, self._on_done, monitor, self._on_wait)
        self._lanes: dict[str, RoutingSnapshot] = {}
        self._histories: dict[int, tuple[Job, Reporter]] = {}
        self._probes: dict[int, tuple[str, ...]] = {}
        """The nodes that may be tried once, by the trail they came with."""
        self._new_probes: tuple[str, ...] = ()
        self._ticking = False
        self._stuck: list[Abandoned] = []
        self._quitting = False
        self._ending: asyncio.Task[None] | None = None
        self._does = {
            messages.START: self._start,
            messages.CANCEL: self._cancel,
            messages.ROUTING: self._routing,
            messages.PING: self._ping,
            messages.QUIT: self._quit,
        }

    def run(self) -> NoReturn:
        """Open the resources; run the loop until the bus says it is enough, or has gone."""
        try:
            self._scope = self._loop.run_until_complete(self._orchestrator.resources.open())
        except ResourceError as error:
            self._outbox.send(encode((messages.NOT_OPEN, str(error))))
            end()
        self._loop.add_reader(self._socket, self._read)
        self._outbox.send(encode((messages.HELLO,)))
        while not self._quitting:  # a node may stop the loop, or raise SystemExit in a task: it goes on
            try:
                self._loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - likewise
                log.warning("a node's own task ended the loop", error_type=type(error).__name__)
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
            self._does[frame.head[0]](frame)

    def _start(self, frame: Frame) -> None:
        history = Reporter(self._outbox, self._part.max_data_bytes)
        told = messages.started(frame, self._part.plan, history)
        routing = self._lanes.get(told.query.lane)
        job = Job(
            told.query,
            self._part.plan,
            started_at=told.started_at,
            ends_at=told.ends_at,
            due_at=told.due_at,
            routing=routing,
        )
        job.number, history.serial, job.history = told.number, told.serial, history
        self._histories[history.serial] = job, history
        if self._new_probes:
            self._probes[history.serial], self._new_probes = self._new_probes, ()
        self._host.start(job, history)

    async def _run_and_report(self, job: Job, history: StageHistory, monitor: StepMonitor | None) -> None:
        """Report a job's end at once: until its task is seen to have ended, other code may block."""
        await self._orchestrator.run(job, history, monitor)
        self._report(history, completed=True)

    def _cancel(self, frame: Frame) -> None:
        job, history = self._histories.get(frame.head[1], (None, None))
        if job is not None and history is not None:
            history.closed = True
            self._host.cancel(job, history)

    def _routing(self, frame: Frame) -> None:
        self._new_probes = messages.apply_routing(frame, self._lanes)

    def _ping(self, _: Frame) -> None:
        self._outbox.send(encode((messages.PONG,)))

    def _quit(self, _: Frame) -> None:
        self._ending = self._loop.create_task(self._close())

    async def _close(self) -> None:
        """End the jobs, then close the resources; the bus bounds it."""
        await self._host.stop(CLEAN_UP_S)
        if self._scope is not None:
            await self._scope.close()
        self._quitting = True
        self._loop.stop()

    def _report(self, history: StageHistory, *, completed: bool) -> None:
        """A job has ended; what it did not try may be tried elsewhere."""
        assert isinstance(history, Reporter)  # noqa: S101 - it was made above
        job, _ = self._histories.pop(history.serial)
        unused = [name for name in self._probes.pop(history.serial, ()) if job.routing.take_probe(name)]
        self._outbox.send(encode((messages.DONE, history.serial, completed, unused)))
        if self._orchestrator.threads.busy and not self._ticking:
            self._tick()

    def _on_done(self, _: Job, history: StageHistory, completed: bool) -> None:  # noqa: FBT001 - see JobHost
        history.closed = True
        if not completed:
            self._report(history, completed=False)

    def _on_wait(self, _: Job, history: StageHistory, times: tuple[float, float] | None) -> None:
        assert isinstance(history, Reporter)  # noqa: S101 - it was made above
        if times is None:
            assert history.waiting is not None  # noqa: S101 - that is what is reported
            self._outbox.send(messages.waits(history.serial, history.waiting))
        else:  # what comes next says that the stage runs, or has ended
            self._outbox.keep(encode((messages.GOES_ON, history.serial, *times)))

    def _tick(self) -> None:
        """Tell the bus what runs on in threads, while there are busy ones."""
        threads = self._orchestrator.threads
        stuck = threads.abandoned()
        if stuck != self._stuck:
            self._stuck = stuck
            self._outbox.send(encode((messages.STATUS, [list(one) for one in stuck])))
        self._ticking = bool(threads.busy or stuck)
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)


def end() -> NoReturn:
    """End this process: neither a stuck thread nor what the app wanted done at exit may keep it."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _log_without_text(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a node's own tasks raise is told by its class: the text may hold a query."""
    error = context.get("exception")
    said = str(context.get("message", "")).partition("<")[0][:80]  # what follows describes objects
    log.error("trouble in a node's own tasks", said=said, error_type=type(error).__name__)
