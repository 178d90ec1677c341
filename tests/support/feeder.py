"""Writes queries with a foreign client, in a thread, at a steady rate."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import Producer

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_OUTAGE_S = 900
"""Queries are written when the brokers are back."""
MOVED_MS = 5000
"""How long no broker may answer until the client asks its first address where the brokers are."""


def event(query_id: str, user_input: str = "work", **fields: Any) -> bytes:
    """Build a query event as JSON."""
    return json.dumps({"query_id": query_id, "user_input": user_input, **fields}).encode()


def write(
    bootstrap: str,
    topic: str,
    values: Iterable[tuple[str | None, bytes | None]],
    headers: Any = None,
    timestamp_ms: int = 0,
) -> None:
    """Write records and wait until the broker has them; without a timestamp it is now."""
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
    for key, value in values:
        while True:
            try:
                producer.produce(
                    topic,
                    value,
                    key=key,
                    headers=headers,
                    timestamp=timestamp_ms,
                    on_delivery=lambda error, _: failures.append(error),
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(60)
    bad = [failure for failure in failures if failure is not None]
    assert not bad, bad[:3]


class Feeder:
    """Writes ``count`` queries at ``rate`` a second during the ``with`` block, whose end waits for all."""

    def __init__(
        self, bootstrap: str, topic: str, *, count: int, rate: float, user_input: str = "work"
    ) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._rate = rate
        self._user_input = user_input
        self.ids = [f"q{number}" for number in range(count)]
        self._failures: list[object] = []
        self._sent = 0
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(120)
        assert not self._thread.is_alive()
        assert not self._failures, self._failures[:3]

    def wait_until_sent(self, count: int, limit_s: float = 60.0) -> None:
        """Wait until this many queries were handed to the client."""
        with self._progress:
            assert self._progress.wait_for(lambda: self._sent >= count, limit_s)

    def _feed(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": LONGEST_OUTAGE_S * 1000,
                "metadata.recovery.rebootstrap.trigger.ms": MOVED_MS,  # the default is five minutes
            }
        )
        started = time.monotonic()
        pace = threading.Event()
        for number, query_id in enumerate(self.ids):
            ahead = started + number / self._rate - time.monotonic()
            if ahead > 0:
                pace.wait(ahead)
            producer.produce(
                self._topic, event(query_id, self._user_input), key=query_id, on_delivery=self._delivered
            )
            producer.poll(0)
            with self._progress:
                self._sent = number + 1
                self._progress.notify_all()
        if producer.flush(LONGEST_OUTAGE_S):
            self._failures.append("not all queries were acknowledged")

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            self._failures.append(error)
