"""The records of the topics: queries with their timestamps, answers with theirs.

An answer's time is its record's CreateTime, which the client that writes it sets when it is handed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import orjson
from confluent_kafka import TIMESTAMP_CREATE_TIME, Consumer, Message, TopicPartition

from .load import number_of
from .place import QUIET

if TYPE_CHECKING:
    from collections.abc import Iterable

READ_S = 60.0
SUCCESS = "success"
ANSWERED = "answered"
"""Status of answers without one, as of other consumers."""


class Answer(NamedTuple):
    """One record of the results topic."""

    query_id: str
    status: str
    error_type: str | None
    created_ms: int
    ends_ms: float | None
    """Its deadline: its start and its budget (epoch milliseconds)."""
    finished_ms: float | None
    started_ms: float | None = None
    answer: Any = None

    @classmethod
    def of(cls, message: Message) -> Self:
        """Parse a record."""
        event: dict[str, Any] = orjson.loads(message.value() or b"null")
        started, finished = event.get("started_at"), event.get("finished_at")
        started_ms = _epoch_ms(started) if started else None
        ends = None if started_ms is None else started_ms + event["metrics"]["budget_ms"]
        status, error_type = event.get("status", ANSWERED), event.get("error_type")
        finished_ms = _epoch_ms(finished) if finished else None
        return cls(
            event["query_id"],
            status,
            error_type,
            created_ms(message),
            ends,
            finished_ms,
            started_ms,
            event.get("answer"),
        )

    @property
    def good(self) -> bool:
        """Return whether it holds an answer."""
        return self.status in {SUCCESS, ANSWERED}

    @property
    def ended_as(self) -> str:
        """Return its status, with the type of an error."""
        kind = self.error_type
        return self.status if kind in {None, self.status} else f"{self.status} ({kind})"


def created_ms(message: Message) -> int:
    """Return a record's CreateTime (epoch milliseconds)."""
    kind, at = message.timestamp()
    if kind != TIMESTAMP_CREATE_TIME:
        raise SystemExit("the benchmark needs records with CreateTime (message.timestamp.type)")
    return at


def _epoch_ms(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


class Tap:
    """Reads all partitions of a topic from their beginning."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        options: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-tap",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",  # records that the broker has dropped must not go unnoticed
            "fetch.wait.max.ms": 20,
            **QUIET,
        }
        self._consumer = Consumer(options)
        self._topic = topic
        found = self._consumer.list_topics(topic, timeout=20).topics[topic].partitions
        self._next = dict.fromkeys(sorted(found), 0)
        self._consumer.assign([TopicPartition(topic, number, 0) for number in self._next])

    def read(self, timeout_s: float = 0.1) -> list[Message]:
        """Read the records that have arrived."""
        messages = self._consumer.consume(10_000, timeout_s)
        for message in messages:
            if message.error() is not None:
                raise SystemExit(f"{self._topic}: {message.error()}")
            self._next[message.partition() or 0] = (message.offset() or 0) + 1
        return messages

    def rest(self) -> list[Message]:
        """Read everything that is there now."""
        ends = {number: self._end(number) for number in self._next}
        messages, limit = [], time.monotonic() + READ_S
        while any(self._next[number] < end for number, end in ends.items()):
            if time.monotonic() > limit:
                raise SystemExit(f"could not read {self._topic} to its end")
            messages += self.read()
        return messages

    def _end(self, number: int) -> int:
        found = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=20)
        assert found is not None
        low, high = found
        if low > 0:
            raise SystemExit(f"the broker has dropped {low} records of {self._topic}/{number}")
        return high

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


def read_all(bootstrap: str, topic: str) -> list[Message]:
    """Read everything in a topic now."""
    tap = Tap(bootstrap, topic)
    try:
        return tap.rest()
    finally:
        tap.close()


async def collect(bootstrap: str, topic: str, count: int, limit_s: float) -> list[Answer]:
    """Read until this many of our queries are answered, or until a time limit."""
    tap = await asyncio.to_thread(Tap, bootstrap, topic)
    answers: list[Answer] = []
    names: set[str] = set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while len(names) < count:
                fresh = [Answer.of(message) for message in await asyncio.to_thread(tap.read)]
                answers += (answer for answer in fresh if number_of(answer.query_id) >= 0)
                names.update(answer.query_id for answer in answers[-len(fresh) :])
    tap.close()
    return answers


def first_answers(answers: Iterable[Answer]) -> dict[str, Answer]:
    """Return the earliest answer of each of our queries: after a crash one may be answered again."""
    first: dict[str, Answer] = {}
    for answer in answers:
        if number_of(answer.query_id) < 0:
            continue
        seen = first.get(answer.query_id)
        if seen is None or answer.created_ms < seen.created_ms:
            first[answer.query_id] = answer
    return first


def asked_ms(bootstrap: str, topic: str) -> dict[str, int]:
    """Return the record timestamp of each of our queries, by id."""
    messages = read_all(bootstrap, topic)
    found = {orjson.loads(m.value() or b"")["query_id"]: created_ms(m) for m in messages}
    return {name: at for name, at in found.items() if number_of(name) >= 0}
