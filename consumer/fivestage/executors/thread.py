"""User code on an event loop of its own, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from fivestage.bounded import StepMonitor
from fivestage.errors import StageInterrupted
from fivestage.executors.fleet import Fleet
from fivestage.executors.host import JobHost
from fivestage.executors.mailbox import Mailbox
from fivestage.executors.port import TICK_S
from fivestage.executors.roster import Roster
from fivestage.executors.stall import StallDetector
from fivestage.threads import INTERRUPT_EVERY_S, MAX_INTERRUPTS, catch_thrown, throw_into

if TYPE_CHECKING:
    from fivestage.core.events import Observer
    from fivestage.core.job import Job
    from fivestage.executors.port import OnFinished
    from fivestage.orchestrator import Orchestrator
    from fivestage.threads import Abandoned

log = structlog.get_logger("fivestage.executor")
_LEFTOVERS: Final[list[set[asyncio.Task[Any]]]] = []
"""Tasks that would not end with their loop. Collecting them would run their code on some other thread."""


class ThreadWorker:
    """One loop in one thread. See Worker."""

    def __init__(self, orchestrator: Orchestrator, on_finished: OnFinished, stall_s: float) -> None:
        self.roster = Roster(on_finished)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_log_without_text)
        self._monitor = StepMonitor()
        self._stall = StallDetector(self._monitor, stall_s)
        bus = asyncio.get_running_loop()
        outbox = Mailbox(bus)  # a turn of the nodes' loop may be long
        self._host = JobHost(
            orchestrator.run, lambda *ending: outbox.put(self.roster.done, *ending), self._monitor
        )
        self._inbox = Mailbox(self._loop, sender=bus)
        self._pinged_at: float | None = None
        self._last_lag_s = 0.0
        self._put_down_at: float | None = None
        self._quitting = False
        self._interrupts = 0
        self._lock = threading.Lock()
        self._over = False
        self._thread = threading.Thread(target=self._main, name="fivestage-executor", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<ThreadWorker {'ended' if self.gone else 'running'} {self.roster} {self._monitor}>"

    def start(self, job: Job) -> None:
        """See Worker."""
        self.roster.place(job)
        self._inbox.put(self._host.start, job, job.trail)

    def cancel(self, job: Job) -> None:
        """See Worker."""
        self.roster.leave(job, time.monotonic())
        self._inbox.put(self._host.cancel, job, job.trail)

    def look(self, now: float, *, count: bool) -> str | None:
        """See Worker."""
        if self.gone:
            return "its thread has ended"
        why = self._stall.look(answering=self._pinged_at is None, count=count)
        if self._pinged_at is None and self.roster:
            self._pinged_at = now
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._pong)
        return why

    def _pong(self) -> None:
        pinged_at = self._pinged_at
        if pinged_at is not None:
            self._last_lag_s = time.monotonic() - pinged_at
            self._pinged_at = None

    @property
    def lag_s(self) -> float:
        """See Worker."""
        pinged_at = self._pinged_at
        return self._last_lag_s if pinged_at is None else time.monotonic() - pinged_at

    tired = False

    @property
    def culprit(self) -> Job | None:
        """See Worker."""
        number, _ = self._monitor.seen()
        return self.roster.find(number) if number else None

    def put_down(self, now: float) -> None:
        """See Worker. Code in Python is interrupted; what is stuck in C is left behind."""
        if self._put_down_at is None:
            self._put_down_at = now
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._quit)
        due = self._put_down_at + TICK_S + INTERRUPT_EVERY_S * self._interrupts
        if now < due or self._interrupts >= MAX_INTERRUPTS:
            return
        with self._lock:
            number = self._thread.ident
            if not self._over and number is not None and throw_into(number):
                self._interrupts += 1

    @property
    def gone(self) -> bool:
        """See Worker."""
        return not self._thread.is_alive()

    def abandoned(self) -> list[Abandoned]:
        """See Worker."""
        return list(self.roster.left.values())

    # In the thread

    def _main(self) -> None:
        try:
            while not self._quitting:  # a node may stop the loop, or raise SystemExit in a task: it goes on
                with contextlib.suppress(BaseException):
                    self._loop.run_forever()
        except StageInterrupted:  # between two turns
            pass
        self._over = True  # nobody throws any more, except who has just looked, with the lock
        try:
            with self._lock:
                thrown = self._interrupts > 0
            if thrown:
                catch_thrown()
        except StageInterrupted:
            pass
        if left := asyncio.all_tasks(self._loop):
            _LEFTOVERS.append(left)
        self._loop.close()

    def _quit(self) -> None:
        self._quitting = True
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_soon(self._loop.call_soon, self._loop.stop)


class ThreadExecutor(Fleet):
    """Runs jobs on a second event loop, so that a node that blocks does not block the bus."""

    def __init__(self, orchestrator: Orchestrator, *, observer: Observer, stall_s: float) -> None:
        self._orchestrator = orchestrator
        super().__init__(
            lambda on_finished: ThreadWorker(orchestrator, on_finished, stall_s), size=1, observer=observer
        )

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor."""
        self.launch(on_finished)

    failure = None

    def check(self, now: float) -> bool:
        """See Executor."""
        self._orchestrator.threads.interrupt(now)
        return super().check(now)

    def abandoned(self) -> list[Abandoned]:
        """See Executor."""
        return super().abandoned() + self._orchestrator.threads.abandoned()

    async def stop(self, timeout_s: float) -> None:
        """See Executor."""
        self._orchestrator.threads.close()
        await self.shut_down(timeout_s)


def _log_without_text(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a node's own tasks raise is told by its class: the text may hold a query."""
    error = context.get("exception")
    said = str(context.get("message", "")).partition("<")[0][:80]  # what follows describes objects
    log.error("trouble in a node's own tasks", said=said, error_type=type(error).__name__)
