"""The jobs that the executor starts by itself, one each time another one completes.

While queries wait for slots, a few are handed to the executor before a slot is free. When a query ends there,
the next one runs at once, and not only after the bus loop has noticed the end and has handed over another:
in a busy process that takes milliseconds, for which the slot would not be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: Job) -> bool:
        return job.number in self._jobs

    def __repr__(self) -> str:
        return f"<EnqueuedJobs {len(self)}>"

    def put(self, job: Job, queue: LocalQueue) -> None:
        """Enqueue a job; it waits from its start on."""
        self._jobs[job.number] = job, queue
        job.waits_since = job.started_at
        self._slots.reserve(job.query.lane)
        queue.enqueue(job)

    def take_back_oldest(self) -> Job | None:
        """Take back the oldest job; None if there is none, or if the executor has just started it."""
        job, queue = next(iter(self._jobs.values()), (None, None))
        return job if job is not None and queue is not None and queue.dequeue(job) else None

    def take_back(self, job: Job) -> bool:
        """Take back a job; return False if it is not enqueued, or if the executor has just started it."""
        found = self._jobs.get(job.number)
        return found is not None and found[1].dequeue(job)

    def discard(self, job: Job) -> bool:
        """Count a job no more that was started or taken back; return False if it was not enqueued."""
        if self._jobs.pop(job.number, None) is None:
            return False
        job.waits_since = None
        self._slots.withdraw(job.query.lane)
        return True
