"""The dispatcher: the way of a record, from the source to the commit.

Everything here runs on the bus loop and none of it runs user code. Decisions are made synchronously, by
the core; what must be awaited is awaited between them.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from fivestage.arrivals import Arrival, Candidate, Ticket, order_key, partition_of
from fivestage.context import Query
from fivestage.core.admission import Slots
from fivestage.core.causes import EXPIRED, STALLED_TWICE
from fivestage.core.decode import DecodeLimits, Readable, Unreadable, UnreadableReason, decode
from fivestage.core.event_json import Envelope
from fivestage.core.held import HeldUp
from fivestage.core.job import Job
from fivestage.core.ordering import KeyOrder
from fivestage.core.records import CorruptRecord, PlainRecord, Record
from fivestage.core.tuples import new
from fivestage.refusals import Refusal, Refusals
from fivestage.screening import Screening
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from fivestage.core.causes import Cause
    from fivestage.core.encode import Encoder
    from fivestage.core.events import Observer
    from fivestage.core.ledger import Ledger, PartitionKey, PartitionLedger
    from fivestage.core.outcome import Conclusion
    from fivestage.core.policy import Policies
    from fivestage.core.records import OutputRecord
    from fivestage.running import Running
    from fivestage.telemetry.tracing import Tracing

SLICE_S: Final = 0.001
"""How long queries are begun, or refused, before everything else has its turn."""


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
    order: KeyOrder[tuple[str, int, bytes], Arrival] | None
    """Keeps equal keys one after the other; None where order does not matter."""


class Dispatcher:
    """Takes records in, hands queries to the executor, publishes what becomes of them.

    Args:
        admission: Who may run, and when.
        policies: What is learned, lane by lane.
        limits: What a record may look like.
        ledger: Books of the assigned partitions; records are begun by the source and finished here.
        encoder: Writes the events.
        running: Runs the queries.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        policies: Policies,
        limits: DecodeLimits,
        ledger: Ledger,
        encoder: Encoder,
        running: Running,
        sink: EventSink,
        observer: Observer,
        tracing: Tracing,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._plan = policies.plan
        self._slots, self._screening, self._order = admission
        self._policies = policies
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
        self._held_up = HeldUp()
        self.refusals = Refusals(self._tell)
        """Those who must be told that they are refused."""
        self._leaving: list[Collection[PartitionKey]] = []
        """Partitions of which nothing more is begun, by the drains under way."""
        running.on_ended = self._ended
        running.on_slot_free = self._fill
        self.in_flight = 0
        """Records between dispatch and acknowledgement."""
        self.last_progress_at = 0.0
        """When a record last finished, or the first of a burst began (monotonic seconds)."""

    def __repr__(self) -> str:
        return f"<Dispatcher in_flight={self.in_flight} {self._slots}>"

    @property
    def waiting(self) -> int:
        """Records taken in that wait for a slot, for a thread, or for another of their key."""
        return self.queued + self._running.parked

    @property
    def queued(self) -> int:
        """Those of them that have not started: they wait for a slot, or for another of their key."""
        return self._slots.waiting + (self._order.waiting if self._order else 0)

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

        What has not begun, nor anything behind it, is not waited for: it is left to the next reader.
        """
        leaving = self._ledger.books.keys() if keys is None else keys
        self._leaving.append(leaving)
        try:
            for candidate in self._slots.give_up(self._is_leaving):
                self._put_back(candidate)
            return await self.progressed(lambda: not self._ledger.in_flight(keys), timeout_s)
        finally:  # also when the client's task that waits is cancelled
            self._leaving = [other for other in self._leaving if other is not leaving]

    def _is_leaving(self, one: Arrival | Candidate) -> bool:
        if one.record.offset < one.book.reached:  # the next reader would answer again what is behind it
            return False
        if one.book.left_from is not None and one.record.offset > one.book.left_from:
            return True  # the next reader would answer what is before it later
        partition = partition_of(one.record)
        return any(partition in leaving for leaving in self._leaving)

    def _put_back(self, one: Arrival | Candidate) -> None:
        one.book.leave(one.record.offset)
        self._forget(one)

    def _forget(self, one: Arrival | Candidate | Refusal) -> None:
        """A record is dropped without a word: it is not ours any more, or will be read again."""
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
        book = self._ledger.book(key)
        if book is None or book.next_offset is None:
            return  # taken away since the fetch, and perhaps given back: it will be read again
        if isinstance(item, CorruptRecord):
            decoded: Readable | Unreadable = Unreadable(UnreadableReason.CORRUPT_RECORD, item.detail)
        else:
            decoded = decode(record, self._limits)
        now = asyncio.get_running_loop().time()
        if not self._may_pass(key, decoded, now):
            book.put_back()
            return
        if not self.in_flight:
            self.last_progress_at = now
        self.in_flight += 1
        arrival = Arrival(record, book, decoded)
        if self._order is None or self._order.enter(order_key(record), arrival):
            self._take_up(arrival, now)

    def _may_pass(self, key: PartitionKey, decoded: Readable | Unreadable, now: float) -> bool:
        """Whether a record may be dealt with: not where its partition is halted, before it or now."""
        guard, readable = self._ledger.guard, isinstance(decoded, Readable)
        if key in guard.halted:
            return False
        return guard.admit(key, readable=readable, now=now)

    def _take_up(self, arrival: Arrival, now: float) -> None:
        """Begin with a record, or let it wait for a slot."""
        decoded = arrival.decoded
        if arrival.book.closed:  # taken away while it waited for another of its key
            self._forget(arrival)
        elif (self._leaving or arrival.book.left_from is not None) and self._is_leaving(arrival):
            self._put_back(arrival)
        elif isinstance(decoded, Unreadable):
            self._reject(arrival, decoded)
        else:
            budget = self._screening.budget(arrival.record, decoded, now, self._wall_clock())
            candidate = Candidate(arrival.record, arrival.book, decoded, budget)
            if not (self._slots.is_free or budget.expired):  # to be refused it needs no slot
                self._slots.wait(decoded.lane, candidate)
            elif (cause := self._begin(candidate, now)) is not None:
                self._refuse(candidate, cause, now)

    def _reject(self, arrival: Arrival, unreadable: Unreadable) -> None:
        record = arrival.record
        lane, answered = unreadable.lane or self._limits.default_lane, unreadable.query_id is not None
        self._observer.unreadable(lane, unreadable.reason, answered=answered)
        arrival.book.reach(record.offset)
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
        self._publish(Ticket(envelope, arrival.book, trace), self._encoder.unreadable(envelope, unreadable))

    # A query begins, or is refused

    def end_waiting(self, now: float) -> None:
        """Tell those whose time is up while they wait."""
        over = self._slots.give_up(lambda one: one.budget.due_at is not None and one.budget.due_at <= now)
        for candidate in over:
            self._refuse(candidate, EXPIRED, now)

    def _fill(self) -> None:
        """Give free slots to those who wait. Whoever comes too late for one is told when there is time."""
        if not self._slots.waiting:
            return
        clock = asyncio.get_running_loop().time
        now = clock()
        slice_end = now + SLICE_S
        while now < slice_end:
            if (candidate := self._slots.next()) is None:
                return
            self._policies.pressure.press(now, due=candidate.budget.due_at is not None)
            if candidate.book.closed:  # taken away while it waited
                self._forget(candidate)
            elif (cause := self._begin(candidate, now)) is not None:
                self._refuse(candidate, cause, now)
            now = clock()
        if not self._filling:
            self._filling = True
            asyncio.get_running_loop().call_soon(self._go_on_filling)

    def _go_on_filling(self) -> None:
        self._filling = False
        self._fill()

    def _begin(self, candidate: Candidate, now: float) -> Cause | None:
        """Start a query; if its answer would come too late, say why it is not started."""
        if candidate.record in self._held_up:
            return STALLED_TWICE
        readable, budget = candidate.readable, candidate.budget.begun(now)
        lane = self._policies.lane(readable.lane)
        if (cause := self._screening.refusal(budget, lane, readable.lane, now)) is not None:
            return cause
        event = readable.event
        candidate.book.reach(candidate.record.offset)
        query = Query(event.query_id, event.user_input, readable.lane, event.context or {})
        wall_now = self._wall_clock()
        queue_s = self._screening.queue_s(candidate.record, wall_now)
        ticket = self._ticket(candidate.record, candidate.book, readable, now, wall_now, queue_s)
        self._running.start(
            Job(
                query,
                self._plan,
                started_at=now,
                ends_at=budget.ends_at,
                due_at=budget.due_at,
                advice=lane.advice,
                origin=ticket,
            )
        )
        return None

    def _refuse(self, candidate: Candidate, cause: Cause, now: float) -> None:
        record, readable = candidate.record, candidate.readable
        plain = PlainRecord(record.topic, record.partition, record.offset, record.timestamp, record.key)
        candidate.book.reach(record.offset)
        refusal = Refusal(
            plain,
            candidate.book,
            readable.query_id,
            readable.lane,
            readable.headers,
            candidate.budget,
            cause,
            self._screening.queue_s(record, self._wall_clock()),
        )
        self.refusals.add(refusal, now)

    def _tell(self, refusal: Refusal) -> None:
        """Publish that a query is refused."""
        if refusal.book.closed:
            self._forget(refusal)
            return
        now = asyncio.get_running_loop().time()
        ticket = self._ticket(refusal.record, refusal.book, refusal, now, self._wall_clock(), refusal.queue_s)
        self._observer.expired(refusal.lane, refusal.cause.reason, ticket.envelope.queue_s)
        ticket.trace.end(error_type="expired")
        self._publish(ticket, self._encoder.expired(ticket.envelope, refusal.budget, refusal.cause))

    def _ticket(
        self,
        record: Record,
        book: PartitionLedger,
        query: Readable | Refusal,
        now: float,
        wall_now: float,
        queue_s: float,
    ) -> Ticket:
        headers, query_id, lane = query.headers, query.query_id, query.lane
        trace = self._tracing.begin(headers, record, query_id)
        ids = headers.get(h.CE_CORRELATION_ID), headers.get(h.CE_ID)
        envelope = new(
            Envelope, (record, query_id, lane, ids[0], ids[1], trace.headers, wall_now, now, queue_s)
        )
        return Ticket(envelope, book, trace)

    # A query has ended

    def _ended(self, job: Job, conclusion: Conclusion, now: float) -> None:
        self._fill()
        ticket: Ticket = job.origin
        envelope = ticket.envelope
        if job.started_at > envelope.started_at:  # hardly ever: it has waited for threads
            envelope = envelope.after_wait(job.started_at - envelope.started_at)
        self._held_up.note(envelope.record, now - job.ends_at)
        records, conclusion = self._encoder.concluded(envelope, conclusion)
        self._observer.concluded(job.query.lane, conclusion, envelope.queue_s)
        ticket.trace.conclude(envelope, conclusion)
        self._publish(ticket, records)

    def _publish(self, ticket: Ticket, records: list[OutputRecord]) -> None:
        if ticket.book.closed:  # taken away meanwhile: whoever has the partition now answers
            self._acknowledged_for(ticket)
        else:
            size = sum([len(record.value or b"") for record in records])
            self._slots.hold(size)
            self._sink.publish(
                records, lambda: self._acknowledged(ticket, size), lambda: not ticket.book.closed
            )
        self._next_of_key(ticket.envelope.record)

    def _next_of_key(self, record: Record) -> None:
        """The next record of the same key may be taken up, after this one's events."""
        if self._order is not None and (arrival := self._order.leave(order_key(record))) is not None:
            asyncio.get_running_loop().call_soon(self._take_up_next, arrival)

    def _take_up_next(self, arrival: Arrival) -> None:
        self._take_up(arrival, asyncio.get_running_loop().time())

    def _acknowledged(self, ticket: Ticket, size: int) -> None:
        """All events of a record are acknowledged: its offset may be committed."""
        ticket.book.finish(ticket.envelope.record.offset)
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
