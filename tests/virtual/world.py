"""The real dispatcher between fake topic, executor and sink, driven by a state machine.

Every step of the dispatcher is checked at once against independent rules; ``broken`` lists the
violations.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from fivestage.core.codec.encode import Encoder
from fivestage.core.ledger import Ledger, PartitionKey
from fivestage.core.observer import Observer
from fivestage.core.records import Output, PlainRecord
from fivestage.dispatch.build import build
from fivestage.observability.tracing import Tracing
from fivestage.settings import Settings
from fivestage.testing import VirtualTimeLoop

from .puppets import Puppets

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from fivestage.core.job import Job
    from fivestage.core.records import OutputRecord

TOPIC = "queries"
KEYS = tuple(PartitionKey(TOPIC, number) for number in range(2))
WEIGHTS = {"prod": 6, "canary": 3, "bulk": 1}
MAX_IN_FLIGHT = 5
MAX_HELD_BYTES = 8_000
"""The events of two queries, or of a few more that were not started."""
TOTAL_S = 0.25
SLACK_S = 0.005
CLOCK_S = 1e-6
"""Smaller differences are lost: a wall clock as float has no more digits."""
MOST_TURNS = 1000
WALL = 1_800_000_000.0
"""The wall clock at loop time 0."""
_ENCODER = Encoder(source="/world", max_record_bytes=100_000, max_dead_letter_bytes=100_000)
_TRACING = Tracing(results_topic="results", group_id="world")


def _settings(ordering: str) -> Settings:
    admission = {"ordering": ordering, "max_in_flight": MAX_IN_FLIGHT, "adaptive_limit": False}
    return Settings.model_validate({"lanes": WEIGHTS, "admission": admission, "adaptive": {"enabled": False}})


_SETTINGS = {ordering: _settings(ordering) for ordering in ("unordered", "key")}


class Unacknowledged(NamedTuple):
    """Published events."""

    entry: Entry
    epoch: int
    size: int
    on_acked: Callable[[], None]


class Entry:
    """A record of the topic, and its state in the present assignment of its partition."""

    def __init__(self, record: PlainRecord, lane: str | None, budget_s: float, due_at: float) -> None:
        self.record = record
        self.lane = lane
        """None if the record is no query."""
        self.budget_s = budget_s
        self.due_at = due_at
        self.epoch = 0
        """The assignment in which it was last fetched."""
        self.answers = 0
        """The number of answers, over all assignments."""

    def __repr__(self) -> str:
        return f"<Entry {self.record.partition}/{self.record.offset} {self.record.key!r} {self.lane}>"

    def hand_out(self, epoch: int, now: float, turn: int) -> None:
        """Fetch it as the n-th record."""
        self.epoch, self.handed_at, self.turn = epoch, now, turn
        self.job: Job | None = None
        self.is_enqueued = False
        self.ends_at = inf
        """The latest time of its answer, since it runs."""
        self.waits_since: float | None = None
        self.published = self.acked = False


class World:
    """Topic and sink; their loop runs in virtual time."""

    def __init__(self, ordering: str) -> None:
        self.loop = VirtualTimeLoop()
        self.broken: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.broken.append(str(context)))
        self.by_key = ordering == "key"
        self.logs: tuple[list[Entry], ...] = ([], [])
        self.committed, self.next, self.first = [0, 0], [0, 0], [0, 0]
        self._turns = 0
        self.drained: set[int] = set()
        """Partitions with a drain in their present assignment: waiting queries may be left."""
        self.over: set[int] = set()
        """Partitions whose drain has ended in their present assignment: nothing starts."""
        self.unacked: list[Unacknowledged] = []
        self.hold = False
        """Delay acknowledgements."""
        self.blocked: list[tuple[float, float]] = []
        """When the loop was blocked."""
        self.ledger, self.arrived, self._paused = Ledger(max_span=10_000), asyncio.Event(), False
        self.executor = Puppets(self._submitted, self._enqueued, self._begins)
        self.entries: dict[int, Entry] = {}
        """Entries by job number."""
        self.poller, self.dispatcher = build(
            _SETTINGS[ordering],
            ledger=self.ledger,
            encoder=_ENCODER,
            executor=self.executor,
            sink=self,
            observer=Observer(),
            tracing=_TRACING,
            wall_clock=lambda: WALL + self.loop.time(),
            cpu_clock=self.loop.time,
            rng=lambda: 0.5,
        )
        self.slots = self.dispatcher.slots
        self.slots._max_held_bytes = MAX_HELD_BYTES
        self.assign(frozenset(KEYS))
        self.run(self.executor.start(self.dispatcher.active.finished))
        self.polling = self.loop.create_task(self.poller.run(self))

    def run(self, steps: Coroutine[Any, Any, Any]) -> None:
        """Run steps on the loop, and everything due after them."""
        self.loop.run_until_complete(steps)
        self.loop.run_until_complete(self._settle())

    async def _settle(self) -> None:
        for turn in range(MOST_TURNS):
            # A timer may fire slightly early by a rounding error, is set again, and waits for the clock.
            await asyncio.sleep(CLOCK_S if turn % 50 == 49 else 0)
            if not self.loop._ready:  # type: ignore[attr-defined] # of BaseEventLoop
                return
        self.broken.append("the loop comes to no rest")

    def must(self, holds: bool, promise: str, *details: object) -> None:  # noqa: FBT001 - it is the subject
        """Record a violation unless the condition holds."""
        if not holds:
            self.broken.append(f"{promise}: {details} at {self.loop.time():.4f}")

    # The topic: see RecordSource

    def assign(self, keys: frozenset[PartitionKey]) -> None:
        """Assign partitions, which are fetched from their committed offsets."""
        self.ledger.assign(keys)
        self.drained -= {key.partition for key in keys}
        self.over -= {key.partition for key in keys}
        for number in (key.partition for key in keys):
            self.next[number] = self.first[number] = self.committed[number]
        self.arrived.set()

    def note_drain(self, keys: frozenset[PartitionKey] | None) -> None:
        """Note that a drain of some partitions, or all, is running."""
        self.drained |= self._numbers(keys)

    async def drain(self, limit_s: float, keys: frozenset[PartitionKey] | None) -> bool:
        """Drain, and note its end."""
        try:
            return await self.dispatcher.drain(limit_s, keys)
        finally:
            self.over |= self._numbers(keys)

    def _numbers(self, keys: frozenset[PartitionKey] | None) -> set[int]:
        return {key.partition for key in self.ledger.partitions if keys is None or key in keys}

    async def fetch(self, _: int) -> list[PlainRecord]:
        held = sum(one.size for one in self.unacked)
        await asyncio.sleep(0)
        for key in () if self._paused else KEYS:
            log, at, offsets = self.logs[key.partition], self.next[key.partition], self.ledger.offsets(key)
            if offsets is not None and at < len(log):
                self.must(held < MAX_HELD_BYTES, "none is read while too much is not acknowledged", held)
                self.next[key.partition] += 1
                self._turns += 1
                log[at].hand_out(offsets.epoch, self.loop.time(), self._turns)
                offsets.begin(at)
                return [log[at].record]
        self.arrived.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await self.arrived.wait()
        return []

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.arrived.set()

    def is_present(self, entry: Entry) -> bool:
        """Return whether an entry was fetched in the present assignment of its partition."""
        offsets = self.ledger.offsets(KEYS[entry.record.partition])
        return offsets is not None and entry.epoch == offsets.epoch

    def present(self) -> list[Entry]:
        """Return the entries of the present assignments."""
        return [entry for log in self.logs for entry in log if self.is_present(entry)]

    # A query starts

    def _submitted(self, job: Job) -> None:
        entry = self.entries.get(job.number)
        if entry is None:
            self._may_run()
            self._chosen(job)
            self._begins(job)
        elif entry.is_enqueued:
            self._may_run()
            self._begins(job)
        else:
            self._runs_again(entry)

    def _enqueued(self, job: Job) -> None:
        self._chosen(job)
        self.entries[job.number].is_enqueued = True

    def _begins(self, job: Job, before: int = MAX_IN_FLIGHT) -> None:
        entry = self.entries[job.number]
        running = len(self.executor.running())
        self.must(running < before, "one slot starts one query", running, before)
        self.must(self.loop.time() < entry.due_at + CLOCK_S, "none is started after its deadline", entry)
        self.must(entry.record.partition not in self.over, "none is started after a drain", entry)
        entry.is_enqueued = False
        entry.ends_at = min(self.loop.time() + entry.budget_s, entry.due_at)

    def _may_run(self) -> None:
        running = len(self.executor.running())
        self.must(running < self.slots.limit, "no more run than may", running, self.slots.limit)

    def _chosen(self, job: Job) -> None:
        record, lane, now = job.origin.envelope.record, job.query.lane, self.loop.time()
        entry = self.logs[record.partition][record.offset]
        handed = (*self.executor.running(), *self.executor.enqueued)
        lanes = Counter(one.query.lane for one in handed)
        self.must(self.is_present(entry), "nothing is started that is another's", entry)
        self.must(entry.job is None and not entry.published, "each is started once", entry)
        self.must(record.partition not in self.over, "none is started after a drain", entry)
        self.must(lane == entry.lane, "a query runs in its lane", entry, lane)
        self.must(now < entry.due_at + CLOCK_S, "none is started after its deadline", entry, entry.due_at)
        held = sum(one.size for one in self.unacked)
        self.must(held < MAX_HELD_BYTES, "none is started while too much is not acknowledged", held)
        for other, weight in WEIGHTS.items():
            if other in self.slots._queues._queues:
                fair = lanes[lane] / WEIGHTS[lane] <= lanes[other] / weight
                self.must(fair, "the lane that has least of its share is next", lane, other, lanes)
        if self.by_key and entry.record.key is not None:
            self._judge_order(entry)
        elif not self.by_key:
            self._judge_turn(entry)
        entry.job, entry.ends_at = job, entry.due_at
        self.entries[job.number] = entry

    def _judge_turn(self, entry: Entry) -> None:
        """Allow what has a deadline to be rejected, and what a drain met to be left."""
        for other in self.waiting():
            if (
                other.lane == entry.lane
                and other.due_at == inf
                and other.record.partition not in self.drained
            ):
                self.must(other.turn >= entry.turn, "first come, first served in a lane", other, entry)

    def _judge_order(self, entry: Entry) -> None:
        partition, key = entry.record.partition, entry.record.key
        for job in (*self.executor.jobs, *self.executor.enqueued):
            other = self.entries[job.number].record
            same = (other.partition, other.key) == (partition, key)
            self.must(job.ended or not same, "one of a key at a time", entry, other)
        for before in self.logs[partition][self.first[partition] : entry.record.offset]:
            self.must(before.record.key != key or before.published, "equal keys keep order", before, entry)

    def park(self, job: Job) -> None:
        """Make a job wait for a thread."""
        self.entries[job.number].waits_since = self.loop.time()
        self.executor.park(job)

    def unpark(self, job: Job) -> None:
        """Give a thread to its call."""
        self._runs_again(self.entries[job.number])
        self.executor.unpark(job)

    def _runs_again(self, entry: Entry) -> None:
        entry.ends_at = self._ends_at(entry)
        entry.waits_since = None

    def _ends_at(self, entry: Entry) -> float:
        waits_s = 0.0 if entry.waits_since is None else self.loop.time() - entry.waits_since
        return min(entry.ends_at + waits_s, entry.due_at)

    def latest(self, entry: Entry) -> float:
        """Return the latest time at which a record must be answered."""
        if entry.job is not None:
            end = self._ends_at(entry)
        elif entry.lane is None:
            end = inf if self.by_key and entry.record.key is not None else entry.handed_at  # in its turn
        else:
            end = max(entry.due_at, entry.handed_at)
        for since, until in self.blocked:
            if since <= end + SLACK_S and end <= until:
                end = until
        return end + SLACK_S

    # The sink: see EventSink

    def publish(
        self,
        records: Sequence[OutputRecord],
        on_acked: Callable[[], None],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        entry, kinds = self._entry(records[0]), Counter(record.output for record in records)
        self.must(self.is_present(entry) and is_wanted(), "only what is ours is published", entry)
        self.must(not entry.published, "one answer to each", entry)
        self.must(self.loop.time() <= self.latest(entry), "deadlines are kept", entry, self.latest(entry))
        has_id, started = entry.record.value != b"{", entry.job is not None and not entry.is_enqueued
        said = kinds[Output.RESULTS], kinds[Output.DEAD_LETTERS], kinds[Output.STAGE_RESULTS]
        self.must(said == (has_id, entry.lane is None, 5 * started), "the events of its end", entry, said)
        if not started and entry.lane is not None:
            [note] = [record.value or b"" for record in records if record.output is Output.TIMEOUTS]
            expired = orjson.loads(note)["reason"] == "expired_before_start"
            may = self.loop.time() >= entry.due_at - CLOCK_S if expired else entry.due_at < inf
            self.must(may, "none expires before its deadline", entry, entry.due_at)
        entry.published, entry.answers = True, entry.answers + 1
        letters = [record for record in records if record.output is Output.DEAD_LETTERS]
        size = sum(len(record.value or b"") for record in records)
        size += sum(len(record.key or b"") for record in letters)
        self.unacked.append(Unacknowledged(entry, entry.epoch, size, on_acked))
        if not self.hold:
            self.loop.call_soon(self._acknowledge, self.unacked[-1])

    def _entry(self, record: OutputRecord) -> Entry:
        found = dict(record.headers)
        if "dlq.offset" in found:
            return self.logs[int(found["dlq.partition"])][int(found["dlq.offset"])]
        _, partition, offset, _ = found["ce_id"].decode().split("/", 3)
        return self.logs[int(partition)][int(offset)]

    def _acknowledge(self, one: Unacknowledged) -> None:
        if one in self.unacked:
            self.acknowledge(self.unacked.index(one))

    def acknowledge(self, number: int) -> None:
        """Acknowledge the events of one record."""
        one = self.unacked.pop(number)
        if one.epoch == one.entry.epoch:
            one.entry.acked = True
        one.on_acked()

    def acknowledge_all(self) -> None:
        """Acknowledge all events."""
        while self.unacked:
            self.acknowledge(0)

    # At the end

    def waiting(self) -> list[Entry]:
        """Return the queries that wait for nothing but a slot."""
        queries = [one for one in self.present() if one.lane and not (one.job or one.published)]
        return [one for one in queries if not self.by_key or one.record.key is None]

    def commit(self) -> None:
        """Commit everything committable."""
        positions = self.ledger.committable()
        self.ledger.note_committed(positions, epoch=self.ledger.epoch)
        for key, position in positions.items():
            self.must(position >= self.committed[key.partition], "commits never go back", key, position)
            self.committed[key.partition] = position

    def is_committed(self, entry: Entry) -> bool:
        """Return whether it will not be fetched again."""
        return entry.record.offset < self.committed[entry.record.partition]

    def close(self) -> None:
        """Stop, and close the loop."""
        self.poller.stop()
        self.loop.run_until_complete(self.polling)
        self.loop.close()
