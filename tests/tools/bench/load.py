"""Offers queries at an exact rate, from a separate process.

The load is open: a query's timestamp is the moment at which it was due, not the one at which the generator
wrote it, so a generator that falls behind makes the answers look older and never the service better.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Producer

from .children import ROOT
from .place import QUIET

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_START_S = 0.2
"""Between the start of the process and its first query, so that connecting does not delay the first ones."""
NAP_S = 0.001
LINGER_MS = 5
"""The embedded broker returns one batch per partition and fetch, so batches of one would distort the result.
Queries have no key, so the client writes some milliseconds' worth to one partition before it takes the next.
"""


class Segment(NamedTuple):
    """A run of queries that cycle through these texts."""

    size: int
    texts: list[str]


class Load(NamedTuple):
    """The load to offer, and its place."""

    bootstrap: str
    topic: str
    rate: float
    segments: list[Segment]
    linger_ms: float = LINGER_MS

    @property
    def size(self) -> int:
        """Return the number of queries."""
        return sum(segment.size for segment in self.segments)

    def texts(self) -> Iterator[str]:
        """Return each query's text."""
        for segment in self.segments:
            yield from itertools.islice(itertools.cycle(segment.texts), segment.size)


class Offered(NamedTuple):
    """The performance of the generator."""

    first_ms: float
    """Epoch milliseconds at which the first query was due."""
    size: int
    seconds: float
    late_p99_ms: float
    """How far it was behind."""
    late_max_ms: float
    unsent: int

    @property
    def rate(self) -> float:
        """Return the queries a second that it really offered."""
        return self.size / self.seconds


def query_id(number: int) -> str:
    """Return the id of a query."""
    return f"q{number}"


def number_of(name: str) -> int:
    """Return the number of a query by its id; -1 of a foreign one."""
    return int(name[1:]) if name[1:].isdecimal() else -1


async def offer(load: Load) -> Offered:
    """Run the generator to its end.

    Raises:
        SystemExit: not every query reached the broker.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __spec__.name, json.dumps(load), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SystemExit(f"the generator ended with {process.returncode}")
    offered = Offered(*json.loads(out))
    if offered.unsent:
        raise SystemExit(f"{offered.unsent} of {load.size} queries did not reach the broker")
    return offered


def generate(load: Load) -> Offered:
    """Offer the load, in this process."""
    failures: list[Any] = []
    producer = _producer(load.bootstrap, load.linger_ms)
    producer.list_topics(load.topic, timeout=20)
    wall, clock = time.time() + HEAD_START_S, time.monotonic() + HEAD_START_S
    behind = []
    for number, text in enumerate(load.texts()):
        due = number / load.rate
        while (ahead := clock + due - time.monotonic()) > 0:
            producer.poll(0)
            time.sleep(max(ahead, NAP_S))  # queries due within a nap are sent at once after it
        behind.append(-ahead)
        name = query_id(number)
        value = json.dumps({"query_id": name, "user_input": text})
        at = round((wall + due) * 1000)
        producer.produce(load.topic, value, timestamp=at, on_delivery=lambda error, _: failures.append(error))
    took = time.monotonic() - clock
    unsent = producer.flush(30) + len(failures)
    return _offered(wall, took, behind, unsent)


def _producer(bootstrap: str, linger_ms: float) -> Producer:
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "linger.ms": linger_ms,
            "queue.buffering.max.messages": 1_000_000,
            "delivery.report.only.error": True,
            **QUIET,
        }
    )


def _offered(wall: float, took: float, behind: list[float], unsent: int) -> Offered:
    behind.sort()
    p99, worst = behind[len(behind) * 99 // 100], behind[-1]
    return Offered(wall * 1000, len(behind), took, p99 * 1000, worst * 1000, unsent)


def _main() -> None:
    bootstrap, topic, rate, segments, linger_ms = json.loads(sys.argv[1])
    load = Load(bootstrap, topic, rate, [Segment(*segment) for segment in segments], linger_ms)
    print(json.dumps(generate(load)))


if __name__ == "__main__":
    _main()
