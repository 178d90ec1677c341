"""The dispatcher: the way of a record, from the source to the commit.

Everything here runs on the bus loop and none of it runs user code. Decisions are made synchronously, by
the core; what must be awaited is awaited between them.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from fivestage.core.admission.key_order import KeyOrder
from fivestage.core.admission.poison_pills import PoisonPills
from fivestage.core.admission.slots import Slots
from fivestage.core.codec.decode import DecodeLimits, Readable, Unreadable, UnreadableReason, decode
from fivestage.core.codec.event_json import Envelope
from fivestage.core.job import Job
from fivestage.core.records import CorruptRecord, Output, Record
from fivestage.core.rejection_cause import EXPIRED, STALLED_TWICE
from fivestage.core.tuples import new
from fivestage.dispatch.in_flight import (
    Arrival,
    Candidate,
    Ticket,
    order_key,
    partition_of,
    size_of,
    without_value,
)
from fivestage.dispatch.queue_deadlines import QueueDeadlines
from fivestage.dispatch.rejections import Rejection, Rejections
from fivestage.dispatch.screening import Screening
from fivestage.pipeline.context import Query
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.core.adaptive.lane_state import LearnedState
    from fivestage.core.codec.encode import Encoder
    from fivestage.core.ledger import Ledger, PartitionKey, PartitionOffsets
    from fivestage.core.observer import Observer
    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.records import OutputRecord
    from fivestage.core.rejection_cause import RejectionCause
    from fivestage.dispatch.active_jobs import ActiveJobs
    from fivestage.observability.tracing import Tracing

SLICE_S: Final = 0.001
"""How long queries are started, or rejected, before everything else has its turn."""


class EventSink(Protocol):
    """What the dispatcher needs of a sink."""

    def publish(
        self,
        records: Sequence[OutputRecord],
        on_acked: Callable[[], None],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Publish *records*, or what of them is still wanted, then call *on_acked*."""


class Admission(NamedTuple):
    """Who may run, and when."""

    slots: Slots[Candidate]
    """How many may run, and who is next."""
    screening: Screening
    """What time a query has, and whether to begin it."""
    order: KeyOrder[tuple[str, int, bytes], Arrival | Candidate] | None
    """Keeps equal keys one after the other; None where order does not matter."""


class Dispatcher:
    """Takes records in, hands queries to the executor, publishes what becomes of them.

    Args:
        admission: Who may run, and when.
        learned: What is learned, lane by lane.
        limits: What a record may look like.
        ledger: Offsets of the assigned partitions; the source starts them, the dispatcher finishes them.
        encoder: Writes the events.
        running: Runs the queries.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        learned: LearnedState,
        limits: DecodeLimits,
        ledger: Ledger,
        encoder: Encoder,
        running: ActiveJobs,
        sink: EventSink,
        observer: Observer,
        tracing: Tracing,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._plan = learned.plan
        self._slots, self._screening, self._order = admission
        self._learned = learned
        self._limits = limits
        self._ledger = ledger
        self._encoder = encoder
        self._running = running
        self._sink = sink
        self._observer = observer
        self._tracing = tracing
        self._wall_clock = wall_clock
        self._progress = asyncio.Event()
        self._filling = False
        self._held_up = PoisonPills()
        self.rejections = Rejections(self._tell)
        """Rejected queries whose events are not published yet."""
        self._expiry = QueueDeadlines(self._expire)
        self._ends = 0
        """How many drains of all partitions are under way, those that are assigned meanwhile included."""
        running.on_ended = self._ended
        running.on_slot_free = self._fill
        self.in_flight = 0
        """Records between dispatch and acknowledgement."""
        self.in_line = 0
        """Those of them that wait for another of their key."""
        self.last_progress_at = 0.0
        """When a record last finished, or the first of a burst began (monotonic seconds)."""

    def __repr__(self) -> str:
        return f"<Dispatcher in_flight={self.in_flight} {self._slots}>"

    @property
    def waiting(self) -> int:
        """Records taken in that wait for a slot, for a thread, or for another of their key."""
        return self.queued + self.in_line + self._running.parked

    @property
    def queued(self) -> int:
        """Those of them that wait for a slot."""
        return self._slots.waiting

    @property
    def taken_in(self) -> int:
        """Records in flight, less those with bounds of their own: lines behind keys, and rejections."""
        return self.in_flight - self.in_line - len(self.rejections)

    @property
    def has_memory(self) -> bool:
        """Whether more records may be taken in, by the bytes of those in flight and of their events."""
        return self._slots.has_memory

    @property
    def total_s(self) -> float:
        """The longest that a query may run."""
        return self._plan.total_s

    @property
    def running(self) -> int:
        """Queries that run."""
        return self._slots.running

    @property
    def free_slots(self) -> int:
        """How many more may run now."""
        return max(0, self._slots.limit - self._slots.running)

    async def drain(self, timeout_s: float, keys: frozenset[PartitionKey] | None = None) -> bool:
        """Wait until all records, or those of some partitions, are finished; whether they are.

        What has not started, nor anything behind it, is not waited for: it is left to the next reader. Once
        the drain is over nothing starts in this assignment any more, whatever time passes until the books
        are closed.
        """
        books = [offsets for key, offsets in self._ledger.partitions.items() if keys is None or key in keys]
        for offsets in books:
            offsets.leaving = True
        self._ends += keys is None
        self._leave_waiting()
        try:
            return await self.progressed(lambda: not self._ledger.in_flight(keys), timeout_s)
        finally:  # also when the client's task that waits is cancelled
            self._ends -= keys is None
            for offsets in books if keys is not None else self._ledger.partitions.values():
                offsets.drained = True
            self._leave_waiting()

    def _leave_waiting(self) -> None:
        """Leave to the next reader what waits for a slot, as far as it may be left."""
        for candidate in self._slots.give_up(self._is_leaving):
            candidate.waits = False
            self._put_back(candidate)

    def _is_leaving(self, one: Arrival | Candidate) -> bool:
        offsets = one.offsets
        if offsets.drained:
            return True
        if one.record.offset < offsets.reached:  # the next reader would answer again what is behind it
            return False
        return offsets.leaving or self._ends > 0

    def _put_back(self, one: Arrival | Candidate) -> None:
        if one.record.offset >= one.offsets.reached:  # else its partition is not drained, as others see it
            one.offsets.put_back()
        self._forget(one)

    def _forget(self, one: Arrival | Candidate) -> None:
        """Drop a record: its partition was taken away, or it will be read again."""
        self._slots.input_bytes -= size_of(one.record)
        self._finished()
        self._next_of_key(one.record)

    async def progressed(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a condition that can become true whenever a record finishes."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return condition()
        return True

    # A record comes in

    def dispatch(self, item: Record | CorruptRecord) -> None:
        """Take one record, or the report of a corrupt one, from the source."""
        record = item.record if isinstance(item, CorruptRecord) else item
        key = partition_of(record)
        offsets = self._ledger.offsets(key)
        if offsets is None or offsets.next_offset is None:
            return  # taken away since the fetch, and perhaps given back: it will be read again
        if isinstance(item, CorruptRecord):
            decoded: Readable | Unreadable = Unreadable(UnreadableReason.CORRUPT_RECORD, item.detail)
        else:
            decoded = decode(record, self._limits)
        now = asyncio.get_running_loop().time()
        if not self._may_pass(key, decoded, now):
            offsets.put_back()
            return
        if not self.in_flight:
            self.last_progress_at = now
        self.in_flight += 1
        self._slots.input_bytes += size_of(record)
        one = self._read(record, offsets, decoded, now)
        if self._order is None or self._order.enter(order_key(record), one):
            self._take_up(one, now)
        else:
            self._wait_in_line(one)

    def _read(
        self, record: Record, offsets: PartitionOffsets, decoded: Readable | Unreadable, now: float
    ) -> Arrival | Candidate:
        if isinstance(decoded, Unreadable):
            return Arrival(record, offsets, decoded)
        budget = self._screening.budget(record, decoded, now, self._wall_clock())
        return Candidate(record, offsets, decoded, budget)

    def _may_pass(self, key: PartitionKey, decoded: Readable | Unreadable, now: float) -> bool:
        """Whether a record may be dealt with: not where its partition is halted, before it or now."""
        guard, readable = self._ledger.guard, isinstance(decoded, Readable)
        if key in guard.halted:
            return False
        return guard.admit(key, readable=readable, now=now)

    def _take_up(self, one: Arrival | Candidate, now: float) -> None:
        """Start with a record, or let it wait for a slot."""
        if one.offsets.closed:  # taken away while it waited for another of its key
            self._forget(one)
        elif self._is_leaving(one):
            self._put_back(one)
        elif isinstance(one, Arrival):
            self._reject(one)
        elif not (self._slots.is_free or one.is_due(now)):  # to be rejected it needs no slot
            self._slots.wait(one.readable.lane, one)
            one.waits = True
            self._expiry.watch(one)
        elif (cause := self._begin(one, now)) is not None:
            self._refuse(one, cause, now)

    def _reject(self, arrival: Arrival) -> None:
        record, unreadable = arrival.record, arrival.unreadable
        lane, answered = unreadable.lane or self._limits.default_lane, unreadable.query_id is not None
        self._observer.unreadable(lane, unreadable.reason, answered=answered)
        arrival.offsets.reach(record.offset)
        trace = self._tracing.begin(unreadable.headers, record, unreadable.query_id)
        envelope = Envelope(
            record,
            unreadable.query_id or "",
            lane,
            unreadable.headers.get(h.CE_CORRELATION_ID),
            unreadable.headers.get(h.CE_ID),
            trace.headers,
            self._wall_clock(),
        )
        trace.end(error_type="invalid_query")
        ticket = Ticket(envelope, arrival.offsets, trace, size_of(record))
        self._publish(ticket, self._encoder.unreadable(envelope, unreadable))
        self._next_of_key(record)

    # A record waits for another of its key

    def _wait_in_line(self, one: Arrival | Candidate) -> None:
        one.in_line = True
        self.in_line += 1
        one.offsets.in_line += 1
        one.offsets.line_bytes += size_of(one.record)
        if isinstance(one, Candidate):
            one.waits = True
            self._expiry.watch(one)

    def _waits_no_more(self, one: Arrival | Candidate) -> None:
        self.in_line -= 1
        one.offsets.in_line -= 1
        one.offsets.line_bytes -= size_of(one.record)
        if isinstance(one, Candidate):
            one.waits = False

    def _next_of_key(self, record: Record) -> None:
        """The next record of the same key may be taken up, after this one's events."""
        if self._order is not None and (one := self._order.leave(order_key(record))) is not None:
            asyncio.get_running_loop().call_soon(self._take_up_next, one)

    def _take_up_next(self, one: Arrival | Candidate) -> None:
        if isinstance(one, Candidate) and not one.waits:  # its deadline has passed: it was answered then
            self._next_of_key(one.record)
            return
        self._waits_no_more(one)
        one.in_line = False
        self._take_up(one, asyncio.get_running_loop().time())

    def _expire(self, candidate: Candidate, now: float) -> None:
        """The deadline of a query passes while it waits. One behind its key keeps its place, as a mark."""
        if not candidate.in_line:
            self._slots.remove(candidate.readable.lane, candidate)
            candidate.waits = False
            self._refuse(candidate, EXPIRED, now)
        elif not (candidate.offsets.closed or self._is_leaving(candidate)):  # else it is dropped in its turn
            self._waits_no_more(candidate)
            self._refuse(candidate, EXPIRED, now)
            candidate.record = without_value(candidate.record)

    # A query starts, or is rejected

    def _fill(self) -> None:
        """Give free slots to queries that wait, in a later turn of the loop: events are published first."""
        if self._slots.waiting and not self._filling:
            self._filling = True
            asyncio.get_running_loop().call_soon(self._fill_slice)

    def _fill_slice(self) -> None:
        """Start what waits, for a short time, and not before queries whose time is up have ended."""
        self._filling = False
        clock = asyncio.get_running_loop().time
        now = clock()
        slice_end = now + SLICE_S
        while now < slice_end and now < self._running.rings_at:
            if (candidate := self._slots.next()) is None:
                return
            candidate.waits = False
            self._learned.pressure.note_wait(now, due=candidate.budget.due_at is not None)
            if candidate.offsets.closed:  # taken away while it waited
                self._forget(candidate)
            elif (cause := self._begin(candidate, now)) is not None:
                self._refuse(candidate, cause, now)
            now = clock()
        self._fill()

    def _begin(self, candidate: Candidate, now: float) -> RejectionCause | None:
        """Start a query; if its answer would come too late, say why it is not started."""
        if candidate.record in self._held_up:
            return STALLED_TWICE
        readable, budget = candidate.readable, candidate.budget.started(now)
        lane = self._learned.lane(readable.lane)
        if (cause := self._screening.rejection(budget, lane, readable.lane, now)) is not None:
            return cause
        event = readable.event
        record = candidate.record
        candidate.offsets.reach(record.offset)
        query = Query(event.query_id, event.user_input, readable.lane, event.context or {})
        wall_now = self._wall_clock()
        queue_s = self._screening.queue_s(record, wall_now)
        ticket = self._ticket(
            without_value(record), candidate.offsets, readable, now, wall_now, queue_s, size_of(record)
        )
        self._running.start(
            Job(
                query,
                self._plan,
                started_at=now,
                ends_at=budget.ends_at,
                due_at=budget.due_at,
                routing=lane.routing,
                origin=ticket,
            )
        )
        return None

    def _refuse(self, candidate: Candidate, cause: RejectionCause, now: float) -> None:
        record, readable = candidate.record, candidate.readable
        self._slots.input_bytes -= size_of(record)
        candidate.offsets.reach(record.offset)
        rejection = Rejection(
            without_value(record),
            candidate.offsets,
            readable.query_id,
            readable.lane,
            readable.headers,
            candidate.budget,
            cause,
            self._screening.queue_s(record, self._wall_clock()),
            candidate.in_line,
        )
        self.rejections.add(rejection, now)

    def _tell(self, rejection: Rejection) -> None:
        """Publish that a query is rejected."""
        if rejection.offsets.closed:
            self._finished()
        else:
            self._publish_refusal(rejection)
        if not rejection.in_line:
            self._next_of_key(rejection.record)

    def _publish_refusal(self, rejection: Rejection) -> None:
        now = asyncio.get_running_loop().time()
        wall_now = self._wall_clock()
        ticket = self._ticket(
            rejection.record, rejection.offsets, rejection, now, wall_now, rejection.queue_s, 0
        )
        self._observer.expired(rejection.lane, rejection.cause.reason, ticket.envelope.queue_s)
        ticket.trace.end(error_type="expired")
        self._publish(ticket, self._encoder.expired(ticket.envelope, rejection.budget, rejection.cause))

    def _ticket(
        self,
        record: Record,
        offsets: PartitionOffsets,
        query: Readable | Rejection,
        now: float,
        wall_now: float,
        queue_s: float,
        size: int,
    ) -> Ticket:
        headers, query_id, lane = query.headers, query.query_id, query.lane
        trace = self._tracing.begin(headers, record, query_id)
        ids = headers.get(h.CE_CORRELATION_ID), headers.get(h.CE_ID)
        envelope = new(
            Envelope, (record, query_id, lane, ids[0], ids[1], trace.headers, wall_now, now, queue_s)
        )
        return Ticket(envelope, offsets, trace, size)

    # A query has ended

    def _ended(self, job: Job, conclusion: QueryOutcome, now: float) -> None:
        ticket: Ticket = job.origin
        envelope = ticket.envelope
        if job.started_at > envelope.started_at:  # hardly ever: it has waited for threads
            envelope = envelope.after_wait(job.started_at - envelope.started_at)
        self._held_up.note(envelope.record, now - job.ends_at)
        records, conclusion = self._encoder.concluded(envelope, conclusion)
        self._observer.concluded(job.query.lane, conclusion, envelope.queue_s)
        ticket.trace.conclude(envelope, conclusion)
        self._publish(ticket, records)
        self._next_of_key(envelope.record)
        self._fill()

    def _publish(self, ticket: Ticket, records: list[OutputRecord]) -> None:
        self._slots.input_bytes -= ticket.size
        if ticket.offsets.closed:  # revoked meanwhile: the member that has the partition now answers
            self._acknowledged_for(ticket)
        else:
            size = sum([len(record.value or b"") for record in records])
            if records[0].output is Output.DEAD_LETTERS:  # its key may be as large as a record
                size += len(records[0].key or b"")
            self._slots.hold(size)
            self._sink.publish(
                records, lambda: self._acknowledged(ticket, size), lambda: not ticket.offsets.closed
            )

    def _acknowledged(self, ticket: Ticket, size: int) -> None:
        """All events of a record are acknowledged: its offset may be committed."""
        ticket.offsets.finish(ticket.envelope.record.offset)
        self._acknowledged_for(ticket)
        if self._slots.let_go(size):
            self._fill()

    def _acknowledged_for(self, ticket: Ticket) -> None:
        ticket.trace.acknowledged()
        self._finished()

    def _finished(self) -> None:
        self.in_flight -= 1
        self.last_progress_at = asyncio.get_running_loop().time()
        self._progress.set()
