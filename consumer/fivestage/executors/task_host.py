"""Runs jobs as tasks of one event loop; all executors use it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from fivestage._asyncio import cancel_all, cancel_once
from fivestage.core.exception_origin import frames_of
from fivestage.pipeline.step_monitor import StepMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fivestage.core.job import Job
    from fivestage.core.stage_history import StageHistory

log = structlog.get_logger("fivestage.executor")


class TaskHost:
    """Starts and cancels jobs. Used from the loop that the jobs run on.

    A job that is moved away and back may have two tasks here for a while, one for each stage history.

    Args:
        run: Runs a job: ``Orchestrator.run``.
        on_done: Called with the job, its history, and whether it completed rather than being cancelled.
        monitor: Shows whose code is executing.
        on_wait: See StageHistory; set on each history.
    """

    def __init__(
        self,
        run: Callable[[Job, StageHistory, StepMonitor | None], Coroutine[Any, Any, None]],
        on_done: Callable[[Job, StageHistory, bool], None],
        monitor: StepMonitor | None = None,
        on_wait: Callable[[Job, StageHistory, tuple[float, float] | None], None] | None = None,
    ) -> None:
        self._run = run
        self._on_wait = on_wait
        self._on_done = on_done
        self._monitor = monitor or StepMonitor()
        self._tasks: dict[StageHistory, asyncio.Task[None]] = {}
        self._next: deque[Job] = deque()
        """The enqueued jobs. The bus loop adds and removes, the loop of the jobs takes: each in one step."""

    def __repr__(self) -> str:
        return f"<TaskHost {len(self._tasks)} running>"

    def start(self, job: Job, history: StageHistory) -> None:
        """Start a job where *history* ends, unless the job has ended or moved meanwhile."""
        if history.closed:
            self._on_done(job, history, False)
            return
        history.on_wait = self._on_wait
        running = self._run(job, history, self._monitor)
        self._tasks[history] = task = asyncio.get_running_loop().create_task(running)
        task.add_done_callback(partial(self._done, job, history))

    def enqueue(self, job: Job) -> None:
        """Start a job when another one completes. May be called in another thread."""
        self._next.append(job)

    def dequeue(self, job: Job) -> bool:
        """Take an enqueued job back; return False if it is not enqueued. May be called in another thread."""
        try:
            self._next.remove(job)
        except ValueError:
            return False
        return True

    def cancel(self, history: StageHistory) -> None:
        """Cancel a job's task; if it is being cancelled already, again after CLEAN_UP_S."""
        task = self._tasks.get(history)
        if task is not None:
            cancel_once(task)

    async def stop(self, timeout_s: float) -> None:
        """Cancel all jobs and wait until their tasks have ended, for at most *timeout_s* seconds."""
        for history in self._tasks:
            history.closed = True
        await cancel_all(self._tasks.values(), timeout_s)

    def _done(self, job: Job, history: StageHistory, task: asyncio.Task[None]) -> None:
        del self._tasks[history]
        completed = not task.cancelled()
        # Before the end is reported: then the bus loop may fill the slot, as it does where it ends a query.
        following = self._take_next() if completed and self._next and not history.closed else None
        self._on_done(job, history, completed)
        if following is not None:
            self._start_next(following)
        if completed:
            task.result()  # the orchestrator catches what user code raises: anything here is a bug

    def _take_next(self) -> Job | None:
        """Take the oldest enqueued job, whose time starts now.

        Not one past its end-to-end deadline, which the bus loop rejects.
        """
        now = asyncio.get_running_loop().time()
        with contextlib.suppress(RuntimeError):  # the bus loop has added one at this moment
            for job in tuple(self._next):
                if job.due_at > now and self.dequeue(job):
                    job.history.times = now, min(now + job.ends_at - job.started_at, job.due_at)
                    return job
        return None

    def _start_next(self, job: Job) -> None:
        """Report the start of a job that was enqueued, and start it."""
        if self._on_wait is not None:
            self._on_wait(job, job.history, job.history.times)
        self.start(job, job.history)


def report_wait(pool: object, job: Job, history: StageHistory, times: tuple[float, float] | None) -> None:
    """Pass a call of ``StageHistory.on_wait`` to the job's watcher, on the bus loop.

    Args:
        pool: The threads that the job waits for.
        job: The job.
        history: The job's history.
        times: The job's new start and end, once a thread has taken its call or it has been taken from the
            local queue; None when a wait for a thread starts.
    """
    watcher = job.watcher
    if watcher is None:
        return
    if times is None:
        watcher.waits(job, history, pool)
    else:
        watcher.goes_on(job, history, *times)


def log_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what a loop reports of a node's own tasks and clients, without texts that may be of a query."""
    error = context.get("exception")
    # What follows describes objects, a callback, or what it is called with.
    message = re.split("(?<=callback) |[<(]", str(context.get("message", "")), maxsplit=1)[0][:80]
    task = context.get("task") or context.get("future")
    coroutine = getattr(task.get_coro(), "__qualname__", None) if isinstance(task, asyncio.Task) else None
    if error is None:  # such as a client session that was not closed, or a task that was dropped
        log.warning("reported by the event loop", message=message, coroutine=coroutine)
        return
    frames = frames_of(error)
    place = next((frame for frame in reversed(frames) if frame.is_own), frames[-1] if frames else None)
    log.error(
        "task of a node failed",
        message=message,
        error_type=type(error).__name__,
        coroutine=coroutine,
        where=None if place is None else f"{place.file}:{place.line}",
        frames=[str(frame) for frame in frames] or None,
    )
