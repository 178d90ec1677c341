"""The bus's view of one worker process: what runs there, and whether it turns."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.executors.job_registry import JobRegistry
from fivestage.executors.process import messages
from fivestage.executors.process.frames import encode
from fivestage.executors.stall_detector import StallDetector
from fivestage.executors.task_host import report_wait
from fivestage.pipeline.resource_manager import CLOSE_S
from fivestage.pipeline.thread_pool import Abandoned

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.job import Job
    from fivestage.core.stage_history import StageHistory
    from fivestage.executors.executor import OnFinished
    from fivestage.executors.process.connection import WorkerLink
    from fivestage.executors.process.frames import Frame

GREETING_S: Final = 5.0
"""How long a process that has been forked may take to say hello."""
FRESH_S: Final = 0.25
"""How old the last sign of life may be: a process without CPU does not say either what has ended."""
QUIT_S: Final = CLOSE_S + 0.5
"""How long a worker that turns may take to end by itself, and to close its resources."""
ANSWER_S: Final = 1.0
"""How long one that is to end may take to answer a question; one that does not is stalled."""
RUN_ON_S: Final = 10.0
"""How long it may run on. With less, a first call that imports or connects would never get done."""


class ProcessWorker:
    """One loop in one process. See Worker.

    Args:
        link: To the process.
        on_finished: See Executor.
        stall_s: How long one step may take.
        left_out: Stands for an answer too large to be taken.
        run_on_s: How long code may run on after its end before the process is replaced.
        greeting_s: How long the process may take to be ready.
    """

    def __init__(
        self,
        link: WorkerLink,
        on_finished: OnFinished,
        stall_s: float,
        left_out: bytes,
        run_on_s: float = RUN_ON_S,
        greeting_s: float = GREETING_S,
    ) -> None:
        self.registry = JobRegistry(on_finished)
        self.link = link
        link.on_frame = self._hear
        self._left_out = left_out
        self._run_on_s = run_on_s
        self._greeting_s = greeting_s
        self._stall = StallDetector(link.monitor, stall_s)
        self._serials = count(1)
        self._given: dict[int, tuple[Job, StageHistory]] = {}
        """What runs there, by the number its trail has there."""
        self._histories: dict[StageHistory, int] = {}
        self._told: dict[str, tuple[Any, ...]] = {}
        """What it was told of each lane."""
        self._in_threads: list[Abandoned] = []
        """Calls of ended jobs that run on in its threads."""
        self._pinged_at: float | None = None
        self._last_lag_s = 0.0
        self._quit_at: float | None = None
        self.error: str | None = None
        """Why its resources could not be opened."""
        self.on_error: Callable[[str], None] = _ignore
        """Called with that."""
        self._hears = {
            messages.RUNNING: self._on_running,
            messages.WAITS: self._on_waits,
            messages.GOES_ON: self._on_goes_on,
            messages.FINISHED: self._on_finished,
            messages.FAILED_OVER: self._on_failed_over,
            messages.DONE: self._on_done,
            messages.STATUS: self._on_status,
            messages.PONG: self._on_pong,
            messages.NOT_OPEN: self._on_not_open,
        }

    def __repr__(self) -> str:
        return f"<ProcessWorker {self.link} {self.registry} {self.link.monitor}>"

    def start(self, job: Job) -> None:
        """See Worker."""
        self.registry.place(job)
        serial = next(self._serials)
        self._given[serial] = job, job.history
        self._histories[job.history] = serial
        self._tell(job)
        self.link.write(messages.start(job, serial))

    def cancel(self, job: Job) -> None:
        """See Worker."""
        self.registry.leave(job, time.monotonic())
        serial = self._histories.get(job.history)
        if serial is not None:
            self.link.write(encode((messages.CANCEL, serial)))

    def _tell(self, job: Job) -> None:
        """Send what is new about the job's lane. A permit for a probe or a trial goes to one worker alone."""
        lane, routing = job.query.lane, job.routing
        probes = [name for name in tuple(routing.probes) if routing.take_probe(name)]
        trials = [name for name in tuple(routing.trials) if routing.take_trial(name)]
        known = routing.stages, routing.nodes, routing.stuck
        told = self._told.get(lane)
        if told is not None and not probes and not trials:
            if all(new is old for new, old in zip(known, told, strict=True)):
                return
            if known == told:
                self._told[lane] = known
                return
        messages.make_room(self._told, lane)
        self._told[lane] = known
        self.link.write(messages.routing(lane, routing, probes, trials))

    def look(self, now: float, *, elapsed_s: float) -> str | None:
        """See Worker."""
        link = self.link
        if link.gone:
            return self.error or "its process has ended"
        if not link.greeted.is_set():
            return None
        why = self._stall.look(answering=self._pinged_at is None, elapsed_s=elapsed_s)
        if self._stall.is_suspicious:
            link.ask_for_place()  # it has the time to answer until that is sure
        if self._pinged_at is None and (self.registry or self.registry.left or self._in_threads):
            self._pinged_at = now
            link.write(encode((messages.PING,)))
        return why

    @property
    def lag_s(self) -> float:
        """See Worker."""
        pinged_at = self._pinged_at
        return self._last_lag_s if pinged_at is None else time.monotonic() - pinged_at

    @property
    def stalled_s(self) -> float:
        """See Worker."""
        return self._stall.stalled_s

    @property
    def ready(self) -> bool:
        """See Worker."""
        return self.link.greeted.is_set()

    @property
    def blocking(self) -> tuple[int, Job | None]:
        """See Worker."""
        number, _ = self.link.monitor.seen()
        return number, self.registry.blocking(number) if number else None

    @property
    def thread(self) -> tuple[int, int] | None:
        """See Worker."""
        return None if self.link.pid is None else (self.link.pid, self.link.pid)

    def place(self) -> str | None:
        """See Worker."""
        return self.link.place()

    def end(self, now: float) -> None:
        """See Worker. One that turns may close its resources and flush its output first."""
        if self.registry.left or self._in_threads:
            self.link.kill()
            return
        if self._quit_at is None:
            self._quit_at = now
            self.link.write(encode((messages.QUIT,)))
        if now - self._quit_at > (QUIT_S if self._pinged_at is None else ANSWER_S):
            self.link.kill()

    @property
    def gone(self) -> bool:
        """See Worker."""
        return self.link.gone

    def needs_replacement(self, now: float) -> str | None:
        """See Worker. Code of ended jobs is given time, and then no more: a process can be killed."""
        spawned_at = self.link.spawned_at
        if not self.ready:
            late = spawned_at is not None and now - spawned_at > self._greeting_s
            return "its process does not say hello" if late else None
        if self._stall.stalled_s > self._run_on_s and not self.registry.knows(self.blocking[0]):
            return "code of no query blocks its event loop"
        if not self._in_threads and not self.registry.left:
            return None
        too_long = any(now - one.since > self._run_on_s for one in self.abandoned())
        return "code of ended queries runs on" if too_long else None

    def abandoned(self) -> list[Abandoned]:
        """See Worker. The code that has control keeps the main thread."""
        if not self.registry.left:
            return self._in_threads_now()
        number, _ = self.link.monitor.seen()
        return self.registry.abandoned(number, self.thread) + self._in_threads_now()

    def _in_threads_now(self) -> list[Abandoned]:
        """What runs on in threads, as far as the process has had the CPU to say otherwise."""
        return self._in_threads if time.monotonic() - self.registry.turned_at < FRESH_S else []

    # What the process says

    def _hear(self, frame: Frame) -> None:
        self._hears[frame.head[0]](frame)

    def _writable(self, frame: Frame) -> tuple[Job, StageHistory] | None:
        """The job and trail a frame is about, unless the query has ended or goes on elsewhere."""
        job, history = self._given[frame.head[1]]
        return None if history.closed else (job, history)

    def _on_running(self, frame: Frame) -> None:
        if given := self._writable(frame):
            job, history = given
            history.start(messages.runs_now(frame, job.plan))

    def _on_waits(self, frame: Frame) -> None:
        if given := self._writable(frame):
            job, history = given
            history.waiting = messages.waits_now(frame, job.plan, time.monotonic())
            report_wait(self, job, history, None)

    def _on_goes_on(self, frame: Frame) -> None:
        if given := self._writable(frame):
            _, _, started_at, ends_at = frame.head
            report_wait(self, *given, (started_at, ends_at))

    def _on_finished(self, frame: Frame) -> None:
        if given := self._writable(frame):
            job, history = given
            ended = messages.ended(frame, job.plan)
            del history.superseded[ended.superseded :]
            if ended.answer_bytes:
                history.confidence = ended.confidence
                history.answer_json = ended.answer_json or self._left_out
            history.finish(ended.run)

    def _on_failed_over(self, frame: Frame) -> None:
        if given := self._writable(frame):
            job, history = given
            history.fail_over(messages.ended(frame, job.plan).run)

    def _on_done(self, frame: Frame) -> None:
        _, serial, completed, unused = frame.head
        job, history = self._given.pop(serial)
        del self._histories[history]
        for name in unused:
            if job.routing.node(name).state is BreakerState.HALF_OPEN:
                job.routing.probes[name] = True
        self.registry.done(job, history, completed)

    def _on_status(self, frame: Frame) -> None:
        told = frame.head[1]
        self._in_threads = [Abandoned(name, since, (pid, thread)) for name, since, (pid, thread) in told]

    def _on_not_open(self, frame: Frame) -> None:
        self.error = frame.head[1]
        self.on_error(frame.head[1])

    def _on_pong(self, _: Frame) -> None:
        if self._pinged_at is not None:
            self._last_lag_s = time.monotonic() - self._pinged_at
            self.registry.turned_at = self._pinged_at
            self._pinged_at = None


def _ignore(_: str) -> None:
    """Nothing waits for it."""
