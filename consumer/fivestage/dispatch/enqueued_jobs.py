"""The jobs that the executor starts by itself, one each time another one completes.

While queries wait for slots, a few are handed to the executor before a slot is free. When a query ends there,
the next one runs at once, and not only after the bus loop has noticed the end and has handed over another:
in a busy process that takes milliseconds, for which the slot would not be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.admission.slots import Slots
    from fivestage.core.job import Job
    from fivestage.executors.executor import LocalQueue


class EnqueuedJobs:
    """The jobs in local queues of the executor, until the bus loop knows that they have started.

    Args:
        slots: Counts the jobs.
    """

    def __init__(self, slots: Slots[Any]) -> None:
        self._slots = slots
        self._jobs: dict[int, tuple[Job, LocalQueue]] = {}
        """By number, the oldest first."""
        self._queue: LocalQueue | None = None
        """The queue that was used last."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: Job) -> bool:
        return job.number in self._jobs

    def __repr__(self) -> str:
        return f"<EnqueuedJobs {len(self)}>"

    def put(self, job: Job, queue: LocalQueue) -> None:
        """Enqueue a job; it waits from its start on."""
        if queue is not self._queue:
            self._move_all(queue)
        self._jobs[job.number] = job, queue
        job.waits_since = job.started_at
        self._slots.reserve(job.query.lane)
        queue.enqueue(job)

    def _move_all(self, queue: LocalQueue) -> None:
        """Move the jobs from the queue of a loop that was blocked, where nothing else may complete."""
        self._queue = queue
        for job, old in list(self._jobs.values()):
            if old.dequeue(job):
                self._jobs[job.number] = job, queue
                queue.enqueue(job)

    def origins(self) -> list[Any]:
        """Return what the creators of the jobs need at their ends."""
        return [job.origin for job, _ in self._jobs.values()]

    def dequeue_oldest(self) -> Job | None:
        """Take the oldest job back; return None if there is none, or if the executor has just started it."""
        job = next((job for job, _ in self._jobs.values()), None)
        return job if job is not None and self.dequeue(job) else None

    def dequeue(self, job: Job) -> bool:
        """Take a job back; return False if it is not enqueued, or if the executor has just started it."""
        found = self._jobs.get(job.number)
        return found is not None and found[1].dequeue(job)

    def dequeue_if(self, predicate: Callable[[Job], bool]) -> list[Job]:
        """Take back the jobs for which *predicate* is true and that the executor has not just started."""
        return [job for job, _ in list(self._jobs.values()) if predicate(job) and self.dequeue(job)]

    def discard(self, job: Job) -> bool:
        """Count a job no more that was started or taken back; return False if it was not enqueued."""
        if self._jobs.pop(job.number, None) is None:
            return False
        job.waits_since = None
        self._slots.withdraw(job.query.lane)
        return True
