"""The dispatcher: the way of a record, from the source to the commit.

Everything here runs on the bus loop and none of it runs user code. Decisions are made synchronously, by
the core; what must be awaited is awaited between them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fivestage.context import Query
from fivestage.core.deadline import grant
from fivestage.core.decode import DecodeLimits, Readable, Unreadable, UnreadableReason, decode
from fivestage.core.event_json import Envelope
from fivestage.core.job import Job
from fivestage.core.ledger import Ledger, PartitionKey, PartitionLedger
from fivestage.core.outcome import CLOCK_SLACK_S, conclude
from fivestage.core.records import CorruptRecord
from fivestage.core.shed import Verdict
from fivestage_schemas import PipelineStatus, TimeoutReason
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from fivestage.core.admission import Slots
    from fivestage.core.deadline import Budget
    from fivestage.core.encode import Encoder
    from fivestage.core.events import Observer
    from fivestage.core.ordering import KeyOrder
    from fivestage.core.outcome import Conclusion
    from fivestage.core.policy import LanePolicy, Policies
    from fivestage.core.records import OutputRecord, Record
    from fivestage.core.shed import Shedder
    from fivestage.executors import Executor
    from fivestage.telemetry.tracing import QueryTrace, Tracing

SLICE_S = 0.001
"""How long waiting queries are begun, or refused, before everything else has its turn."""
PRESSED_S = 1.0
"""For so long after a query had to wait, slots are dear: only those likely to be in time get one."""
LIKELY, EVEN = 0.95, 0.5
MARGIN, MAX_SHARE = 2.0, 0.5
"""Where slots are dear somebody is refused in any case: better those who would only just be in time, as a
queue that is worked off at the very edge of its deadlines loses many to the least disturbance."""


class EventSink(Protocol):
    """What the dispatcher needs of a sink."""

    def publish(self, records: Sequence[OutputRecord], on_acked: Callable[[], None]) -> None:
        """Publish *records*, then call *on_acked*."""


class Arrival(NamedTuple):
    """A record that was taken in, and not begun yet."""

    record: Record
    book: PartitionLedger
    decoded: Readable | Unreadable
    due_at: float | None = None
    """Until when its answer is of use (monotonic seconds); None = as long as it takes."""


class Admission(NamedTuple):
    """Who may run, and when."""

    slots: Slots[Arrival]
    """How many may run, and who is next."""
    shedder: Shedder
    """Refuses what cannot be answered in time."""
    order: KeyOrder[tuple[str, int, bytes], Arrival] | None
    """Keeps equal keys one after the other; None where order does not matter."""
    ttl_ms: int
    """How long after its timestamp a record is of use; 0 = for ever."""


class Ticket(NamedTuple):
    """A record in flight: what to publish about it, and where to enter that it is finished."""

    envelope: Envelope
    book: PartitionLedger
    trace: QueryTrace


class Dispatcher:
    """Takes records in, hands queries to the executor, publishes what becomes of them.

    Args:
        admission: Who may run, and when.
        policies: What is learned, lane by lane.
        limits: What a record may look like.
        ledger: Books of the assigned partitions; records are begun by the source and finished here.
        encoder: Writes the events.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        policies: Policies,
        limits: DecodeLimits,
        ledger: Ledger,
        encoder: Encoder,
        executor: Executor,
        sink: EventSink,
        observer: Observer,
        tracing: Tracing,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._plan = policies.plan
        self._slots, self._shedder, self._order, self._ttl_ms = admission
        self._policies = policies
        self._limits = limits
        self._ledger = ledger
        self._encoder = encoder
        self._executor = executor
        self._sink = sink
        self._observer = observer
        self._tracing = tracing
        self._wall_clock = wall_clock
        self._progress = asyncio.Event()
        self._overdue: deque[Arrival] = deque()
        """Those whose time was up while they waited."""
        self._going_on = False
        self._pressed_until = 0.0
        self._leaving: list[Collection[PartitionKey]] = []
        """Partitions of which nothing more is begun, by the drains under way."""
        self.jobs: set[Job] = set()
        """The queries that run."""
        self.in_flight = 0
        """Records between dispatch and acknowledgement."""
        self.last_progress_at = 0.0
        """When a record last finished, or the first of a burst began (monotonic seconds)."""
        self.on_first: Callable[[], None] = lambda: None
        """Called when a query begins to run and none did before."""

    def __repr__(self) -> str:
        return f"<Dispatcher in_flight={self.in_flight} {self._slots}>"

    @property
    def waiting(self) -> int:
        """Records taken in that wait for a slot, or for another of their key."""
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

        What has not begun is not waited for: whoever reads the partition next gets it.
        """
        leaving = self._ledger.books.keys() if keys is None else keys
        self._leaving.append(leaving)
        for arrival in self._slots.give_up(self._is_leaving):
            self._put_back(arrival)
        drained = await self.progressed(lambda: not self._ledger.in_flight(keys), timeout_s)
        self._leaving = [other for other in self._leaving if other is not leaving]
        return drained

    def _is_leaving(self, arrival: Arrival) -> bool:
        partition = _partition(arrival.record)
        return any(partition in leaving for leaving in self._leaving)

    def _put_back(self, arrival: Arrival) -> None:
        arrival.book.put_back()
        self._forget(arrival)

    def _forget(self, arrival: Arrival) -> None:
        """A record is dropped without a word: it is not ours any more, or will be read again."""
        self._finished()
        self._next_of_key(arrival.record)

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
        book = self._ledger.book(_partition(record))
        if book is None or book.next_offset is None:
            return  # taken away since the fetch, and perhaps given back: it will be read again
        if not self.in_flight:
            self.last_progress_at = asyncio.get_running_loop().time()
        self.in_flight += 1
        if isinstance(item, CorruptRecord):
            decoded: Readable | Unreadable = Unreadable(UnreadableReason.CORRUPT_RECORD, item.detail)
        else:
            decoded = decode(record, self._limits)
        arrival = Arrival(record, book, decoded)
        if self._order is None or self._order.enter(_order_key(record), arrival):
            self._take_up(arrival)

    def _take_up(self, arrival: Arrival) -> None:
        """Begin with a record, or let it wait for a slot."""
        decoded = arrival.decoded
        if arrival.book.closed:  # taken away while it waited for another of its key
            self._forget(arrival)
        elif self._leaving and self._is_leaving(arrival):
            self._put_back(arrival)
        elif isinstance(decoded, Unreadable):
            self._reject(arrival, decoded)
        elif self._slots.is_free:
            self._admit(arrival, decoded)
        else:
            budget = self._grant(arrival, decoded, asyncio.get_running_loop().time(), self._wall_clock())
            if budget.expired:
                self._admit(arrival, decoded)  # it needs no slot
            else:
                self._slots.wait(decoded.lane, arrival._replace(due_at=budget.due_at))

    def _reject(self, arrival: Arrival, unreadable: Unreadable) -> None:
        record = arrival.record
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
        self._publish(Ticket(envelope, arrival.book, trace), self._encoder.unreadable(envelope, unreadable))

    # A query begins, or is refused

    def end_waiting(self, now: float) -> None:
        """Tell those whose time is up while they wait."""
        self._overdue += self._slots.give_up(lambda one: one.due_at is not None and one.due_at <= now)
        self._go_on_soon()

    def _go_on_soon(self) -> None:
        """Look after those who wait, once the callbacks that are due have had their turn."""
        if not self._going_on:
            self._going_on = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Give free slots to those who wait, in slices: refusing many must not hold back deadlines."""
        self._going_on = False
        clock = asyncio.get_running_loop().time
        slice_end = clock() + SLICE_S
        while (arrival := self._next_waiting()) is not None:
            self._admit_waiting(arrival)
            if clock() > slice_end:
                self._go_on_soon()
                return

    def _next_waiting(self) -> Arrival | None:
        if self._overdue:
            return self._overdue.popleft()
        if (arrival := self._slots.next()) is not None:
            self._pressed_until = asyncio.get_running_loop().time() + PRESSED_S
        return arrival

    def _admit_waiting(self, arrival: Arrival) -> None:
        if arrival.book.closed:  # taken away while it waited
            self._forget(arrival)
        elif isinstance(arrival.decoded, Readable):
            self._admit(arrival, arrival.decoded)

    def _admit(self, arrival: Arrival, readable: Readable) -> None:
        """Start a query, or refuse it because its answer would come too late."""
        now, wall_now = asyncio.get_running_loop().time(), self._wall_clock()
        budget = self._grant(arrival, readable, now, wall_now)
        record, event, lane = arrival.record, readable.event, self._policies.lane(readable.lane)
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
            self._queue_s(record, wall_now),
        )
        ticket = Ticket(envelope, arrival.book, trace)
        if (reason := self._refusal(budget, lane, readable.lane, now)) is not None:
            self._observer.expired(readable.lane, reason, envelope.queue_s)
            trace.end(error_type="expired")
            self._publish(ticket, self._encoder.expired(envelope, budget, reason))
            return
        query = Query(event.query_id, event.user_input, readable.lane, event.context or {})
        ends_at = budget.ends_at
        self._start(
            Job(query, self._plan, started_at=now, ends_at=ends_at, advice=lane.advice, origin=ticket)
        )

    def _grant(self, arrival: Arrival, readable: Readable, now: float, wall_now: float) -> Budget:
        """What a query may take; one that has waited keeps its deadline, however the wall clock was set."""
        budget = grant(
            now=now,
            wall_now=wall_now,
            total_s=self._plan.total_s,
            budget_ms=readable.event.budget_ms,
            deadline=readable.event.deadline,
            expiry_time=readable.expiry_time,
            written_at=_written_at(arrival.record),
            ttl_ms=self._ttl_ms,
        )
        return budget if arrival.due_at is None else budget.not_beyond(arrival.due_at, now)

    def _refusal(self, budget: Budget, policy: LanePolicy, lane: str, now: float) -> TimeoutReason | None:
        """Why a query is not begun. Where slots are dear its chances must be good, else even ones will do."""
        if budget.expired:
            return TimeoutReason.EXPIRED_BEFORE_START
        if budget.granted_s >= self._plan.total_s:
            return None
        verdict = self._shedder.judge(
            now, left_s=budget.granted_s, needed_s=self._needed_s(budget, policy, now)
        )
        if verdict is Verdict.RUN:
            return None
        self._observer.shed(lane, refused=verdict is Verdict.REFUSE)
        return TimeoutReason.WOULD_EXPIRE if verdict is Verdict.REFUSE else None

    def _needed_s(self, budget: Budget, policy: LanePolicy, now: float) -> float | None:
        """The time that a query must have left to be begun; None where nothing is known."""
        if now >= self._pressed_until:
            return policy.answer_time_s(EVEN)
        likely_s = policy.answer_time_s(LIKELY)
        if budget.due_at is None or likely_s is None:  # waiting has cost it nothing
            return likely_s
        return max(min(MARGIN * likely_s, MAX_SHARE * self._plan.total_s), policy.answer_time_s(EVEN) or 0.0)

    def _queue_s(self, record: Record, wall_now: float) -> float:
        written_at = _written_at(record)
        if written_at is None:
            return 0.0
        if written_at > wall_now:
            self._observer.clock_skewed()
            return 0.0
        return wall_now - written_at

    def _start(self, job: Job) -> None:
        """Hand a job over, and see to it that it ends at its deadline whatever the executor does."""
        job.timer = asyncio.get_running_loop().call_at(job.ends_at, self._at_deadline, job)
        if not self.jobs:
            self.on_first()
        self.jobs.add(job)
        self._slots.occupy(job.query.lane)
        self._executor.submit(job)

    # A query ends

    def _at_deadline(self, job: Job) -> None:
        job.timer = None  # it would keep the job alive until the garbage collector finds the two
        if not job.ended:
            self._executor.cancel(job)
            self._conclude(job)

    def finished(self, job: Job) -> None:
        """The executor has no more to do for *job* (its ``on_finished``)."""
        if job.ended:
            self._observer.came_late()
        else:
            self._conclude(job)

    def _conclude(self, job: Job) -> None:
        job.end()
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        ticket: Ticket = job.origin
        now, lane = asyncio.get_running_loop().time(), job.query.lane
        conclusion = conclude(job.trail, job.plan, started_at=job.started_at, ends_at=job.ends_at, now=now)
        self._learn(job, conclusion, now)
        self.jobs.discard(job)
        self._slots.release(lane)
        self._go_on_soon()
        records, conclusion = self._encoder.concluded(ticket.envelope, conclusion)
        self._observer.concluded(lane, conclusion, ticket.envelope.queue_s)
        ticket.trace.conclude(ticket.envelope, conclusion)
        self._publish(ticket, records)

    def _learn(self, job: Job, conclusion: Conclusion, now: float) -> None:
        # The last attempt is among the runs where no other was begun after it.
        superseded = [run for run in job.trail.superseded if run not in conclusion.runs]
        disturbed_at = -inf if job.culprit else self._policies.disturbed_at
        self._policies.lane(job.query.lane).concluded(conclusion, superseded, now, disturbed_at=disturbed_at)
        if superseded:
            self._observer.failed_over(job.query.lane, len(superseded))
        late = conclusion.status is PipelineStatus.TIMEOUT
        whole = conclusion.budget_s >= self._plan.total_s - CLOCK_SLACK_S
        if conclusion.status is PipelineStatus.SUCCESS or (late and whole):
            self._slots.learn(now, duration_s=conclusion.duration_s, dropped=late)

    def _publish(self, ticket: Ticket, records: list[OutputRecord]) -> None:
        if ticket.book.closed:  # taken away meanwhile: whoever has the partition now answers
            self._acknowledged_for(ticket)
        else:
            self._sink.publish(records, lambda: self._acknowledged(ticket))
        self._next_of_key(ticket.envelope.record)

    def _next_of_key(self, record: Record) -> None:
        """The next record of the same key may be taken up, after this one's events."""
        if self._order is not None and (arrival := self._order.leave(_order_key(record))) is not None:
            asyncio.get_running_loop().call_soon(self._take_up, arrival)

    def _acknowledged(self, ticket: Ticket) -> None:
        """All events of a record are acknowledged: its offset may be committed."""
        ticket.book.finish(ticket.envelope.record.offset)
        self._acknowledged_for(ticket)

    def _acknowledged_for(self, ticket: Ticket) -> None:
        ticket.trace.acknowledged()
        self._finished()

    def _finished(self) -> None:
        self.in_flight -= 1
        self.last_progress_at = asyncio.get_running_loop().time()
        self._progress.set()


def _partition(record: Record) -> PartitionKey:
    return PartitionKey(record.topic, record.partition)


def _order_key(record: Record) -> tuple[str, int, bytes] | None:
    return None if record.key is None else (record.topic, record.partition, record.key)


def _written_at(record: Record) -> float | None:
    return record.timestamp / 1000 if record.timestamp > 0 else None
