"""Finds the events of one query on the topics, by its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import orjson
from aiokafka import TopicPartition

from fivestage.core.records import Output, Record
from fivestage.errors import ConfigurationError
from fivestage.kafka import topic_info, topics
from fivestage.kafka.producer.partitioner import murmur2
from fivestage.kafka.tools.client import open_consumer
from fivestage.kafka.tools.newest_first import newest_first, read_one
from fivestage_schemas import PipelineResult, PipelineStatus
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaConsumer

    from fivestage.kafka.topic_info import TopicInfo
    from fivestage.settings import Settings

EARLIER_MS = 120_000.0
"""The other events of a query are looked for in records at most so much older than its result."""

_OTHERS = (Output.STAGE_RESULTS, Output.TIMEOUTS, Output.DEAD_LETTERS)


class Searched(NamedTuple):
    """How much of a topic was read."""

    topic: str
    partitions: int
    of: int
    """How many partitions the topic has."""
    records: int

    def __str__(self) -> str:
        return f"{self.topic} ({self.partitions} of {self.of} partitions, {self.records} records)"


class Found(NamedTuple):
    """The events of a query, the oldest first, and where they were looked for."""

    events: Mapping[Output, Sequence[Record]]
    """By output topic."""
    queries: Sequence[Record] = ()
    """Of the input topics; searched only if there is no result, or if asked for."""
    searched: Sequence[Searched] = ()
    not_searched: Sequence[str] = ()
    """Why a topic was left out."""


async def search(
    settings: Settings,
    query_id: str,
    *,
    since_ms: float,
    with_query: bool = False,
    on_read: Callable[[int], None] = lambda _: None,
) -> Found:
    """Find the events of a query: first by its id as the key, then in all partitions, the newest first.

    Args:
        settings: Where to connect, and the names of the topics.
        query_id: The id of the query.
        since_ms: Older records are not looked at; milliseconds since the epoch.
        with_query: Look for the query itself too, although it has a result.
        on_read: Called with the number of records after each fetch.

    Raises:
        ConfigurationError: no broker answers, or the topic of results cannot be read.
        BrokerError: a topic cannot be read any more.
    """
    names = settings.topics
    infos = await topic_info.describe(settings, names.all if names.pattern is None else None)
    problem = topics.problem_of(infos.get(names.results), names.results, is_input=True)
    if problem is not None:
        raise ConfigurationError(problem)
    async with open_consumer(settings) as consumer:
        searching = _Search(consumer, settings, infos, query_id, since_ms, on_read)
        return await searching.run(with_query=with_query)


class _Search:
    """One search, with the connection and what is known of the query so far."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        settings: Settings,
        infos: Mapping[str, TopicInfo],
        query_id: str,
        since_ms: float,
        on_read: Callable[[int], None],
    ) -> None:
        self._consumer = consumer
        self._topics = settings.topics
        self._infos = infos
        self._id = query_id.encode()
        self._key = self._id
        self._since_ms = since_ms
        self._on_read = on_read
        self._source: str | None = None
        """Topic, partition and offset of the query, as in the ids of its events; None if not known yet."""
        self._searched: list[Searched] = []
        self._problems: list[str] = []

    async def run(self, *, with_query: bool) -> Found:
        """Search the topics; first the results, which say where the others have the query's events."""
        names = self._topics.outputs
        results = await self._find(names[Output.RESULTS], self._is_event, enough=1)
        expected = dict.fromkeys(_OTHERS, 1)
        if results:
            expected = _expected(results[-1])
            self._narrow(results[-1])
        events = {Output.RESULTS: [record for record in results if self._is_event(record)]}
        for output, enough in expected.items():
            matches = self._is_letter if output is Output.DEAD_LETTERS else self._is_event
            events[output] = await self._find(names[output], matches, enough=enough) if enough else []
        queries: list[Record] = []
        if results:
            queries += await self._at_source() if with_query else []
        else:
            for name in filter(self._topics.is_input, self._infos):
                queries += await self._find(name, self._is_query, enough=1)
        return Found(events, queries, self._searched, self._problems)

    def _narrow(self, result: Record) -> None:
        """Take key, source and time of the query from its result."""
        self._key = result.key or self._id
        self._source = _text(result, h.CE_ID).removesuffix("/result")
        self._since_ms = max(self._since_ms, result.timestamp - EARLIER_MS)

    async def _at_source(self) -> Sequence[Record]:
        """Read the query where its result says that it is, however old it is."""
        topic, _, place = (self._source or "").partition("/")
        number, _, offset = place.partition("/")
        if not (number.isdecimal() and offset.isdecimal()):
            return []
        if (info := self._readable(topic)) is None or int(number) >= info.partitions:
            return []
        partition = TopicPartition(topic, int(number))
        records = await read_one(self._consumer, partition, int(offset), self._on_read)
        self._searched.append(Searched(topic, 1, info.partitions, len(records)))
        return records

    async def _find(self, topic: str, matches: Callable[[Record], bool], *, enough: int) -> list[Record]:
        if (info := self._readable(topic)) is None:
            return []
        likely = (murmur2(self._key) & 0x7FFFFFFF) % info.partitions
        others = [number for number in range(info.partitions) if number != likely]
        found: list[Record] = []
        looked_at = count = 0
        for numbers in filter(None, ([likely], others)):
            partitions = [TopicPartition(topic, number) for number in numbers]
            looked_at += len(numbers)
            scan = await newest_first(
                self._consumer,
                partitions,
                matches,
                enough=enough,
                since_ms=self._since_ms,
                on_read=self._on_read,
            )
            found, count = [*found, *scan.matching], count + scan.read
            if len(found) >= enough:
                break
        self._searched.append(Searched(topic, looked_at, info.partitions, count))
        return sorted(found, key=lambda record: (record.timestamp, record.partition, record.offset))

    def _readable(self, topic: str) -> TopicInfo | None:
        """Return what is known of a topic; None, after noting why, if it cannot be read."""
        info = self._infos.get(topic)
        problem = topics.problem_of(info, topic, is_input=True)
        if problem is not None:
            self._problems.append(problem)
            return None
        return info

    def _is_event(self, record: Record) -> bool:
        if dict(record.headers).get(h.CE_SUBJECT) != self._id:
            return False
        return self._source is None or _text(record, h.CE_ID).startswith(f"{self._source}/")

    def _is_letter(self, record: Record) -> bool:
        if self._source is None:
            return h.DLQ_REASON in dict(record.headers) and self._has_id(record)
        place = (_text(record, name) for name in (h.DLQ_TOPIC, h.DLQ_PARTITION, h.DLQ_OFFSET))
        return self._source == "/".join(place)

    def _is_query(self, record: Record) -> bool:
        return self._has_id(record)

    def _has_id(self, record: Record) -> bool:
        """Whether an input record has the id: as its key, in a header or in its value."""
        if record.key == self._id or dict(record.headers).get(h.CE_ID) == self._id:
            return True
        return record.value is not None and self._id in record.value and self._names_it(record.value)

    def _names_it(self, value: bytes) -> bool:
        """Whether a query, bare or as a structured CloudEvent, has the id."""
        try:
            event = orjson.loads(value)
        except orjson.JSONDecodeError:
            return False
        if not isinstance(event, dict):
            return False
        data = event.get("data")
        inner = data.get("query_id") if isinstance(data, dict) else None
        return self._id.decode() in (event.get("query_id"), inner, event.get("id") if data else None)


def _expected(result: Record) -> dict[Output, int]:
    """How many events of each kind a query with this result has at least (the contract's table)."""
    try:
        event = PipelineResult.model_validate_json(result.value or b"")
    except ValueError:
        return dict.fromkeys(_OTHERS, 1)
    late = event.status in {PipelineStatus.TIMEOUT, PipelineStatus.EXPIRED} or any(
        attempt.outcome == "timeout" for stage in event.stages for attempt in stage.attempts
    )
    return {
        Output.STAGE_RESULTS: len(event.stages),
        Output.TIMEOUTS: int(late),
        Output.DEAD_LETTERS: int(event.error_type == "invalid_query"),
    }


def _text(record: Record, name: str) -> str:
    return dict(record.headers).get(name, b"").decode(errors="replace")
