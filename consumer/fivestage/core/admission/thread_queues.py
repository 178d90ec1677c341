"""Tracks the queries that wait for a thread of an executor, and how long waiting may still help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fivestage.core.job import Job

PATIENCE: Final = 2.0
"""Multiples of the pipeline's total time without a taken call after which all threads count as blocked: a
call may take the total time, and a busy loop notices its end later."""


class _Queue:
    """The queries that wait for the threads of one pool."""

    __slots__ = ("length", "progress_at")

    def __init__(self, now: float) -> None:
        self.length = 0
        self.progress_at = now
        """When a thread last took a call of the queue, or else when the queue began (monotonic seconds)."""


class ThreadQueues:
    """One queue for each pool of threads: one in this process, or one in each worker process.

    A query waits as long as threads take calls of its queue. If none was taken for PATIENCE times the
    pipeline's total time, all threads count as blocked, and waiting is useless.
    """

    __slots__ = ("_length", "_queues")

    def __init__(self) -> None:
        self._queues: dict[object, _Queue] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"<ThreadQueues {self._length} waiting for {len(self._queues)} pools>"

    def enter(self, job: Job, pool: object, now: float) -> None:
        """Let a job wait for a thread of *pool* from *now* on (monotonic seconds)."""
        job.waits_since, job.pool = now, pool
        queue = self._queues.get(pool)
        if queue is None:
            queue = self._queues[pool] = _Queue(now)
        queue.length += 1
        self._length += 1

    def leave(self, job: Job, served_at: float | None = None) -> None:
        """End the wait of a job; *served_at* is when a thread took its call, None if none did."""
        queue = self._queues[job.pool]
        queue.length -= 1
        self._length -= 1
        if served_at is not None:
            queue.progress_at = max(queue.progress_at, served_at)
        if not queue.length:
            del self._queues[job.pool]
        job.waits_since = job.pool = None

    def ends_at(self, job: Job) -> float:
        """Until when a job may wait if no thread takes a call of its queue (monotonic seconds)."""
        return min(job.due_at, self._queues[job.pool].progress_at + PATIENCE * job.plan.total_s)

    def excuse(self, late_s: float) -> None:
        """Discount a stall of the bus loop of *late_s*, in which progress went unnoticed."""
        for queue in self._queues.values():
            queue.progress_at += late_s
