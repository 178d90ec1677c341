"""A pool of workers, each with an event loop: where jobs run, and what happens when a loop is blocked.

A loop that does not respond for a while is *stalled*. Its worker gets no new jobs: a spare does. The jobs
behind the code that blocks stay as long as waiting does not cost them their answer; then they continue on
another worker, at the stage they were in. A worker whose loop responds again is used again. A worker that has
died is replaced. One that needs replacement but runs is *retired*: it gets no more jobs, and ends with its
last one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from fivestage.core.blocked_queries import is_over, is_worth_moving
from fivestage.executors.executor import TICK_S
from fivestage.executors.stall_log import StallLog, code_of, fields_of, is_waiting
from fivestage.executors.worker import Stall
from fivestage.executors.worker_death import fail_stage, fatal_error
from fivestage.executors.worker_set import WorkerSet
from fivestage.pipeline.thread_pool import Abandoned

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.job import Job
    from fivestage.core.observer import Observer
    from fivestage.executors.executor import LocalQueue, OnFinished
    from fivestage.executors.worker import ReplacementReason, Worker

LATE_S: Final = 5 * TICK_S
"""Seconds since the last check above which a check is late."""

log = structlog.get_logger("fivestage.executor")


class WorkerPool:
    """Distributes jobs to workers. See Executor.

    Args:
        make_worker: Makes a worker with two callbacks: for finished jobs, and for when it is ready. Raises
            OSError or RuntimeError if the system has no room for it.
        size: The number of workers that get jobs.
        spares: The number of further workers that are kept ready.
        stall_ms: ``executor.stall_ms``, which the log names.
        observer: Notified when a worker stalls or is replaced.
        cpu_clock: Returns the CPU seconds that this process has used.
    """

    def __init__(
        self,
        make_worker: Callable[[OnFinished, Callable[[], None]], Worker],
        *,
        size: int,
        spares: int,
        stall_ms: int,
        observer: Observer,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._set = WorkerSet(
            lambda on_ready: make_worker(self._on_finished, on_ready), size=size, spares=spares
        )
        self._noticed_after_s = stall_ms / 1000 + TICK_S
        """Seconds that a stall lasts before it is noticed."""
        self._stall_log = StallLog(stall_ms)
        self._observer = observer
        self._on_finished: OnFinished
        self._checked_at = 0.0
        self._cpu_clock = cpu_clock
        self._cpu_s = 0.0
        self._ending = False
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<WorkerPool {self._set}>"

    @property
    def workers(self) -> list[Worker]:
        """The workers that are not retired, in the order of preference."""
        return self._set.members

    def launch(self, on_finished: OnFinished) -> None:
        """Make the workers; raises what making them raises."""
        self._on_finished = on_finished
        self._set.launch()
        self._check_later()

    @property
    def local_queue(self) -> LocalQueue | None:
        """See Executor. None, unless a subclass has one."""
        return None

    def submit(self, job: Job) -> None:
        """See Executor."""
        workers = self._set.active
        if not workers:
            raise RuntimeError("the executor has not been started")
        if job.place in workers and job.place.blocking[0] == job.number:
            workers = self._set.others(job.place)  # the job's own abandoned code blocks that worker
        worker = workers[0] if len(workers) == 1 else min(workers, key=lambda worker: len(worker.registry))
        job.place = worker
        worker.start(job)

    def cancel(self, job: Job) -> None:
        """See Executor."""
        worker: Worker = job.place
        worker.cancel(job)
        stall = self._set.stalled.get(worker)
        if stall is not None and stall.job is not job:
            worker.registry.mark_as_waiting(job, asyncio.get_running_loop().time())

    def refresh(self) -> None:
        """See Executor."""
        for worker in (*self._set.members, *self._set.retired):
            worker.refresh()

    def check(self, now: float) -> bool:
        """See Executor."""
        self.refresh()
        if self._ending:  # workers that end are not replaced
            return False
        elapsed_s = self._elapsed_s(now)
        found = [self._check_worker(worker, now, elapsed_s) for worker in tuple(self._set.members)]
        self._set.choose()
        if self._set.is_ready:
            self._empty_unready_workers()
        for worker, stall in tuple(self._set.stalled.items()):
            self._move_blocked(worker, stall, now)
        self._set.keep_up(now)
        self._check_later()
        return any(found)

    async def shut_down(self, timeout_s: float) -> None:
        """Cancel all jobs, let them clean up for half the time, and end the workers, whatever they do."""
        clock = asyncio.get_running_loop().time
        end = clock() + timeout_s
        self._ending = True
        workers = [*self._set.members, *self._set.retired]
        if self._timer is not None:
            self._timer.cancel()
        for worker in workers:
            for job in list(worker.registry.jobs.values()):
                worker.cancel(job)
                job.end()
        while any(worker.registry.left for worker in self._set.members) and clock() < end - timeout_s / 2:
            await asyncio.sleep(TICK_S)
            self.refresh()
        while not all(worker.gone for worker in workers) and clock() < end:
            for worker in workers:
                worker.end(clock())
            await asyncio.sleep(TICK_S)
            self.refresh()

    @property
    def unready(self) -> str | None:
        """See Executor."""
        return None if any(worker.ready for worker in self._set.members) else "no worker is ready"

    @property
    def lag_s(self) -> float:
        """See Executor."""
        return max((worker.lag_s for worker in self._set.active), default=0.0)

    def abandoned(self) -> list[Abandoned]:
        """See Executor."""
        workers = (*self._set.members, *self._set.retired)
        found = [left for worker in workers if not worker.gone for left in worker.abandoned()]
        stalls = list(self._set.stalled.values())  # a copy: a scrape calls this in another thread
        return found + [stall.other for stall in stalls if stall.other is not None]

    # Checks

    def _elapsed_s(self, now: float) -> float:
        """Return the seconds since the last check, or 0 if they say nothing about the workers.

        A late check may only mean that this process had no CPU. If it did have CPU, its own threads delayed
        the check, and the time counts.
        """
        cpu_s = self._cpu_clock()
        late_s, used_s = now - self._checked_at, cpu_s - self._cpu_s
        self._checked_at, self._cpu_s = now, cpu_s
        return late_s if late_s < LATE_S or used_s > late_s / 2 else 0.0

    def _check_worker(self, worker: Worker, now: float, elapsed_s: float) -> bool:
        """Check one worker; return whether it has stalled or died since the last check."""
        why = worker.check(now, elapsed_s=elapsed_s)
        if worker.gone:
            self._replace_dead(worker)
            return True
        stalled = worker in self._set.stalled
        if why is None:
            self._stall_log.ends(self._set.stalled.pop(worker, None), now)
        elif not stalled:
            self._set.stalled[worker] = self._stall(worker, now, why)
        if (reason := worker.needs_replacement(now)) is not None:
            self._retire(worker, reason)
        return why is not None and not stalled

    def _check_later(self) -> None:
        if self._set.unsettled and self._timer is None and not self._ending:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._check_by_timer)

    def _check_by_timer(self) -> None:
        """End retired workers that have no jobs, and check the others while nothing else calls ``check``."""
        self._timer = None
        self.refresh()
        now = asyncio.get_running_loop().time()
        for worker in self._set.retired:
            why = worker.check(now, elapsed_s=TICK_S)
            number, blocking = worker.blocking
            if worker.gone:
                self._move_from_dead(worker, blocking, known=number != 0)
            elif not worker.registry:
                worker.end(now)
            elif why is not None:
                self._move_all_but(worker, blocking)
        self._set.retired = [worker for worker in self._set.retired if not worker.gone]
        if now - self._checked_at > 1.5 * TICK_S:  # there are no queries
            self.check(now)
        self._check_later()

    # Stalled workers

    def _stall(self, worker: Worker, now: float, why: str) -> Stall:
        """Find out whose code blocks a worker, and report it."""
        number, job = worker.blocking
        worker.registry.restart_clocks_except(number, now)
        if job is not None:
            job.is_blocking = True
        about, since = fields_of(job, worker.location()), now - worker.stalled_s
        where = None if is_waiting(about) else about["where"]
        self._observer.executor_stalled(about["node"] or about["stage"] or "", where)
        is_logged = self._stall_log.begins(worker, about, why, now)
        known = job is not None or worker.registry.has_code_of(number)
        other = None if known else Abandoned(about["where"] or "a background task", since, worker.thread)
        return Stall(since, job, other, about, is_logged)

    def _move_blocked(self, worker: Worker, stall: Stall, now: float) -> None:
        """Mark the jobs that wait in a stalled worker; move those that would lose their answer by waiting."""
        movable = self._set.is_ready and worker not in self._set.active
        for job in list(worker.registry.jobs.values()):
            if job is stall.job or job.is_enqueued:  # the bus loop takes the latter back
                continue
            job.held_at = now
            if is_over(job):  # the blocked loop has not been able to report the end
                self._withdraw(worker, job)
                self._on_finished(job)
            elif movable and is_worth_moving(
                job, now, stalled_since=stall.since, noticed_after_s=self._noticed_after_s
            ):
                self._move(worker, job)

    def _empty_unready_workers(self) -> None:
        """Move the jobs in workers that are not ready to workers that run them at once."""
        for worker in self._set.members:
            if not worker.ready:
                self._move_all_but(worker, None)

    # Workers that end

    def _replace_dead(self, worker: Worker) -> None:
        number, blocking_job = worker.blocking
        queries = len(worker.registry)
        self._set.remove(worker)
        self._set.add(asyncio.get_running_loop().time())
        node, stage = code_of(blocking_job)
        why, error = worker.end_reason, worker.error
        self._observer.executor_replaced(why)
        log.warning("worker died", reason=str(why), error=error, node=node, stage=stage, queries=queries)
        self._move_from_dead(worker, blocking_job, known=number != 0)

    def _move_from_dead(self, worker: Worker, blocking_job: Job | None, *, known: bool) -> None:
        """Move the jobs of a dead worker; end a job that caused the death, certainly or most likely."""
        for job in list(worker.registry.jobs.values()):
            job.deaths += not known
            if (error := fatal_error(job, blocking_job)) is not None:
                worker.cancel(job)
                goes_on = fail_stage(job, error, asyncio.get_running_loop().time()) and self._set.active
                (self.submit if goes_on else self._on_finished)(job)
            else:
                self._move(worker, job)

    def _retire(self, worker: Worker, why: ReplacementReason) -> None:
        """Replace a worker that still runs. If it is stalled, its waiting jobs move, else all may finish."""
        stall = self._set.retire(worker)
        self._observer.executor_replaced(why)
        left = worker.abandoned() + ([stall.other] if stall is not None and stall.other is not None else [])
        names = sorted({one.name for one in left})
        now = asyncio.get_running_loop().time()
        blocked = {} if stall is None else {**stall.about, "blocked_ms": round((now - stall.since) * 1000)}
        log.warning(
            "worker replaced", reason=str(why), abandoned=names, queries=len(worker.registry), **blocked
        )
        self._set.add(now)
        if stall is not None:
            self._move_all_but(worker, stall.job)

    # Jobs

    def _move_all_but(self, worker: Worker, blocking: Job | None) -> None:
        for job in list(worker.registry.jobs.values()):
            if job is not blocking:
                self._move(worker, job)

    def _move(self, worker: Worker, job: Job) -> None:
        if not self._set.active:  # no other worker exists yet: the job ends at its deadline
            return
        self._withdraw(worker, job)
        job.move()
        self.submit(job)

    def _withdraw(self, worker: Worker, job: Job) -> None:
        """Remove a job from a worker where it only waits, so that none of its code runs on."""
        worker.cancel(job)
        worker.registry.mark_as_waiting(job, asyncio.get_running_loop().time())
