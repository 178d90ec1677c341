"""From a query's timestamp to its result in another client's hands, at 10, 50 and 80 % of the capacity."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from .children import Service
from .drain import drain
from .entries import CONTESTANTS, FIVESTAGE
from .load import Load, Offered, Segment, number_of, offer
from .parts import PARTITIONS, Bar, Options, Part, file_name
from .place import QUIET, Place, places
from .plot import Line, Panel, draw
from .report import OUT, percentile, table

if TYPE_CHECKING:
    from collections.abc import Callable

SHARES = (0.1, 0.5, 0.8)
WARM_UP_S = 2.0
LINGER_MS = 1.0
EMBEDDED_WAIT_MS = 1
"""The embedded broker answers an empty fetch at its timeout, not when a record arrives."""
KAFKA_WAIT_MS = 100
WAIT_S = 30.0
MAX_P50_MS, MAX_P99_MS = 5.0, 20.0


class Latency(NamedTuple):
    """The latency at one rate."""

    share: float
    rate: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    failed: int
    """Queries without a success."""
    generator_late_p99_ms: float


async def measure(options: Options) -> Part:
    """Measure the capacity, then the latency."""
    async with places(1 + len(SHARES), options.kafka, PARTITIONS) as there:
        drained = await drain(there[0], CONTESTANTS[FIVESTAGE], options.queries, options.limit_s)
        capacity = drained.per_second
        print(f"capacity: {capacity:.0f} queries/s", flush=True)
        found = [
            await at(place, share, capacity, options.seconds)
            for share, place in zip(SHARES, there[1:], strict=True)
        ]
    if options.publishes:
        _draw(found, options)
    half = found[SHARES.index(0.5)]
    bars = [
        Bar.at_most("latency p50 at half the capacity", half.p50_ms, MAX_P50_MS, " ms"),
        Bar.at_most("latency p99 at half the capacity", half.p99_ms, MAX_P99_MS, " ms"),
    ]
    titles = ["of capacity", "queries/s", "p50 ms", "p99 ms", "max ms", "no success", "generator late p99 ms"]
    rows = [[f"{one.share:.0%}", round(one.rate), *one[2:]] for one in found]
    figures = {"capacity": capacity, "latencies": [one._asdict() for one in found]}
    return Part("Latency", figures, table(titles, rows), bars)


async def at(place: Place, share: float, capacity: float, seconds: float) -> Latency:
    """Measure at one rate."""
    rate = share * capacity
    wait_ms = EMBEDDED_WAIT_MS if place.embedded else KAFKA_WAIT_MS
    settings = {**place.settings, "kafka.fetch_max_wait_ms": wait_ms}
    size = int(rate * (seconds + WARM_UP_S))
    load = Load(place.bootstrap, place.topics.queries, rate, [Segment(size, ["2+2"])], LINGER_MS)
    async with Service("traced_app:waiting", settings) as service:
        if not await service.until_ready():
            raise SystemExit(f"the service did not get ready: {list(service.log)[-3:]}")
        limit = time.monotonic() + seconds + WAIT_S
        reading = asyncio.create_task(asyncio.to_thread(watch, place, wait_ms, size, limit))
        offered = await offer(load)
        seen = await reading
    return _latency(share, rate, offered, seen)


def watch(place: Place, wait_ms: int, count: int, limit: float) -> dict[int, tuple[float, bool]]:
    """Return when each result arrived (epoch milliseconds), and whether it is a success."""
    options: dict[str, Any] = {"bootstrap.servers": place.bootstrap, "group.id": "bench-watch", **QUIET}
    consumer = Consumer({**options, "fetch.wait.max.ms": wait_ms, "auto.offset.reset": "earliest"})
    topic = place.topics.results
    numbers = consumer.list_topics(topic, timeout=20).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
    seen: dict[int, tuple[float, bool]] = {}
    poll: Callable[[float], Any] = consumer.poll
    while len(seen) < count and time.monotonic() < limit:
        message = poll(0.1)
        if message is not None and message.error() is None:
            success = ("status", b"success") in message.headers()
            seen[number_of(message.key().decode())] = time.time() * 1000, success
    consumer.close()
    return seen


def _latency(share: float, rate: float, offered: Offered, seen: dict[int, tuple[float, bool]]) -> Latency:
    steady = range(int(WARM_UP_S * rate), offered.size)
    ages = [
        seen[number][0] - (offered.first_ms + number / rate * 1000)
        for number in steady
        if seen.get(number, (0, False))[1]
    ]
    p50, p99 = percentile(ages, 0.5), percentile(ages, 0.99)
    failed = len(steady) - len(ages)
    return Latency(share, rate, p50, p99, max(ages, default=None), failed, offered.late_p99_ms)


def _draw(found: list[Latency], options: Options) -> None:
    shares = [one.share * 100 for one in found]
    lines = [
        Line("p50", shares, [one.p50_ms for one in found], "o-"),
        Line("p99", shares, [one.p99_ms for one in found], "o-"),
    ]
    path = OUT / f"{file_name('latency', options)}.svg"
    draw(
        path,
        [Panel("ms", lines)],
        x_label="% of the capacity",
        title="From a query's timestamp to its result",
    )
