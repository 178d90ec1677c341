"""Decides what happens to each record, from its arrival until its query has ended.

Runs on the bus loop and never runs user code. Every decision is made synchronously by the core.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fivestage.core.admission.poison_pills import PoisonPills
from fivestage.core.job import Job
from fivestage.core.records import CorruptRecord, Record
from fivestage.core.rejection_cause import EXPIRED, STALLED_TWICE
from fivestage.core.time_slice import TimeSlice
from fivestage.dispatch.active_jobs import ActiveJobs
from fivestage.dispatch.drains import Drains
from fivestage.dispatch.in_flight import NO_BUDGET, InFlightQuery, partition_of
from fivestage.dispatch.key_lines import KeyLines
from fivestage.dispatch.progress import Progress
from fivestage.dispatch.publisher import Publisher
from fivestage.dispatch.queue_deadlines import QueueDeadlines
from fivestage.dispatch.rejections import Rejections
from fivestage.pipeline.context import Query

if TYPE_CHECKING:
    from fivestage.core.adaptive.lane_state import LearnedState
    from fivestage.core.admission.slots import Slots
    from fivestage.core.ledger import Ledger, PartitionKey
    from fivestage.core.observer import Observer
    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.rejection_cause import RejectionCause
    from fivestage.dispatch.events import EventWriter
    from fivestage.dispatch.publisher import EventSink
    from fivestage.dispatch.screening import Screening
    from fivestage.dispatch.watchdog import Watchdog
    from fivestage.executors import Executor


class Dispatcher:
    """Owns each record in flight: queues its query, starts it or rejects it, and has the outcome published.

    Args:
        slots: Limits how many queries run, and chooses the next one.
        screening: Reads the records, and rejects queries that cannot be answered in time.
        by_key: Run records of equal keys one after the other.
        learned: The learned state of each lane.
        ledger: The offsets of the assigned partitions, started by the source and finished by the publisher.
        events: Writes the events.
        sink: Publishes the events.
        executor: Runs the queries.
        watchdog: Looks for overdue and blocked queries.
        observer: Counts what happens to running queries.
    """

    def __init__(
        self,
        *,
        slots: Slots[InFlightQuery],
        screening: Screening,
        by_key: bool,
        learned: LearnedState,
        ledger: Ledger,
        events: EventWriter,
        sink: EventSink,
        executor: Executor,
        watchdog: Watchdog,
        observer: Observer,
    ) -> None:
        self.slots = slots
        self.learned = learned
        self._screening = screening
        self._ledger = ledger
        self._events = events
        self._executor = executor
        self._poison_pills = PoisonPills()
        self._deadlines = QueueDeadlines(self._expire)
        self._is_fill_scheduled = False
        self.key_lines = KeyLines(self._admit, enabled=by_key)
        """Records that wait behind an earlier one of their key."""
        self.rejections = Rejections(self._publish_rejection)
        """Rejected queries whose events are not published yet."""
        self.active = ActiveJobs(
            executor=executor,
            slots=slots,
            learned=learned,
            observer=observer,
            watchdog=watchdog,
            on_ended=self._ended,
            on_expired=self._expired_in_executor,
            on_slot_free=self._fill,
        )
        """Queries that run, or wait in the executor for a slot or a thread."""
        self.progress = Progress()
        self._drains = Drains(ledger, slots, self.active, self.key_lines, self.progress)
        self._publisher = Publisher(sink, slots, self.progress, on_memory_freed=self._fill)

    def __repr__(self) -> str:
        return f"<Dispatcher in_flight={self.in_flight} {self.slots}>"

    @property
    def in_flight(self) -> int:
        """Records between dispatch and acknowledgement."""
        return self.progress.in_flight

    @property
    def waiting(self) -> int:
        """Records in flight that wait for a slot, for a thread, or behind their key."""
        return self.slots.waiting + self.key_lines.length + self.active.parked + len(self.active.enqueued)

    def oldest_wait_since(self) -> float | None:
        """Since when the oldest query has waited for a slot (monotonic seconds); None if none waits."""
        waiting: list[InFlightQuery] = [*self.active.enqueued.origins(), *self.slots.oldest()]
        return min((one.budget.read_at for one in waiting), default=None)

    # Arrival

    def dispatch(self, item: Record | CorruptRecord) -> None:
        """Take in one record, or the report of a corrupt one, from the source."""
        record = item.record if isinstance(item, CorruptRecord) else item
        key = partition_of(record)
        offsets = self._ledger.offsets(key)
        if offsets is None or offsets.next_offset is None:
            return  # revoked since the fetch, perhaps assigned again: the record will be read again
        now = asyncio.get_running_loop().time()
        query, guard = self._screening.read(item, offsets, now), self._ledger.guard
        if key in guard.halted or not guard.admit(key, readable=query.unreadable is None, now=now):
            offsets.put_back()
            return
        self.progress.started(now)
        self.slots.input_bytes += query.size
        if self.key_lines.enter(query):
            self._admit(query, now)
        elif query.is_waiting:
            self._deadlines.watch(query)

    def _admit(self, query: InFlightQuery, now: float) -> None:
        """Start a query, reject it, or let it wait for a slot."""
        if query.offsets.closed:  # revoked while it waited behind its key
            self._drains.drop(query)
        elif self._drains.is_left_behind(query):
            self._drains.put_back(query)
        elif query.unreadable is not None:
            query.offsets.reach(query.record.offset)
            wall_now = self._screening.wall_clock()
            self._publisher.publish(query, self._events.dead_letter(query, query.unreadable, wall_now))
            self.key_lines.leave(query)
        elif not (self.slots.is_free or query.is_due(now)):  # a rejection needs no slot
            self.slots.wait(query.lane, query)
            query.is_waiting = True
            self._deadlines.watch(query)
            if self.slots.may_enqueue and self._executor.local_queue is not None:
                self._fill()
        elif (cause := self._start(query, now)) is not None:
            self._reject(query, cause, now)

    def _expire(self, query: InFlightQuery, now: float) -> None:
        """Reject a waiting query at its end-to-end deadline; one behind its key keeps its place in line."""
        if not query.in_line:
            self.slots.remove(query.lane, query)
            query.is_waiting = False
            self._reject(query, EXPIRED, now)
        elif not (query.offsets.closed or self._drains.is_left_behind(query)):  # else dropped in its turn
            self.key_lines.stop_waiting(query)
            self._reject(query, EXPIRED, now)

    # Starting and ending

    def _fill(self) -> None:
        """Give free slots to waiting queries in the next pass of the loop: events are published first."""
        if self.slots.is_contended and not self._is_fill_scheduled:
            self._is_fill_scheduled = True
            asyncio.get_running_loop().call_soon(self._fill_slice)

    def _fill_slice(self) -> None:
        """Start waiting queries for one time slice; stop when a running query is due to end."""
        self._is_fill_scheduled = False
        time_slice = TimeSlice(asyncio.get_running_loop().time)
        can_enqueue = self._executor.local_queue is not None
        while time_slice.now < self.active.next_end_at:
            if self.slots.enqueued and self.slots.may_run:
                if (job := self.active.enqueued.dequeue_oldest()) is None:
                    return  # the report of its start is on the way
                self._start_dequeued(job)
            elif (query := self.slots.next(or_enqueue=can_enqueue)) is None:
                return
            else:
                self._start_waiting(query, time_slice.now)
            if time_slice.is_over():
                break
        self._fill()

    def _start_waiting(self, query: InFlightQuery, now: float) -> None:
        """Start a query that has waited for a slot, or reject it."""
        query.is_waiting = False
        self.learned.pressure.note_wait(now, due=query.budget.due_at is not None)
        if query.offsets.closed:  # revoked while it waited
            self._drains.drop(query)
        elif (cause := self._start(query, now)) is not None:
            self._reject(query, cause, now)

    def _start_dequeued(self, job: Job) -> None:
        """Start a query that has waited in the executor, unless its partition was revoked meanwhile."""
        if job.origin.offsets.closed:
            self.active.drop_dequeued(job)
            self._drains.drop(job.origin)
        else:
            self.active.start_dequeued(job)

    def _start(self, query: InFlightQuery, now: float) -> RejectionCause | None:
        """Start a query; if it must be rejected instead, return why."""
        record, event = query.record, query.event
        if record in self._poison_pills:
            return STALLED_TWICE
        budget = query.budget.started(now)
        lane = self.learned.lane(query.lane)
        if (cause := self._screening.rejection(budget, lane, query.lane, now)) is not None:
            return cause
        query.offsets.reach(record.offset)
        wall_now = self._screening.wall_clock()
        queue_s = self._screening.queue_s(record, wall_now)
        query.drop_payload()
        self._events.begin(query, now, wall_now, queue_s)
        self.active.start(
            Job(
                Query(event.query_id, event.user_input, query.lane, event.context or {}),
                self.learned.plan,
                started_at=now,
                ends_at=budget.ends_at,
                due_at=budget.due_at,
                routing=lane.routing,
                origin=query,
                trace=query.trace.context,
                allow_partial=event.allow_partial,
            )
        )
        return None

    def _ended(self, job: Job, outcome: QueryOutcome, now: float) -> None:
        """Publish the outcome of a query that ran; then its slot and its key go to the next one."""
        query: InFlightQuery = job.origin
        self._poison_pills.note(query.record, now - job.ends_at)
        query.budget = NO_BUDGET
        self._publisher.publish(query, self._events.outcome(query, job, outcome))
        self.key_lines.leave(query)
        self._fill()

    def _expired_in_executor(self, job: Job, now: float) -> None:
        """Reject a query that has waited in the executor until its end-to-end deadline."""
        self._reject(job.origin, EXPIRED, now)
        self._fill()

    def _reject(self, query: InFlightQuery, cause: RejectionCause, now: float) -> None:
        query.offsets.reach(query.record.offset)
        query.cause = cause
        query.queue_s = self._screening.queue_s(query.record, self._screening.wall_clock())
        query.drop_payload()
        self.slots.input_bytes -= query.size
        query.size = 0
        self.rejections.add(query, now)

    def _publish_rejection(self, query: InFlightQuery) -> None:
        if query.offsets.closed and not query.has_trace:  # there is no trace to end
            self.progress.finished()
        else:
            now, wall_now = asyncio.get_running_loop().time(), self._screening.wall_clock()
            self._publisher.publish(query, self._events.rejection(query, now, wall_now))
        if not query.in_line:
            self.key_lines.leave(query)

    async def drain(self, timeout_s: float, keys: frozenset[PartitionKey] | None = None) -> bool:
        """See Drains."""
        return await self._drains.drain(timeout_s, keys)
