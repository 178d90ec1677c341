"""The brokers: logs and committed positions, with checks after every change."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from aiokafka.errors import NoError, NotLeaderForPartitionError, OutOfOrderSequenceNumber

from fivestage.settings import TopicSettings

from .answers import Answers
from .group import Group

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from random import Random

    from aiokafka import TopicPartition

    from fivestage.core.records import PlainRecord

    from .answers import Coordinates
    from .loop import SimLoop
    from .network import Reply
    from .trace import Trace


TOPICS = TopicSettings()


class Name(str):
    """A topic name with the same hash in every process, and so the same order in sets."""

    __slots__ = ()

    def __hash__(self) -> int:
        return len(self)


QUERIES = Name(TOPICS.queries)
BROKERS = 2
"""The leaders of output partitions."""
KNOWN_BATCHES = 5
"""The number of recent batches per producer that are recognized as duplicates."""
TAKES_BYTES = 20_000
"""The largest batch of event topics where brokers reject some, see ``Broker.refuses``."""
UNWANTED = re.compile(rb'"to":"q\d*[05]"')
"""Answers that such brokers reject."""
ELECTION_S = 1.0
"""The longest election."""


class Fetched(NamedTuple):
    """The result of a fetch for one partition."""

    highwater: int
    records: list[PlainRecord]


class Batch(NamedTuple):
    """Records for one output partition."""

    at: tuple[str, int]
    producer_id: int
    sequence: int
    """The first sequence number."""
    records: Sequence[tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]]
    """Key, value and headers of each."""
    size: int = 0
    """In bytes."""


class Broker(Answers):
    """All brokers of the cluster as one.

    Args:
        partitions: Of the input topic.
        output_partitions: Of each output topic.
        random: Decides how much a fetch returns.
    """

    def __init__(
        self, loop: SimLoop, random: Random, trace: Trace, *, partitions: int, output_partitions: int
    ) -> None:
        super().__init__(trace)
        self._loop = loop
        self._random = random
        self.group = Group(loop, partitions, random, trace, self._committed)
        self.partitions = partitions
        self.output_partitions = output_partitions
        self.queries: list[list[PlainRecord]] = [[] for _ in range(partitions)]
        self.corrupt: set[Coordinates] = set()
        """Records that no client can read."""
        self.committed: dict[int, int] = {}
        self.refuses = False
        """Whether events may be rejected for their content."""
        self.commits = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called after every commit."""
        self._latest: dict[tuple[int, str, int], deque[tuple[int, int]]] = defaultdict(
            lambda: deque(maxlen=KNOWN_BATCHES)
        )
        """The sequence numbers of recent batches, and the next ones, by producer and partition."""
        self._producers = self._moves = 0
        self._led_from = 0.0
        self._hungry: list[_Hungry] = []

    # The input

    def write(self, record: PlainRecord) -> None:
        """Write a query."""
        self.queries[record.partition].append(record)
        self._trace.add("broker", "query", record.partition, record.offset)
        waiting, self._hungry = self._hungry, []
        for fetch in waiting:
            if not fetch.feed(self):
                self._hungry.append(fetch)

    def fetch(
        self, reply: Reply, positions: dict[TopicPartition, int], max_wait_s: float, min_bytes: int
    ) -> None:
        """Answer a fetch as soon as there are *min_bytes* of records, or after a time limit."""
        fetch = _Hungry(reply, positions, min_bytes)
        if not fetch.feed(self):
            fetch.timer = self._loop.outside(max_wait_s, self._give_up, fetch)
            self._hungry.append(fetch)

    def _give_up(self, fetch: _Hungry) -> None:
        if fetch in self._hungry:
            self._hungry.remove(fetch)
            fetch.reply(self.read(fetch.positions))

    def read(self, positions: dict[TopicPartition, int]) -> dict[TopicPartition, Fetched]:
        """Return some records of each partition, from its position on."""
        found = {}
        for partition, position in positions.items():
            log = self.queries[partition.partition]
            found[partition] = Fetched(len(log), log[position : position + self._random.randint(1, 12)])
        return found

    def beginnings(self, reply: Reply, partitions: list[TopicPartition]) -> None:
        """ListOffsets: the earliest offsets."""
        reply(dict.fromkeys(partitions, 0))

    def ends(self, reply: Reply, partitions: list[TopicPartition]) -> None:
        """ListOffsets: one past the latest offsets."""
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
        """Move the output partitions to other leaders, after an election."""
        self._moves += 1
        self._trace.add("broker", "leaders moved")
        self._led_from = self._loop.time() + self._random.random() * ELECTION_S

    def leaders(self, reply: Reply) -> None:
        """Metadata: the leader of each output partition; -1 = none."""
        reply([self._leader(number) for number in range(self.output_partitions)])

    def _leader(self, partition: int) -> int:
        return -1 if self._loop.time() < self._led_from else (partition + self._moves) % BROKERS

    def produce(self, reply: Reply, who: str, broker: int, batches: list[Batch]) -> None:
        """Produce: append batches that are not duplicates; reply with a code for each."""
        reply([self._produce(who, broker, batch) for batch in batches])

    def _produce(self, who: str, broker: int, batch: Batch) -> int:
        if self._leader(batch.at[1]) != broker:
            return NotLeaderForPartitionError.errno
        if self.refuses and (code := self._refused(batch)):
            return code
        latest = self._latest[batch.producer_id, *batch.at]
        numbers = batch.sequence, batch.sequence + len(batch.records)
        if numbers in latest:
            return NoError.errno
        expected = latest[-1][1] if latest else 0
        if batch.sequence != expected:
            self._trace.violated("sequence numbers have no gaps", who, *batch.at, expected, batch.sequence)
            return OutOfOrderSequenceNumber.errno
        latest.append(numbers)
        for key, value, headers in batch.records:
            self.append(who, batch.at, key, value, headers)
        return NoError.errno

    def _refused(self, batch: Batch) -> int:
        """Return the code that a batch is rejected with for its content, or 0."""
        if batch.at[0] not in (TOPICS.results, TOPICS.stage_results):
            return 0
        unwanted = any(UNWANTED.search(value or b"") for _, value, _ in batch.records)
        code = 10 if batch.size > TAKES_BYTES else 87 if unwanted else 0
        if code and len(batch.records) == 1:
            self.note_refused(batch.records[0][2], code)
        return code

    @property
    def is_finished(self) -> bool:
        """Return whether everything is answered and committed."""
        return all(self.committed.get(number, 0) == len(log) for number, log in enumerate(self.queries))


class _Hungry:
    """A waiting fetch."""

    def __init__(self, reply: Reply, positions: dict[TopicPartition, int], min_bytes: int) -> None:
        self.reply = reply
        self.positions = positions
        self.min_bytes = min_bytes
        self.timer: asyncio.TimerHandle | None = None

    def feed(self, broker: Broker) -> bool:
        """Answer it if there are enough records."""
        if not self._has_enough(broker):
            return False
        if self.timer is not None:
            self.timer.cancel()
        self.reply(broker.read(self.positions))
        return True

    def _has_enough(self, broker: Broker) -> bool:
        size = 0
        for partition, position in self.positions.items():
            for record in islice(broker.queries[partition.partition], position, None):
                size += len(record.value or b"")
                if size >= self.min_bytes:
                    return True
        return False
