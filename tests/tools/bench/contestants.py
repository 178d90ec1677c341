"""The contestants of the overload measurement: processes that do the same work."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from .answers import Tap
from .children import Child, Service
from .place import QUIET

if TYPE_CHECKING:
    from collections.abc import Callable

    from .place import Place

TTL_MS = 250
"""The time after its timestamp in which a query's answer is useful."""
START_S = 30.0


def fivestage(place: Place, slots: int) -> Service:
    """Start the service with this concurrency and deadline."""
    settings = {
        **place.settings,
        "admission.max_in_flight": slots,
        "admission.query_ttl_ms": TTL_MS,
        "tracing.sample_ratio": 0,
    }
    return Service("overload_app:app", settings)


def handwritten(place: Place, slots: int) -> Child:
    """A hand-written consumer on aiokafka."""
    return _other("handwritten", place, slots)


def faststream(place: Place, slots: int) -> Child:
    """FastStream with as many workers."""
    return _other("faststream_app", place, slots)


def _other(module: str, place: Place, slots: int) -> Child:
    name = f"{__package__}.{module}"
    topics = place.topics
    arguments = (place.bootstrap, place.group_id, topics.queries, topics.results, str(slots))
    return Child("-m", name, *arguments)


CONTESTANTS: dict[str, Callable[[Place, int], Child]] = {
    "fivestage": fivestage,
    "handwritten": handwritten,
    "faststream": faststream,
}


async def until_it_answers(place: Place, child: Child) -> None:
    """Ask repeatedly until an answer comes: the same sign of readiness for all.

    Raises:
        SystemExit: nothing came, or the process ended.
    """
    ending = asyncio.ensure_future(child.exited())
    try:
        if not await asyncio.to_thread(_probe, place, ending.done):
            raise SystemExit(f"a contestant does not answer; its log: {list(child.log)[-5:]}")
    finally:
        ending.cancel()


def _probe(place: Place, ended: Callable[[], bool]) -> bool:
    producer = Producer({"bootstrap.servers": place.bootstrap, "linger.ms": 0, **QUIET})
    tap = Tap(place.bootstrap, place.topics.results)
    limit, number = time.monotonic() + START_S, 0
    try:
        while time.monotonic() < limit and not ended():
            name = f"probe-{number}"
            value = f'{{"query_id": "{name}", "user_input": "1"}}'
            producer.produce(place.topics.queries, value, key=name)
            producer.flush(5)
            number += 1
            if tap.read(0.3):
                return True
        return False
    finally:
        tap.close()
