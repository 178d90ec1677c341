"""The contestants of ``make bench`` do the same work: their events differ in times and topics alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from fivestage_schemas import StageType

from .answers import read_all
from .check import HEADERS, headers_of, problems_of
from .drain import work_off
from .entries import CONTESTANTS, HANDWRITTEN
from .place import places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confluent_kafka import Message

    from .place import Place

pytestmark = [pytest.mark.broker, pytest.mark.realtime]

QUERIES = 40
OF_TIME = {
    "duration_ms", "timeout_ms", "started_at", "finished_at",
    "total_duration_ms", "queue_ms", "stage_durations", "budget_ms",
}  # fmt: skip
NO_LIMITS = {
    "pipeline.total_timeout_ms": 60_000,
    **{f"pipeline.stage_timeouts_ms.{stage}": 60_000 for stage in StageType},
    "shutdown.drain_timeout_ms": 60_000,
    "executor.stall_ms": 60_000,
}
"""A worker process that waits for a core of this machine is not compared."""
OF_FIVESTAGE = {"attempts"}
"""Fields of fivestage only."""
LIMIT_S = 60.0
APART = ("faust", "quix")
"""Those in separate environments, which ``make test-long`` creates."""
OTHERS = [name for name, one in CONTESTANTS.items() if one.same_work and name != HANDWRITTEN]


def timeless(value: Any) -> Any:
    """Remove from an event what differs each time."""
    if isinstance(value, dict):
        return {name: timeless(one) for name, one in value.items() if name not in OF_TIME | OF_FIVESTAGE}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def event(message: Message, place: Place) -> tuple[Any, dict[str, str]]:
    """Return its value and headers, independent of the place."""
    text = (message.value() or b"").replace(place.group_id.encode(), b"PLACE")
    headers = {name: value.replace(place.group_id, "PLACE") for name, value in headers_of(message).items()}
    trace, flags = headers["traceparent"][:36], headers["traceparent"][-2:]
    kept = {name: value for name, value in headers.items() if name in HEADERS - {"ce_time"}}
    return timeless(orjson.loads(text)), {**kept, "traceparent": trace + flags}


async def events_of(name: str) -> dict[str, Any]:
    """Return a contestant's events of some queries, by the events' ids."""
    async with places(1, partitions=4) as (found_place,):
        place = found_place._replace(also=NO_LIMITS)
        await work_off(place, CONTESTANTS[name], QUERIES, LIMIT_S)
        assert await asyncio.to_thread(problems_of, place, QUERIES) == []
        topics = place.topics.results, place.topics.stage_results
        messages = [
            one for topic in topics for one in await asyncio.to_thread(read_all, place.bootstrap, topic)
        ]
        found = [event(message, place) for message in messages]
    return {headers["ce_id"]: (value, headers) for value, headers in found}


@pytest.fixture(scope="module", autouse=True)
def _patience() -> Iterator[None]:
    """Let nothing time out in the other contestants either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_PATIENCE", "1000")
        yield


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """Return the events of the hand-written loop."""
    return asyncio.run(events_of(HANDWRITTEN))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in APART else name for name in OTHERS]
)
async def test_same_events(name: str, expected: dict[str, Any]) -> None:
    """Each contestant publishes the same values, ids, types and traces as the hand-written loop."""
    if (reason := CONTESTANTS[name].missing()) is not None:  # as where only `make test` was run
        pytest.skip(reason)
    found = await events_of(name)
    assert found.keys() == expected.keys()
    for event_id, (value, headers) in expected.items():
        assert found[event_id] == (value, headers)
