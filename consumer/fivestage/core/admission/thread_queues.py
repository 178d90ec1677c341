"""Tracks the queries that wait for a thread of an executor, and until when their waiting makes sense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fivestage.core.job import Job

PATIENCE: Final = 2.0
"""A call may use its query's whole time and block its thread as long; a busy loop notices the end later."""


class _Queue:
    """The queries that wait for the threads of one pool."""

    __slots__ = ("length", "progress_at")

    def __init__(self, now: float) -> None:
        self.length = 0
        self.progress_at = now
        """When a thread last took one of their calls, or when the first one came (monotonic seconds)."""


class ThreadQueues:
    """One queue for each pool of threads: one in this process, or one in each worker process.

    A query waits as long as its queue moves. If no thread has taken a call for PATIENCE times the pipeline's
    total time, all threads are blocked, and waiting is useless.
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
        """End the waiting of a job; *served_at* is when a thread took its call, None if none did."""
        queue = self._queues[job.pool]
        queue.length -= 1
        self._length -= 1
        if served_at is not None:
            queue.progress_at = max(queue.progress_at, served_at)
        if not queue.length:
            del self._queues[job.pool]
        job.waits_since = job.pool = None

    def ends_at(self, job: Job) -> float:
        """Until when a waiting job may wait, unless its queue moves before (monotonic seconds)."""
        return min(job.due_at, self._queues[job.pool].progress_at + PATIENCE * job.plan.total_s)

    def excuse(self, late_s: float) -> None:
        """Discount a stall of the bus loop: for *late_s* it could not have noticed any progress."""
        for queue in self._queues.values():
            queue.progress_at += late_s
