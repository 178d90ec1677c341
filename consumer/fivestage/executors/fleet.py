"""Workers that are replaceable: one that stops answering is condemned, and a fresh one takes over.

All work is bounded by its deadline, so a worker that does not turn is not waited for. The job that holds it
keeps its chance to come back in time; its neighbours move to another worker and go on at the stage they were
in. When nobody waits for the culprit any more, the worker is put down.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from fivestage.core.trail import StageRun
from fivestage.executors.port import TICK_S
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.events import Observer
    from fivestage.core.job import Job
    from fivestage.executors.port import OnFinished
    from fivestage.executors.roster import Roster
    from fivestage.threads import Abandoned

LATE_S = 5 * TICK_S
MAX_ATTEMPTS = 3
"""How often one stage is begun: whoever is near each time a worker falls may be the one that fells it."""

log = structlog.get_logger("fivestage.executor")


class Worker(Protocol):
    """One place where jobs run. Every method is called on the bus loop and none may block it."""

    @property
    def roster(self) -> Roster:
        """The jobs that run here."""

    def start(self, job: Job) -> None:
        """Begin a job where its trail ends."""

    def cancel(self, job: Job) -> None:
        """Ask a job's code to stop."""

    def look(self, now: float, *, count: bool) -> str | None:
        """Look whether it turns; why it does not, once that is sure.

        Args:
            now: Monotonic seconds.
            count: Whether the time since the last look says anything.
        """

    @property
    def lag_s(self) -> float:
        """How long it has not turned, or did not between the last two answers to a look."""

    @property
    def tired(self) -> bool:
        """It works, and should be replaced all the same: too much code that nobody waits for runs on."""

    @property
    def culprit(self) -> Job | None:
        """The job whose code has control, if it is waited for."""

    def put_down(self, now: float) -> None:
        """End it, by force if it must be; called again and again until it is gone."""

    @property
    def gone(self) -> bool:
        """Nothing of it runs any more."""

    def abandoned(self) -> list[Abandoned]:
        """Code of ended jobs that runs on here."""


class Fleet:
    """Shares jobs out to workers, and replaces those that stop turning. See Executor.

    Args:
        make_worker: Makes a worker that reports to the given callback, ready for jobs at once.
        size: How many there are.
        observer: Told of replacements.
    """

    def __init__(self, make_worker: Callable[[OnFinished], Worker], *, size: int, observer: Observer) -> None:
        self._make_worker = make_worker
        self._size = size
        self._observer = observer
        self._on_finished: OnFinished = _not_started
        self._workers: list[Worker] = []
        self._condemned: list[Worker] = []
        self._checked_at = 0.0
        self._ending = False
        self._dismissing: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Fleet {self._workers} condemned={self._condemned}>"

    def launch(self, on_finished: OnFinished) -> None:
        """Make the workers."""
        self._on_finished = on_finished
        self._workers = [self._make_worker(on_finished) for _ in range(self._size)]

    def submit(self, job: Job) -> None:
        """See Executor."""
        workers = self._workers
        if not workers:
            raise RuntimeError("the executor has not been started")
        worker = workers[0] if len(workers) == 1 else min(workers, key=lambda worker: len(worker.roster))
        job.place = worker
        worker.start(job)

    def cancel(self, job: Job) -> None:
        """See Executor."""
        job.place.cancel(job)

    def check(self, now: float) -> bool:
        """See Executor."""
        if self._ending:  # workers that end are not replaced
            return False
        # A look that comes late says that this process had no CPU, not that the workers stand still.
        in_time = now - self._checked_at < LATE_S
        self._checked_at = now
        found = False
        for worker in tuple(self._workers):
            if (why := worker.look(now, count=in_time)) is not None:
                self._replace(worker, why)
                found = True
            elif worker.tired:
                self._retire(worker)
        return found

    async def shut_down(self, timeout_s: float) -> None:
        """Give up all jobs, let them clean up for half the time, and end the workers, whatever they do."""
        clock = asyncio.get_running_loop().time
        end = clock() + timeout_s
        self._ending = True
        workers = [*self._workers, *self._condemned]
        if self._dismissing is not None:
            self._dismissing.cancel()
        for worker in workers:
            for job in list(worker.roster.jobs.values()):
                worker.cancel(job)
                job.end()
        while any(worker.roster.left for worker in self._workers) and clock() < end - timeout_s / 2:  # noqa: ASYNC110 - other threads change it
            await asyncio.sleep(TICK_S)
        while not all(worker.gone for worker in workers) and clock() < end:
            for worker in workers:
                worker.put_down(clock())
            await asyncio.sleep(TICK_S)

    @property
    def lag_s(self) -> float:
        """See Executor."""
        return max((worker.lag_s for worker in self._workers), default=0.0)

    def abandoned(self) -> list[Abandoned]:
        """See Executor."""
        workers = (*self._workers, *self._condemned)
        return [left for worker in workers if not worker.gone for left in worker.abandoned()]

    def _replace(self, worker: Worker, why: str) -> None:
        """Condemn a worker; its jobs move, but for the one that holds it."""
        culprit, queries = worker.culprit, len(worker.roster)
        self._condemn(worker)
        self._observer.executor_replaced(why)
        held_by = _code_of(culprit)
        log.warning("executor replaced", reason=why, held_by=held_by, queries=queries, dead=worker.gone)
        self._rescue(worker, culprit)

    def _rescue(self, worker: Worker, culprit: Job | None) -> None:
        """The jobs of a worker that is held up go on elsewhere, and none of them is to blame."""
        worker.roster.blame(culprit)
        if culprit is not None:
            culprit.culprit = True
        self._save_jobs(worker, culprit)

    def _save_jobs(self, worker: Worker, culprit: Job | None) -> None:
        """Move the jobs of a worker, but for the one that holds it; that ends with the worker."""
        for job in list(worker.roster.jobs.values()):
            if job is not culprit:
                self._move(worker, job)
            elif worker.gone:
                self._end(worker, job, "its node ended the worker that it ran in", "worker_died")

    def _retire(self, worker: Worker) -> None:
        """Give a worker no more jobs; those it has may end there."""
        self._condemn(worker)
        left = worker.abandoned()
        self._observer.executor_replaced("code that runs on has piled up")
        names = sorted({one.name for one in left})
        log.warning("executor retired", stuck=len(left), stuck_in=names, queries=len(worker.roster))

    def _condemn(self, worker: Worker) -> None:
        """Put a fresh worker in a worker's place, and that aside."""
        self._workers[self._workers.index(worker)] = self._make_worker(self._on_finished)
        self._condemned.append(worker)
        if self._dismissing is None:
            self._dismissing = asyncio.get_running_loop().call_later(TICK_S, self._dismiss)

    def _dismiss(self) -> None:
        """Put down the condemned that nobody waits for; by its own timer, as there may be no more queries."""
        loop = asyncio.get_running_loop()
        for worker in self._condemned:
            if worker.gone:
                self._save_jobs(worker, worker.culprit)
            elif not worker.roster:
                worker.put_down(loop.time())
            elif worker.look(loop.time(), count=True) is not None:  # it was only retired, until now
                self._rescue(worker, worker.culprit)
        self._condemned = [worker for worker in self._condemned if not worker.gone]
        self._dismissing = loop.call_later(TICK_S, self._dismiss) if self._condemned else None

    def _move(self, worker: Worker, job: Job) -> None:
        running = job.trail.running
        if running is not None and running.attempt >= MAX_ATTEMPTS:
            self._end(worker, job, f"its worker fell {MAX_ATTEMPTS} times", "worker_died")
            return
        worker.cancel(job)
        worker.roster.forgive(job)
        job.move()
        self.submit(job)

    def _end(self, worker: Worker, job: Job, error: str, error_type: str) -> None:
        """The stage that is running ends here, as an error."""
        running = job.trail.running
        worker.cancel(job)
        job.trail = job.trail.continued()
        if running is not None and not job.trail.awaits(running):
            running = None
        if len(job.trail.runs) == len(job.plan.stages):  # it ended at the last moment
            self._on_finished(job)
            return
        spec = job.plan.stages[len(job.trail.runs)] if running is None else running.spec
        started_at = job.started_at if running is None else running.started_at
        run = StageRun(spec, Outcome.ERROR, error=error, error_type=error_type, started_at=started_at)
        if running is not None:
            run.node, run.attempt, run.granted_s = running.node, running.attempt, running.granted_s
        job.trail.finish(run)
        self._on_finished(job)


def _code_of(job: Job | None) -> str | None:
    """The node or stage that a job is in, for the log."""
    running = job.trail.running if job is not None else None
    return None if running is None else running.node or str(running.spec.stage_type)


def _not_started(_: Job) -> None:
    raise RuntimeError("the executor has not been started")
