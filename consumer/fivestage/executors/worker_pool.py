"""A pool of workers, each with an event loop: what runs where, and what happens when a loop does not turn.

A loop that does not turn for a while is *stalled*. It gets no new queries: a spare does. The queries caught
in it stay as long as waiting does not cost them their answer; then they go on elsewhere, at the stage they
were in. A loop that turns again is used again. A worker that died, or must be replaced, is.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING, Final

import structlog

from fivestage.core.blocked_queries import is_over, is_worth_moving
from fivestage.core.stage_history import StageRun
from fivestage.executors.executor import TICK_S
from fivestage.executors.worker import Stall
from fivestage.executors.worker_set import WorkerSet
from fivestage.pipeline.thread_pool import Abandoned
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.job import Job
    from fivestage.core.observer import Observer
    from fivestage.executors.executor import OnFinished
    from fivestage.executors.worker import Worker

LATE_S: Final = 5 * TICK_S
MAX_DEATHS: Final = 3
"""A query that is there each time a worker dies of an unknown cause is the likely cause."""
LOG_EVERY_S: Final = 5.0
"""How often one place that blocks is logged; the metric counts each time."""
MAX_LOGGED: Final = 256

log = structlog.get_logger("fivestage.executor")


class WorkerPool:
    """Shares jobs out to workers. See Executor.

    Args:
        make_worker: Makes a worker that reports to the given callbacks: the end of jobs, and once that it is
            ready. Raises OSError or RuntimeError where the system has no room for it.
        size: How many get jobs.
        spares: How many more are kept ready.
        stall_ms: The setting that the log names.
        observer: Called when a worker stalls, or is replaced.
        cpu_clock: The seconds that this process has been given on any CPU.
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
        self._stall_ms = stall_ms
        self._observer = observer
        self._on_finished: OnFinished = _not_started
        self._checked_at = 0.0
        self._cpu_clock = cpu_clock
        self._cpu_s = 0.0
        self._ending = False
        self._logged: dict[tuple[str | None, ...], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<WorkerPool {self._set}>"

    @property
    def workers(self) -> list[Worker]:
        """Those that may get jobs; the first of them that can do."""
        return self._set.all

    def launch(self, on_finished: OnFinished) -> None:
        """Make the workers; raises what making them raises."""
        self._on_finished = on_finished
        self._set.launch()
        self._tend_later()

    def submit(self, job: Job) -> None:
        """See Executor."""
        workers = self._set.active
        if not workers:
            raise RuntimeError("the executor has not been started")
        if job.place in workers and job.place.blocking[0] == job.number:
            workers = self._set.others(job.place)  # its own code, which nothing waits for any more, blocks it
        worker = workers[0] if len(workers) == 1 else min(workers, key=lambda worker: len(worker.registry))
        job.place = worker
        worker.start(job)

    def cancel(self, job: Job) -> None:
        """See Executor."""
        worker: Worker = job.place
        worker.cancel(job)
        stall = self._set.stalled.get(worker)
        if stall is not None and stall.job is not job:
            worker.registry.excuse(job, asyncio.get_running_loop().time())

    def check(self, now: float) -> bool:
        """See Executor."""
        if self._ending:  # workers that end are not replaced
            return False
        elapsed_s = self._elapsed_s(now)
        found = [self._look_at(worker, now, elapsed_s) for worker in tuple(self._set.all)]
        self._set.choose()
        if self._set.is_ready:
            self._empty_those_that_open()
        for worker, stall in tuple(self._set.stalled.items()):
            self._hold(worker, stall, now)
        self._set.keep_up(now)
        self._tend_later()
        return any(found)

    async def shut_down(self, timeout_s: float) -> None:
        """Give up all jobs, let them clean up for half the time, and end the workers, whatever they do."""
        clock = asyncio.get_running_loop().time
        end = clock() + timeout_s
        self._ending = True
        workers = [*self._set.all, *self._set.retired]
        if self._timer is not None:
            self._timer.cancel()
        for worker in workers:
            for job in list(worker.registry.jobs.values()):
                worker.cancel(job)
                job.end()
        while any(worker.registry.left for worker in self._set.all) and clock() < end - timeout_s / 2:  # noqa: ASYNC110 - other threads change it
            await asyncio.sleep(TICK_S)
        while not all(worker.gone for worker in workers) and clock() < end:
            for worker in workers:
                worker.end(clock())
            await asyncio.sleep(TICK_S)

    @property
    def unready(self) -> str | None:
        """See Executor."""
        return None if any(worker.ready for worker in self._set.all) else "no worker is ready"

    @property
    def lag_s(self) -> float:
        """See Executor."""
        return max((worker.lag_s for worker in self._set.active), default=0.0)

    def abandoned(self) -> list[Abandoned]:
        """See Executor."""
        workers = (*self._set.all, *self._set.retired)
        found = [left for worker in workers if not worker.gone for left in worker.abandoned()]
        return found + [stall.other for stall in self._set.stalled.values() if stall.other is not None]

    # Looking at the workers

    def _elapsed_s(self, now: float) -> float:
        """The time since the last look, or 0 where it says nothing about the workers.

        A look that comes late may only say that this process had no CPU. Where it had, and threads of its own
        kept the look from coming, the time counts.
        """
        cpu_s = self._cpu_clock()
        late_s, used_s = now - self._checked_at, cpu_s - self._cpu_s
        self._checked_at, self._cpu_s = now, cpu_s
        return late_s if late_s < LATE_S or used_s > late_s / 2 else 0.0

    def _look_at(self, worker: Worker, now: float, elapsed_s: float) -> bool:
        """Take note of what has become of a worker; whether it has stalled, or died, since the last look."""
        why = worker.look(now, elapsed_s=elapsed_s)
        if worker.gone:
            self._replace_dead(worker, why or "it has ended")
            return True
        stalled = worker in self._set.stalled
        if why is None:
            self._set.stalled.pop(worker, None)
        elif not stalled:
            self._set.stalled[worker] = self._stall(worker, now, why)
        if (reason := worker.needs_replacement(now)) is not None:
            self._retire(worker, reason)
        return why is not None and not stalled

    # Stalled workers

    def _stall(self, worker: Worker, now: float, why: str) -> Stall:
        """A worker is found to be stalled: say whose code it is."""
        number, job = worker.blocking
        worker.registry.hold_all_but(number, now)
        if job is not None:
            job.is_blocking = True
        place, stalled_s = worker.place(), worker.stalled_s
        node, stage = _code_of(job)
        self._observer.executor_stalled(node or stage or "")
        if self._may_log((node, stage, place), now):
            log.warning(
                "event loop blocked",
                reason=why,
                node=node,
                stage=stage,
                query_id=None if job is None else job.query.query_id,
                place=place,
                blocked_ms=round(stalled_s * 1000),
                setting=f"executor.stall_ms = {self._stall_ms}",
                queries_waiting=len(worker.registry) - (job is not None),
            )
        since = now - stalled_s
        known = job is not None or worker.registry.knows(number)
        other = None if known else Abandoned(place or "a background task", since, worker.thread)
        return Stall(since, job, other)

    def _may_log(self, what: tuple[str | None, ...], now: float) -> bool:
        """Whether a line about *what* is due: a node that always blocks would fill the log."""
        if now - self._logged.get(what, -inf) < LOG_EVERY_S:
            return False
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged[what] = now
        return True

    def _hold(self, worker: Worker, stall: Stall, now: float) -> None:
        """Take note of the jobs that are caught in a stalled worker; move those that must not wait longer."""
        movable = self._set.is_ready and worker not in self._set.active
        for job in list(worker.registry.jobs.values()):
            if job is stall.job:
                continue
            job.held_at = now
            if is_over(job):  # the loop only has not got round to say so
                self._take_out(worker, job)
                self._on_finished(job)
            elif movable and self._is_worth_moving(job, stall, now):
                self._move(worker, job)

    def _empty_those_that_open(self) -> None:
        """Jobs that wait for a worker to get ready need not any more: another one turns again."""
        for worker in self._set.all:
            if not worker.ready:
                for job in list(worker.registry.jobs.values()):
                    self._move(worker, job)

    def _is_worth_moving(self, job: Job, stall: Stall, now: float) -> bool:
        noticed_after_s = self._stall_ms / 1000 + TICK_S
        return is_worth_moving(job, now, stalled_since=stall.since, noticed_after_s=noticed_after_s)

    def _replace_dead(self, worker: Worker, why: str) -> None:
        """Put another worker in a dead one's place; its jobs move, but for the one that ended it."""
        number, blocking_job = worker.blocking
        queries = len(worker.registry)
        self._set.drop(worker)
        self._set.add(asyncio.get_running_loop().time())
        node, stage = _code_of(blocking_job)
        self._observer.executor_replaced(why)
        log.warning("worker died", reason=why, node=node, stage=stage, queries=queries)
        self._save_jobs(worker, blocking_job, known=number != 0)

    def _save_jobs(self, worker: Worker, blocking_job: Job | None, *, known: bool) -> None:
        """The jobs of a dead worker go on elsewhere, but for one that ended it, for sure or most likely."""
        for job in list(worker.registry.jobs.values()):
            job.deaths += not known
            if job is blocking_job:
                self._end(worker, job, "its node ended the worker process that it ran in")
            elif job.deaths >= MAX_DEATHS:
                self._end(worker, job, f"the worker process that it ran in died {MAX_DEATHS} times")
            else:
                self._move(worker, job)

    def _retire(self, worker: Worker, why: str) -> None:
        """Give a worker no more jobs; those it has may end there."""
        stall = self._set.retire(worker)
        self._observer.executor_replaced(why)
        left = worker.abandoned() + ([stall.other] if stall is not None and stall.other is not None else [])
        names = sorted({one.name for one in left})
        log.warning("worker replaced", reason=why, abandoned=names, queries=len(worker.registry))
        self._set.add(asyncio.get_running_loop().time())
        if stall is not None:
            self._move_all_but(worker, stall.job)

    def _tend_later(self) -> None:
        if self._set.unsettled and self._timer is None and not self._ending:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tend)

    def _tend(self) -> None:
        """End the retired workers that have no jobs; by a timer, as there may be no queries."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        for worker in self._set.retired:
            why = worker.look(now, elapsed_s=TICK_S)
            number, blocking = worker.blocking
            if worker.gone:
                self._save_jobs(worker, blocking, known=number != 0)
            elif not worker.registry:
                worker.end(now)
            elif why is not None:
                self._move_all_but(worker, blocking)
        self._set.retired = [worker for worker in self._set.retired if not worker.gone]
        if now - self._checked_at > 1.5 * TICK_S:  # there are no queries, and so nothing else calls it
            self.check(now)
        self._tend_later()

    # Jobs

    def _move_all_but(self, worker: Worker, blocking: Job | None) -> None:
        for job in list(worker.registry.jobs.values()):
            if job is not blocking:
                self._move(worker, job)

    def _move(self, worker: Worker, job: Job) -> None:
        if not self._set.active:  # there is no other worker yet: it ends at its deadline
            return
        self._take_out(worker, job)
        job.move()
        self.submit(job)

    def _take_out(self, worker: Worker, job: Job) -> None:
        """A job that only waits in a worker leaves it: none of its code runs on there."""
        worker.cancel(job)
        worker.registry.excuse(job, asyncio.get_running_loop().time())

    def _end(self, worker: Worker, job: Job, error: str) -> None:
        """The stage that is running ends here, as an error."""
        running = job.history.running
        worker.cancel(job)
        job.history = job.history.continued()
        if running is not None and not job.history.awaits(running):
            running = None
        if len(job.history.runs) == len(job.plan.stages):  # it ended at the last moment
            self._on_finished(job)
            return
        spec = job.plan.stages[len(job.history.runs)] if running is None else running.spec
        started_at = job.started_at if running is None else running.started_at
        run = StageRun(spec, Outcome.ERROR, error=error, error_type="worker_died", started_at=started_at)
        run.attempt = job.history.attempt
        if running is not None:
            run.node, run.attempt, run.granted_s = running.node, running.attempt, running.granted_s
            run.waited_s = running.waited_s
        job.history.finish(run)
        self._on_finished(job)


def _code_of(job: Job | None) -> tuple[str | None, str | None]:
    """The node and the stage that a job is in, for the log."""
    running = job.history.running if job is not None else None
    return (None, None) if running is None else (running.node, str(running.spec.stage_type))


def _not_started(_: Job) -> None:
    raise RuntimeError("the executor has not been started")
