"""The queries of a run: most are plain, some get a misbehaving node, some records are unreadable."""

from __future__ import annotations

import functools
import random
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from confluent_kafka import Producer

from support.feeder import event

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

    from support.checker import Place

HOSTILE = (
    "slow",
    "deaf",
    "blocking",
    "raises",
    "exits",
    "ends-loop",
    "exits-in-task",
    "garbage",
    "large 100000",
    "work doubtful",
    "unheard-of",
)
HOSTILE_SHARE = 0.06
POISON = (None, b"", b"\xff\xfe", b"[1, 2", b'"text"', b"7", b'{"user_input": "work"}', b"[" * 2000)
POISON_SHARE = 0.02
FLUSH_S = 120.0


class Asked(NamedTuple):
    """One record to write."""

    key: str | None
    value: bytes | None
    query_id: str | None
    """None where the record has no id for an answer."""
    rejected: bool
    """Whether the record is unreadable and must become a dead letter."""


def record(seed: int, number: int) -> Asked:
    """Build record *number* of the run with this seed."""
    draw = random.Random(f"{seed}/{number}")  # noqa: S311 - repeatable, not secret
    query_id, chance = f"q{number}", draw.random()
    if chance < POISON_SHARE / 2:
        return Asked(query_id, draw.choice(POISON), None, rejected=True)
    if chance < POISON_SHARE:
        return Asked(query_id, event(query_id, user_input=7), query_id, rejected=True)  # type: ignore[arg-type]
    if chance < POISON_SHARE + HOSTILE_SHARE:
        return Asked(query_id, event(query_id, draw.choice(HOSTILE)), query_id, rejected=False)
    text = f"{draw.choice(('work', 'fast'))} {number}"
    key = query_id if draw.random() < 0.9 else None
    return Asked(key, event(query_id, text), query_id, rejected=False)


class Load:
    """Writes records at a steady rate during the ``with`` block, with a foreign client.

    Args:
        bootstrap: The brokers.
        topic: The query topic.
        seed: Decides the queries.
        rate: Records a second.
    """

    def __init__(self, bootstrap: str, topic: str, *, seed: int, rate: float) -> None:
        options = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        self._producer = Producer(options)
        self._topic = topic
        self._seed = seed
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self.failures: list[str] = []
        self.places: dict[int, Place] = {}
        """The place of each record, by its number."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Stop writing, and wait until the brokers have all."""
        self._stop.set()
        self._thread.join(FLUSH_S + 10)
        if self._thread.is_alive():
            self.failures.append(f"the load did not end within {FLUSH_S + 10:.0f} s")

    @property
    def ids(self) -> set[str]:
        """Return the ids that must be answered."""
        asked = [record(self._seed, number).query_id for number in self.places]
        return {query_id for query_id in asked if query_id is not None}

    @property
    def rejects(self) -> set[Place]:
        """Return the places of records that must become dead letters."""
        return {place for number, place in self.places.items() if record(self._seed, number).rejected}

    def _feed(self) -> None:
        try:
            self._write()
        except Exception as error:  # noqa: BLE001 - the run is invalid, which must be reported
            self.failures.append(f"the load ended: {error!r}")

    def _write(self) -> None:
        started, number = time.monotonic(), 0
        while not self._stop.wait(max(0.0, started + number / self._rate - time.monotonic())):
            asked = record(self._seed, number)
            delivered = functools.partial(self._delivered, number)
            trace: dict[str, str | bytes | None] = {}
            if number % 2:
                trace["traceparent"] = f"00-{number:032x}-00f067aa0ba902b7-01"
            self._producer.produce(
                self._topic, asked.value, key=asked.key, headers=trace, on_delivery=delivered
            )
            self._producer.poll(0)
            number += 1
        if left := self._producer.flush(FLUSH_S):
            self.failures.append(f"{left} records were not acknowledged within {FLUSH_S:.0f} s")

    def _delivered(self, number: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failures.append(f"record {number}: {error}")
        else:
            self.places[number] = (message.partition() or 0, message.offset() or 0)
