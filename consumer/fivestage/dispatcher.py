"""The dispatcher: the way of a record, from the source to the commit.

Everything here runs on the bus loop and none of it runs user code. Decisions are made synchronously, by
the core; what must be awaited is awaited between them.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fivestage.context import Query
from fivestage.core.admission import Gate, InFlightLimit
from fivestage.core.deadline import grant
from fivestage.core.decode import DecodeLimits, Readable, Unreadable, UnreadableReason, decode
from fivestage.core.event_json import Envelope
from fivestage.core.job import Job
from fivestage.core.ledger import Ledger, PartitionKey, PartitionLedger
from fivestage.core.outcome import conclude
from fivestage.core.records import CorruptRecord
from fivestage_schemas import TimeoutReason
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.core.encode import Encoder
    from fivestage.core.events import Observer
    from fivestage.core.plan import Plan
    from fivestage.core.records import OutputRecord, Record
    from fivestage.executors import Executor
    from fivestage.settings import AdmissionSettings
    from fivestage.telemetry.tracing import QueryTrace, Tracing

SLICE_S = 0.001
"""How long records are taken in before everything else has its turn."""
LONG_WAIT_S = 1.0
"""A gate closed for longer pauses the source; before that it is only not asked for more."""


class RecordSource(Protocol):
    """What the dispatcher needs of a source."""

    async def fetch(self, max_records: int) -> Sequence[Record | CorruptRecord]:
        """What came; an empty list after a short wait."""

    def pause(self) -> None:
        """Fetch nothing until resumed; ``fetch`` is still called."""

    def resume(self) -> None:
        """Undo pause."""


class EventSink(Protocol):
    """What the dispatcher needs of a sink."""

    def publish(self, records: Sequence[OutputRecord], on_acked: Callable[[], None]) -> None:
        """Publish *records*, then call *on_acked*."""


class Ticket(NamedTuple):
    """A record in flight: what to publish about it, and where to enter that it is finished."""

    envelope: Envelope
    book: PartitionLedger
    trace: QueryTrace


class Dispatcher:
    """Takes records in, hands queries to the executor, publishes what becomes of them.

    Args:
        plan: Limits of the stages.
        admission: How much may be in flight, and what is too old.
        limits: What a record may look like.
        ledger: Books of the assigned partitions; records are begun by the source and finished here.
        encoder: Writes the events.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        admission: AdmissionSettings,
        limits: DecodeLimits,
        ledger: Ledger,
        encoder: Encoder,
        executor: Executor,
        sink: EventSink,
        observer: Observer,
        tracing: Tracing,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._plan = plan
        self._ttl_ms = admission.query_ttl_ms
        self._limits = limits
        self._ledger = ledger
        self._encoder = encoder
        self._executor = executor
        self._sink = sink
        self._observer = observer
        self._tracing = tracing
        self._wall_clock = wall_clock
        self._gate = Gate(InFlightLimit.of(admission.max_in_flight))
        self._stopping = False
        self._progress = asyncio.Event()
        self.in_flight = 0
        """Records between dispatch and acknowledgement."""
        self.last_progress_at = 0.0
        """When a record last finished, or the first of a burst began (monotonic seconds)."""

    def __repr__(self) -> str:
        return f"<Dispatcher in_flight={self.in_flight} {self._gate}>"

    # The fetch loop

    async def run(self, source: RecordSource) -> None:
        """Fetch and dispatch until ``stop``; whatever the source raises ends it."""
        while not self._stopping:
            if not self._gate.update(self.in_flight):
                await self._wait_for_room(source)
                continue
            fetched = await source.fetch(self._gate.room(self.in_flight))
            if fetched:
                self._observer.received(len(fetched))
            await self._dispatch_all(fetched)

    async def _dispatch_all(self, fetched: Sequence[Record | CorruptRecord]) -> None:
        """Dispatch in slices: parsing must not hold back the deadlines of the queries in flight."""
        clock = asyncio.get_running_loop().time
        slice_end = clock() + SLICE_S
        for item in fetched:
            self.dispatch(item)
            if clock() > slice_end:
                await asyncio.sleep(0)
                slice_end = clock() + SLICE_S

    def stop(self) -> None:
        """Fetch no more; what is in flight goes on."""
        self._stopping = True

    async def _wait_for_room(self, source: RecordSource) -> None:
        """Wait until the gate opens. A long wait pauses the source and goes on calling it, to stay in."""
        if await self._progressed(lambda: self._gate.update(self.in_flight), LONG_WAIT_S):
            return
        source.pause()
        while not (self._gate.update(self.in_flight) or self._stopping):
            # A rebalance may have delivered before the pause was applied.
            await self._dispatch_all(await source.fetch(1))
        source.resume()

    async def drain(self, timeout_s: float, keys: frozenset[PartitionKey] | None = None) -> bool:
        """Wait until all records, or those of some partitions, are finished; whether they are."""
        return await self._progressed(lambda: not self._ledger.in_flight(keys), timeout_s)

    async def _progressed(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a condition that can become true whenever a record finishes."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return condition()
        return True

    # The way of one record

    def dispatch(self, item: Record | CorruptRecord) -> None:
        """Take one record, or the report of a corrupt one, from the source."""
        record = item.record if isinstance(item, CorruptRecord) else item
        book = self._ledger.book(PartitionKey(record.topic, record.partition))
        if book is None or book.next_offset is None:
            return  # taken away since the fetch, and perhaps given back: it will be read again
        if not self.in_flight:
            self.last_progress_at = asyncio.get_running_loop().time()
        self.in_flight += 1
        if isinstance(item, CorruptRecord):
            decoded: Readable | Unreadable = Unreadable(UnreadableReason.CORRUPT_RECORD, item.detail)
        else:
            decoded = decode(record, self._limits)
        if isinstance(decoded, Unreadable):
            self._reject(record, book, decoded)
        else:
            self._admit(record, book, decoded)

    def _reject(self, record: Record, book: PartitionLedger, unreadable: Unreadable) -> None:
        lane, answered = unreadable.lane or self._limits.default_lane, unreadable.query_id is not None
        self._observer.unreadable(lane, unreadable.reason, answered=answered)
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
        self._publish(Ticket(envelope, book, trace), self._encoder.unreadable(envelope, unreadable))

    def _admit(self, record: Record, book: PartitionLedger, readable: Readable) -> None:
        """Start a query, or refuse it because its answer would come too late."""
        event, now, wall_now = readable.event, asyncio.get_running_loop().time(), self._wall_clock()
        written_at = record.timestamp / 1000 if record.timestamp > 0 else None
        budget = grant(
            now=now,
            wall_now=wall_now,
            total_s=self._plan.total_s,
            budget_ms=event.budget_ms,
            deadline=event.deadline,
            expiry_time=readable.expiry_time,
            written_at=written_at,
            ttl_ms=self._ttl_ms,
        )
        trace = self._tracing.begin(readable.headers, record, event.query_id)
        envelope = Envelope(
            record,
            event.query_id,
            readable.lane,
            readable.headers.get(h.CE_CORRELATION_ID),
            readable.headers.get(h.CE_ID),
            trace.headers,
            wall_now,
            now,
            self._queue_s(written_at, wall_now),
        )
        ticket = Ticket(envelope, book, trace)
        if budget.expired:
            self._observer.expired(readable.lane, TimeoutReason.EXPIRED_BEFORE_START, envelope.queue_s)
            trace.end(error_type="expired")
            self._publish(ticket, self._encoder.expired(envelope, budget, TimeoutReason.EXPIRED_BEFORE_START))
            return
        query = Query(event.query_id, event.user_input, readable.lane, event.context or {})
        self._start(Job(query, self._plan, started_at=now, ends_at=budget.ends_at, origin=ticket))

    def _queue_s(self, written_at: float | None, wall_now: float) -> float:
        if written_at is None:
            return 0.0
        if written_at > wall_now:
            self._observer.clock_skewed()
            return 0.0
        return wall_now - written_at

    def _start(self, job: Job) -> None:
        """Hand a job over, and see to it that it ends at its deadline whatever the executor does."""
        job.timer = asyncio.get_running_loop().call_at(job.ends_at, self._at_deadline, job)
        self._executor.submit(job)

    def _at_deadline(self, job: Job) -> None:
        job.timer = None  # it would keep the job alive until the garbage collector finds the two
        if not job.ended:
            self._conclude(job)
            self._executor.cancel(job)

    def finished(self, job: Job) -> None:
        """The executor has no more to do for *job* (its ``on_finished``)."""
        if job.ended:
            self._observer.came_late()
            return
        job.timer.cancel()
        job.timer = None
        self._conclude(job)

    def _conclude(self, job: Job) -> None:
        job.ended = True
        ticket: Ticket = job.origin
        now = asyncio.get_running_loop().time()
        conclusion = conclude(job.trail, job.plan, started_at=job.started_at, ends_at=job.ends_at, now=now)
        records, conclusion = self._encoder.concluded(ticket.envelope, conclusion)
        self._observer.concluded(ticket.envelope.lane, conclusion, ticket.envelope.queue_s)
        ticket.trace.conclude(ticket.envelope, conclusion)
        self._publish(ticket, records)

    def _publish(self, ticket: Ticket, records: list[OutputRecord]) -> None:
        if ticket.book.closed:  # taken away meanwhile: whoever has the partition now answers
            self._finished(ticket)
        else:
            self._sink.publish(records, lambda: self._acknowledged(ticket))

    def _acknowledged(self, ticket: Ticket) -> None:
        """All events of a record are acknowledged: its offset may be committed."""
        ticket.book.finish(ticket.envelope.record.offset)
        self._finished(ticket)

    def _finished(self, ticket: Ticket) -> None:
        ticket.trace.acknowledged()
        self.in_flight -= 1
        self.last_progress_at = asyncio.get_running_loop().time()
        self._progress.set()
