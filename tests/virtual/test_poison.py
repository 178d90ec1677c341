"""Poison pills, floods of them, duplicate queries and clock jumps, on the memory bus in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.ledger import PartitionKey
from fivestage.core.observer import Observer
from fivestage.core.records import Output
from fivestage.settings import Settings
from fivestage.testing import VirtualTimeLoop
from fivestage.testing.memory import TOPIC, MemoryBus
from fivestage_schemas import PipelineStatus

from . import samples
from .samples import EPOCH, KEY, FakeNode, ends, in_virtual_time, pipeline, query, statuses, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

OTHER = PartitionKey(TOPIC, 1)
TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT}-01"


def settings(**sections: Any) -> Settings:
    """Build settings with some sections changed."""
    return Settings.model_validate(sections)


async def finish(bus: MemoryBus, count: int) -> None:
    """Wait for this many terminal events; raises after a virtual timeout."""
    async with asyncio.timeout(60):
        await samples.finish(bus, count)


# Headers


async def headers_of_events(*headers: tuple[str, bytes]) -> list[dict[str, bytes]]:
    """Return the headers on the events of a query with these headers."""
    async with MemoryBus(pipeline(echo=FakeNode())) as bus:
        bus.put(query("q"), headers=headers)
        await finish(bus, 1)
    assert statuses(bus) == {"success": 1}
    return [dict(record.headers) for record in bus.sink.records]


BAD_TRACEPARENTS = {
    "empty": "",
    "a word": "yes",
    "cut": TRACEPARENT[:-1],
    "longer": TRACEPARENT + "-00",
    "a version in capitals": "CC" + TRACEPARENT[2:],
    "version ff": "ff" + TRACEPARENT[2:],
    "capitals": TRACEPARENT.upper(),
    "zero trace": f"00-{'0' * 32}-{PARENT}-01",
    "zero parent": f"00-{TRACE_ID}-{'0' * 16}-01",
    "not hexadecimal": TRACEPARENT.replace("4bf9", "xyz9"),
    "line end": TRACEPARENT + "\n",
    "line in front": "\n" + TRACEPARENT,
    "digits of another script": TRACEPARENT.replace("4", "\u0664"),
    "1 MB": TRACEPARENT * 20_000,
}


@pytest.mark.fault(31)
@pytest.mark.parametrize("traceparent", BAD_TRACEPARENTS.values(), ids=BAD_TRACEPARENTS)
async def test_an_invalid_traceparent_is_ignored(traceparent: str) -> None:
    """Without a tracer the events of a query with an invalid traceparent have no trace."""
    for headers in await headers_of_events(("traceparent", traceparent.encode()), ("tracestate", b"a=1")):
        assert TRACE_ID.encode() not in headers.get("traceparent", b"")
        assert "tracestate" not in headers


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("tracestate", "kept"),
    [
        (b"a=1,b=2", b"a=1,b=2"),
        (b"a=" + b"x" * 200, b"a=" + b"x" * 200),
        (b"a=" + b"x" * 511, None),
        (b",".join(b"k%d=1" % number for number in range(33)), None),
        (b"a=1\r\nx-admin: yes", None),
        (b"\xff", None),
        (b"", None),
    ],
    ids=["two", "long", "513 characters", "33 members", "line end", "no text", "empty"],
)
async def test_tracestate_is_bounded(tracestate: bytes, kept: bytes | None) -> None:
    """A valid tracestate is passed on; one beyond the limits is dropped, and the trace continues."""
    for headers in await headers_of_events(("traceparent", TRACEPARENT.encode()), ("tracestate", tracestate)):
        assert headers["traceparent"].split(b"-")[1] == TRACE_ID.encode()
        assert headers.get("tracestate") == kept


@pytest.mark.fault(31)
async def test_foreign_headers_are_not_forwarded() -> None:
    """Baggage, authorization, the service's own names and 10,000 others appear on no event."""
    foreign = {
        "baggage": b"user=7",
        "authorization": b"x",
        "status": b"success",
        "ce_type": b"y",
        "dlq.reason": b"z",
    }
    many = [(f"x-{number}", b"1") for number in range(10_000)]
    for headers in await headers_of_events(*foreign.items(), *many):
        assert not {"baggage", "authorization", "dlq.reason"} & headers.keys()
        assert headers["ce_type"].startswith(b"fivestage.")
        assert len(headers) < 16


@pytest.mark.fault(29, 31)
async def test_a_dead_letter_of_a_record_with_huge_headers() -> None:
    """A dead letter keeps its record's bytes and bounded headers, so that it fits where the record did."""
    async with MemoryBus(pipeline()) as bus:
        headers = [("ce_big", b"x" * 1_000_000), ("lane", b"a")] + [("ce_n", b"1")] * 10_000
        bus.put(b"{", headers=headers)
        await bus.sink.published()
    [letter] = bus.sink.records
    assert (letter.output, letter.value) == (Output.DEAD_LETTERS, b"{")
    assert len(letter.headers) == 6 + 63
    assert letter.size < 5000


# Floods


async def acknowledged(bus: MemoryBus) -> None:
    """Wait until nothing is in flight."""
    assert await bus.dispatcher.progress.wait_until(lambda: bus.dispatcher.in_flight == 0, 5)


@pytest.mark.fault(29)
async def test_a_flood_of_poison_halts_its_partition() -> None:
    """A partition halts after a limit of dead letters and commits nothing beyond; the others go on."""
    limits = settings(dlq={"max_consecutive": 3})
    async with MemoryBus(pipeline(echo=FakeNode()), settings=limits, partitions=2) as bus:
        bus.put(query("a"))
        for _ in range(10):
            bus.put(b"{")
        bus.put(query("b"))
        bus.put(query("c"), partition=1)
        await finish(bus, 2)
        await acknowledged(bus)
        assert bus.ledger.committable() == {KEY: 4, OTHER: 1}
        assert bus.ledger.within_span() == [OTHER]
        bus.put(query("d"), partition=1)
        await finish(bus, 3)
    assert ends(bus) == {b"a": 1, b"c": 1, b"d": 1}
    assert len(bus.sink.of(Output.DEAD_LETTERS)) == 3


@pytest.mark.fault(29)
async def test_a_flood_by_ratio() -> None:
    """Half of the records unreadable are accepted, more halt the partition."""
    limits = settings(dlq={"max_consecutive": 0, "max_ratio": 0.5, "window": 10})
    async with MemoryBus(pipeline(echo=FakeNode()), settings=limits) as bus:
        for number in range(20):
            bus.put(query(f"q{number}"))
            bus.put(b"{")
        for _ in range(20):
            bus.put(b"{")
        await finish(bus, 20)
        await acknowledged(bus)
        assert bus.ledger.committable() == {KEY: 40}
    assert len(bus.sink.of(Output.DEAD_LETTERS)) == 20


# Duplicate queries


@pytest.mark.fault(28)
@given(places=st.lists(st.integers(0, 2), min_size=2, max_size=12), same=st.sets(st.integers(0, 11)))
def test_copies_of_a_query_have_different_event_ids(places: list[int], same: set[int]) -> None:
    """Copies of a query in any partitions all finish, each with its own event ids."""

    async def scenario() -> MemoryBus:
        async with MemoryBus(pipeline(echo=FakeNode(0.01)), partitions=3) as bus:
            for number, partition in enumerate(places):
                bus.put(query("same" if number in same else f"q{number}"), partition=partition)
            await finish(bus, len(places))
            await acknowledged(bus)
            assert sum(bus.ledger.committable().values()) == len(places)
        return bus

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        bus = runner.run(scenario())
    records = {(result.source.partition, result.source.offset) for result in bus.results() if result.source}
    assert len(records) == len(bus.results()) == len(places)
    ids = Counter(dict(record.headers)["ce_id"] for record in bus.sink.records)
    assert set(ids.values()) == {1}
    for record in bus.sink.of(Output.RESULTS):
        source = orjson.loads(record.value or b"")["source"]
        coordinates = f"{source['topic']}/{source['partition']}/{source['offset']}"
        assert dict(record.headers)["ce_id"].decode() == f"{coordinates}/result"


# Clocks


class Skews(Observer):
    """Counts timestamps in the future."""

    def __init__(self) -> None:
        self.count = 0

    def clock_skewed(self) -> None:
        self.count += 1


@pytest.mark.fault(19)
@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
async def test_a_jump_of_the_wall_clock_moves_no_running_deadline(jump_s: float) -> None:
    """A jump of the wall clock moves no deadline of running or later queries."""
    app = pipeline(quick=FakeNode(0.05, intents={"quick"}), deaf=FakeNode(10, deaf=True, intents={"deaf"}))
    async with MemoryBus(app) as bus:
        in_virtual_time(bus)
        clock = asyncio.get_running_loop().time
        started = clock()
        bus.put(query("running", "deaf"), timestamp=timestamp())
        bus.put(query("fine", "quick"), timestamp=timestamp())
        await asyncio.sleep(0.02)
        bus.dispatcher._screening.wall_clock = lambda: EPOCH + clock() + jump_s
        bus.put(query("after", "quick"), timestamp=timestamp())
        await finish(bus, 3)
        assert clock() - started < 0.26
    results = {result.query_id: result for result in bus.results()}
    assert {name: str(result.status) for name, result in results.items()} == {
        "running": "timeout",
        "fine": "success",
        "after": "success",
    }
    assert results["fine"].metrics.total_duration_ms == pytest.approx(50)
    assert results["after"].metrics.total_duration_ms == pytest.approx(50)


@pytest.mark.fault(19)
@pytest.mark.parametrize("ahead_s", [0.05, 60, 3600, 10_000_000])
async def test_a_timestamp_in_the_future_extends_nothing(ahead_s: float) -> None:
    """A timestamp in the future counts as age 0, its ttl runs from now, and it is counted."""
    skews = Skews()
    limits = settings(admission={"query_ttl_ms": 100})
    async with MemoryBus(pipeline(slow=FakeNode(10)), settings=limits, observer=skews) as bus:
        in_virtual_time(bus)
        started = asyncio.get_running_loop().time()
        bus.put(query("q"), timestamp=round((EPOCH + started + ahead_s) * 1000))
        await finish(bus, 1)
        assert asyncio.get_running_loop().time() - started == pytest.approx(0.1, abs=0.001)
    [result] = bus.results()
    assert (result.status, result.metrics.queue_ms) == (PipelineStatus.TIMEOUT, 0)
    assert skews.count == 1


@pytest.mark.fault(19)
@pytest.mark.parametrize("wall", [lambda: 0.0, lambda: -1e9, lambda: 253402300799.0], ids=["0", "<0", "9999"])
async def test_a_wrong_wall_clock(wall: Callable[[], float]) -> None:
    """A relative budget holds with any wall clock; events are stamped with the clock's time."""
    async with MemoryBus(pipeline(echo=FakeNode())) as bus:
        bus.dispatcher._screening.wall_clock = wall
        bus.put(query("q", budget_ms=100), timestamp=timestamp())
        await finish(bus, 1)
    assert statuses(bus) == {"success": 1}


# Any mix of records


@pytest.mark.fault(29)
@given(
    values=st.lists(
        st.none()
        | st.binary(max_size=60)
        | st.sampled_from([b"{", b'{"query_id":"x"}', b'{"query_id":"x","user_input":7}', query("ok")]),
        max_size=25,
    )
)
def test_each_record_ends_once(values: list[bytes | None]) -> None:
    """Each record has a dead letter, a result, or both where the id is known; everything is committed."""

    async def scenario() -> MemoryBus:
        async with MemoryBus(pipeline(echo=FakeNode())) as bus:
            for value in values:
                bus.put(value)
            async with asyncio.timeout(60):
                while sum(bus.ledger.committable().values()) < len(values):
                    await asyncio.sleep(0.01)
        return bus

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        bus = runner.run(scenario())
    published: dict[int, set[str]] = defaultdict(set)
    for record in bus.sink.records:
        headers = dict(record.headers)
        offset = headers.get("dlq.offset") or headers["ce_id"].split(b"/")[2]
        published[int(offset)].add(str(record.output))
        if record.output is Output.DEAD_LETTERS:
            assert record.value == values[int(offset)]
    assert published.keys() == set(range(len(values)))
    assert all(published[offset] & {"results", "dead_letters"} for offset in published)
