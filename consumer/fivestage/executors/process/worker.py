"""The main process's view of one worker process: which jobs run there, and whether its loop responds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from fivestage.executors.process import messages
from fivestage.executors.process.frames import encode
from fivestage.executors.process.job_histories import JobHistories
from fivestage.executors.process.routing_messages import encode_routing, limit_lanes
from fivestage.executors.worker import LoopWorker, ReplacementReason
from fivestage.pipeline.resource_manager import CLOSE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.job import Job
    from fivestage.executors.executor import OnFinished
    from fivestage.executors.process.connection import WorkerLink
    from fivestage.executors.process.frames import Frame
    from fivestage.pipeline.thread_pool import Abandoned

HELLO_S: Final = 5.0
"""Seconds that a forked process may take to be ready, besides the time for its resources."""
FRESH_S: Final = 0.25
"""Seconds after a pong in which the reported calls count: a process without CPU cannot report their end."""
QUIT_S: Final = CLOSE_S + 0.5
"""Seconds that a worker that responds may take to close its resources and end."""
ANSWER_S: Final = 1.0
"""Seconds that a worker that is to end may take to answer a ping; then it is killed as stalled."""
RUN_ON_S: Final = 10.0
"""Seconds that code may run on after its query's end. With less, a slow first call would never succeed."""


class ProcessWorker(LoopWorker):
    """Runs jobs on a loop in a process. See Worker.

    Args:
        link: The connection to the process.
        on_finished: See Executor.
        stall_s: Seconds that one step of user code may take.
        left_out: JSON that stands for an answer too large to be sent.
        run_on_s: Seconds that code may run on after its query's end before the process is replaced.
        hello_s: Seconds that the process may take to be ready.
    """

    def __init__(
        self,
        link: WorkerLink,
        on_finished: OnFinished,
        stall_s: float,
        left_out: bytes,
        run_on_s: float = RUN_ON_S,
        hello_s: float = HELLO_S,
    ) -> None:
        super().__init__(on_finished, link.monitor, stall_s)
        self.link = link
        self._histories = JobHistories(self.registry, self._on_frame, left_out)
        link.on_frames = self._histories.receive
        self._run_on_s = run_on_s
        self._hello_s = hello_s
        self._sent_routing: dict[str, tuple[Any, ...]] = {}
        """The routing that was last sent for each lane."""
        self._in_threads: list[Abandoned] = []
        """Calls of ended jobs that still run in the process's threads, as it last reported."""
        self._quit_at: float | None = None
        self.error: str | None = None
        """See Worker."""
        self.on_error: Callable[[str], None] | None = None
        """Called with ``error``."""

    def __repr__(self) -> str:
        return f"<ProcessWorker {self.link} {self.registry} {self.link.monitor}>"

    def start(self, job: Job) -> None:
        """See Worker."""
        self.registry.add(job)
        serial = self._histories.add(job)
        self._send_routing(job)
        self.link.write(messages.encode_start(job, serial))

    def cancel(self, job: Job) -> None:
        """See Worker."""
        self.registry.leave(job, time.monotonic())
        serial = self._histories.serial_of(job.history)
        if serial is not None:
            self.link.write(encode(messages.CANCEL, serial))

    def refresh(self) -> None:
        """See Worker."""
        self.link.read()

    def _send_routing(self, job: Job) -> None:
        """Send the routing of the job's lane if it has changed. Each probe or trial goes to one worker."""
        lane, routing = job.query.lane, job.routing
        probes = [name for name in tuple(routing.probes) if routing.take_probe(name)]
        trials = [name for name in tuple(routing.trials) if routing.take_trial(name)]
        current = routing.stages, routing.nodes, routing.stuck
        is_known = self._sent_routing.get(lane) == current
        limit_lanes(self._sent_routing, lane)
        self._sent_routing[lane] = current  # the same objects: comparing them is quick next time
        if probes or trials or not is_known:
            self.link.write(encode_routing(lane, routing, probes, trials))

    def check(self, now: float, *, elapsed_s: float) -> str | None:
        """See Worker."""
        link = self.link
        if link.gone or not link.ready:
            return None
        why = self._stall.check(answering=self._pinged_at is None, elapsed_s=elapsed_s)
        if self._stall.may_be_stalled:
            link.request_location()  # the answer has time to arrive until the stall is certain
        if self._pinged_at is None and (self.registry or self.registry.left or self._in_threads):
            self._pinged_at = now
            link.write(encode(messages.PING))
        return why

    @property
    def ready(self) -> bool:
        """See Worker."""
        return self.link.ready

    @property
    def thread(self) -> tuple[int, int] | None:
        """See Worker."""
        return None if self.link.pid is None else (self.link.pid, self.link.pid)

    def location(self) -> str | None:
        """See Worker."""
        return self.link.location()

    def end(self, now: float) -> None:
        """See Worker. A process that responds may first close its resources and flush its output."""
        if self.registry.left or self._in_threads:
            self.link.kill()
            return
        if self._quit_at is None:
            self._quit_at = now
            self.link.write(encode(messages.QUIT))
        if now - self._quit_at > (QUIT_S if self._pinged_at is None else ANSWER_S):
            self.link.kill()

    @property
    def gone(self) -> bool:
        """See Worker."""
        return self.link.gone

    @property
    def end_reason(self) -> ReplacementReason:
        """See Worker."""
        return ReplacementReason.PROCESS_ENDED if self.error is None else ReplacementReason.NOT_OPEN

    def needs_replacement(self, now: float) -> ReplacementReason | None:
        """See Worker. Code of ended jobs may run on for ``run_on_s``; then the process must be replaced."""
        spawned_at = self.link.spawned_at
        if not self.ready:
            late = spawned_at is not None and now - spawned_at > self._hello_s
            return ReplacementReason.NOT_READY if late else None
        if self._stall.stalled_s > self._run_on_s and not self.registry.has_code_of(self.blocking[0]):
            return ReplacementReason.BLOCKED
        if not self._in_threads and not self.registry.left:
            return None
        too_long = any(now - one.since > self._run_on_s for one in self.abandoned())
        return ReplacementReason.RUNS_ON if too_long else None

    def abandoned(self) -> list[Abandoned]:
        """See Worker."""
        # Without a recent pong the list of threads is out of date: the process may have had no CPU.
        in_threads = self._in_threads if time.monotonic() - self.registry.responsive_at < FRESH_S else []
        if not self.registry.left:
            return in_threads
        number, _ = self.link.monitor.seen()
        return self.registry.abandoned(number, self.thread) + in_threads

    def _on_frame(self, frame: Frame) -> None:
        """Handle a frame about the process."""
        if frame.kind == messages.PONG:
            self._on_pong()
        elif frame.kind == messages.HELLO:
            self.link.note_hello()
        elif frame.kind == messages.STATUS:
            self._in_threads = messages.decode_status(frame)
        elif frame.kind == messages.NOT_OPEN:
            self.error = messages.decode_not_open(frame)
            if self.on_error is not None:
                self.on_error(self.error)
        else:
            raise ValueError("no kind of frame")
