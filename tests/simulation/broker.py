"""The brokers: logs, committed positions, and what may be said about them at every moment."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from aiokafka.errors import NoError, NotLeaderForPartitionError, OutOfOrderSequenceNumber

from fivestage.settings import TopicSettings
from fivestage_schemas import headers as h

from .endings import STAGE_KINDS, ending_of
from .group import Group

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from random import Random

    from aiokafka import TopicPartition

    from fivestage.core.job import Job
    from fivestage.core.records import PlainRecord

    from .endings import Ending
    from .loop import SimLoop
    from .network import Reply
    from .questions import Query
    from .trace import Trace

    Coordinates = tuple[int, int]
    """Partition and offset of an input record."""

TOPICS = TopicSettings()


class Name(str):
    """A topic's name whose hash is the same in every process, and with it the order of sets."""

    __slots__ = ()

    def __hash__(self) -> int:
        return len(self)


QUERIES = Name(TOPICS.queries)
BROKERS = 2
"""That lead output partitions."""
ELECTION_S = 1.0
"""The longest election."""


class Written(NamedTuple):
    """A record in an output topic."""

    coordinates: Coordinates
    """Of the query it is about."""
    kind: str
    """The end of its ``ce_id``, or ``dead_letter``."""
    status: str
    key: bytes | None
    producer: str
    topic: str = ""
    partition: int = 0
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    event: Any = None
    """What the value says; None where it is no JSON."""
    run: bytes = b""
    """Its ``traceparent``: the same for all events of one answer, another one in every other answer."""


class Fetched(NamedTuple):
    """What a fetch got of one partition."""

    highwater: int
    records: list[PlainRecord]


class Batch(NamedTuple):
    """Records for one output partition."""

    at: tuple[str, int]
    producer_id: int
    sequence: int
    """The number of the first one."""
    records: Sequence[tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]]
    """Key, value and headers of each."""


class Broker:
    """All brokers of the cluster, as one.

    Args:
        partitions: Of the input topic.
        output_partitions: Of each output topic.
        random: Decides how much a fetch gets.
    """

    def __init__(
        self, loop: SimLoop, random: Random, trace: Trace, *, partitions: int, output_partitions: int
    ) -> None:
        self._loop = loop
        self._random = random
        self._trace = trace
        self.group = Group(loop, partitions, random, trace, self._committed)
        self.partitions = partitions
        self.output_partitions = output_partitions
        self.queries: list[list[PlainRecord]] = [[] for _ in range(partitions)]
        self.asked: dict[Coordinates, Query] = {}
        """What each record asks."""
        self.jobs: dict[bytes, Job] = {}
        """What executors ran, by the ``traceparent`` of its events."""
        self.corrupt: set[Coordinates] = set()
        """Records that no client can read."""
        self.suspect: set[Coordinates] = set()
        """Records that were damaged on their way to a client, at least once."""
        self.outputs: dict[tuple[str, int], list[Written]] = defaultdict(list)
        self.about: dict[Coordinates, list[Written]] = defaultdict(list)
        """What was written about each record."""
        self.committed: dict[int, int] = {}
        self.commits = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called after every commit."""
        self._sequences: dict[tuple[int, str, int], int] = {}
        self._producers = self._moves = 0
        self._endings: dict[bytes, Ending] = {}
        self._answered: set[Coordinates] = set()
        self._led_from = 0.0
        self._hungry: list[_Hungry] = []

    # The input

    def write(self, record: PlainRecord) -> None:
        """A query comes."""
        self.queries[record.partition].append(record)
        self._trace.add("broker", "query", record.partition, record.offset)
        waiting, self._hungry = self._hungry, []
        for fetch in waiting:
            if not fetch.feed(self):
                self._hungry.append(fetch)

    def fetch(self, reply: Reply, positions: dict[TopicPartition, int], max_wait_s: float) -> None:
        """Fetch: at once when there is something, else when something comes, at the latest after a while."""
        fetch = _Hungry(reply, positions)
        if not fetch.feed(self):
            fetch.timer = self._loop.outside(max_wait_s, self._give_up, fetch)
            self._hungry.append(fetch)

    def _give_up(self, fetch: _Hungry) -> None:
        if fetch in self._hungry:
            self._hungry.remove(fetch)
            fetch.reply(self.read(fetch.positions))

    def read(self, positions: dict[TopicPartition, int]) -> dict[TopicPartition, Fetched]:
        """Some records of each partition, from its position on."""
        found = {}
        for partition, position in positions.items():
            log = self.queries[partition.partition]
            found[partition] = Fetched(len(log), log[position : position + self._random.randint(1, 12)])
        return found

    def beginnings(self, reply: Reply, partitions: list[TopicPartition]) -> None:
        """ListOffsets: the earliest."""
        reply(dict.fromkeys(partitions, 0))

    def ends(self, reply: Reply, partitions: list[TopicPartition]) -> None:
        """ListOffsets: one past the latest."""
        reply({partition: len(self.queries[partition.partition]) for partition in partitions})

    def fetch_committed(self, reply: Reply, partitions: list[TopicPartition]) -> None:
        """OffsetFetch; partitions without a committed position are absent."""
        committed = self.committed
        reply({tp: committed[tp.partition] for tp in partitions if tp.partition in committed})

    def _committed(self, member: str, owns: bool, generation: int, positions: dict[int, int]) -> None:  # noqa: FBT001
        self._trace.add("broker", "commit", member, positions)
        self.commits += 1
        if not owns:
            self._trace.violated("only the owner commits", member, generation, positions, self.group.owners)
        for partition, position in positions.items():
            before = self.committed.get(partition, 0)
            if position < before:
                self._trace.violated("commits never go back", member, partition, before, position)
            unanswered = [n for n in range(before, position) if not self.is_answered((partition, n))]
            if unanswered:
                self._trace.violated("commits only what is answered", member, partition, unanswered)
            self.committed[partition] = position
        self.on_change()

    # The outputs

    def init_producer(self, reply: Reply) -> None:
        """InitProducerId."""
        self._producers += 1
        reply(self._producers)

    def move_leaders(self) -> None:
        """The output partitions get other leaders, after an election."""
        self._moves += 1
        self._trace.add("broker", "leaders moved")
        self._led_from = self._loop.time() + self._random.random() * ELECTION_S

    def leaders(self, reply: Reply) -> None:
        """Metadata: who leads each output partition; -1 = nobody now."""
        reply([self._leader(number) for number in range(self.output_partitions)])

    def _leader(self, partition: int) -> int:
        return -1 if self._loop.time() < self._led_from else (partition + self._moves) % BROKERS

    def produce(self, reply: Reply, who: str, broker: int, batches: list[Batch]) -> None:
        """Produce: append batches, unless they are there already; reply with a code for each."""
        reply([self._produce(who, broker, batch) for batch in batches])

    def _produce(self, who: str, broker: int, batch: Batch) -> int:
        if self._leader(batch.at[1]) != broker:
            return NotLeaderForPartitionError.errno
        of_producer = batch.producer_id, *batch.at
        expected = self._sequences.get(of_producer, 0)
        if batch.sequence > expected:
            self._trace.violated("sequence numbers have no gaps", who, *batch.at, expected, batch.sequence)
            return OutOfOrderSequenceNumber.errno
        if batch.sequence == expected:
            self._sequences[of_producer] = expected + len(batch.records)
            for key, value, headers in batch.records:
                self.append(who, batch.at, key, value, headers)
        return NoError.errno

    def append(
        self,
        who: str,
        at: tuple[str, int],
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> None:
        """A record is written to an output topic."""
        named: dict[str, bytes] = {name: text or b"" for name, text in headers}
        if h.DLQ_REASON in named:
            coordinates = int(named[h.DLQ_PARTITION]), int(named[h.DLQ_OFFSET])
            kind, event = "dead_letter", None
        else:
            parts = named.get(h.CE_ID, b"").decode().split("/", 3)
            if len(parts) < 4:
                self._trace.violated("every event has an id", who, *at, named)
                return
            coordinates, kind = (int(parts[1]), int(parts[2])), parts[3]
            event = _parsed(value)
        status, run = named.get(h.STATUS, b"").decode(), named.get(h.TRACEPARENT, b"")
        written = Written(coordinates, kind, status, key, who, *at, value, headers, event, run)
        self.outputs[at].append(written)
        self.about[coordinates].append(written)
        if kind in ("result", "dead_letter"):
            self._trace.add("broker", kind, *coordinates, status, f"by {who}")

    def ending(self, run: bytes) -> Ending | None:
        """What a run of a query must have ended as; None where no executor ran it."""
        if run not in self._endings and run in self.jobs:
            self._endings[run] = ending_of(self.jobs[run])
        return self._endings.get(run)

    def is_answered(self, coordinates: Coordinates) -> bool:
        """All events of a record are there, and of one run of it."""
        if coordinates in self._answered:
            return True
        about = self.about.get(coordinates, ())
        runs: dict[bytes, set[str]] = defaultdict(set)
        for written in about:
            runs[written.run].add(written.kind)
        answered = any(self._is_whole(coordinates, written, runs) for written in about)
        if answered:
            self._answered.add(coordinates)
        return answered

    def _is_whole(self, coordinates: Coordinates, one: Written, runs: dict[bytes, set[str]]) -> bool:
        """Whether *one* is a dead letter or a result, and everything that belongs to it is there."""
        if one.kind == "dead_letter":
            query = self.asked.get(coordinates)
            bare = query is None or not query.reason or query.query_id is None or coordinates in self.suspect
            return bare or any("result" in kinds for kinds in runs.values())
        if one.kind != "result":
            return False
        kinds = runs[one.run]
        if one.status == "expired":
            return "timeout" in kinds
        ending = self.ending(one.run)
        return kinds >= (STAGE_KINDS if ending is None else ending.kinds)

    @property
    def is_finished(self) -> bool:
        """Everything is answered and committed."""
        return all(self.committed.get(number, 0) == len(log) for number, log in enumerate(self.queries))


class _Hungry:
    """A fetch that waits."""

    def __init__(self, reply: Reply, positions: dict[TopicPartition, int]) -> None:
        self.reply = reply
        self.positions = positions
        self.timer: asyncio.TimerHandle | None = None

    def feed(self, broker: Broker) -> bool:
        """Answer it if there is something."""
        if all(len(broker.queries[tp.partition]) <= at for tp, at in self.positions.items()):
            return False
        if self.timer is not None:
            self.timer.cancel()
        self.reply(broker.read(self.positions))
        return True


def _parsed(value: bytes | None) -> Any:
    try:
        return orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
